//! What `/proc` says of this process's threads.

/// The CPU that a thread ran on last (`processor`, field 39 of `proc_pid_stat(5)`).
pub fn ran_on(thread: i32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).ok()?;
    processor(&stat)
}

fn processor(stat: &str) -> Option<u32> {
    // The second field is a name in parentheses and may have anything in it; the third is the first after it.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(39 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{processor, ran_on};

    #[test]
    fn the_processor_is_found_after_any_name() {
        let fields: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        assert_eq!(processor(&format!("7 (vcpu ) 0) S {}", fields.join(" "))), Some(39));
        assert_eq!(processor("7 (x) S 1"), None);
        assert!(ran_on(nix::unistd::gettid().as_raw()).is_some());
        assert_eq!(ran_on(-1), None);
    }
}
