//! `/proc` entries of this process and its threads.

use std::time::Duration;

/// The CPU that a thread ran on last (`processor`, field 39 of `proc_pid_stat(5)`).
pub fn ran_on(thread: i32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).ok()?;
    field(&stat, 39)
}

/// A field of `proc_pid_stat(5)`, by its number there.
fn field<T: std::str::FromStr>(stat: &str, number: usize) -> Option<T> {
    // The second field is a name in parentheses and may have anything in it; the third is the first after it.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// What a thread did of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ran {
    /// It ran.
    pub on_cpu: Duration,
    /// It could have, and waited for a CPU.
    pub waited: Duration,
}

/// What a thread of this process did; `None` where the kernel counts nothing.
pub fn ran(thread: impl std::fmt::Display) -> Option<Ran> {
    schedstat(&std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?)
}

/// Nanoseconds on a CPU and on a run queue (Linux' sched-stats.rst).
fn schedstat(text: &str) -> Option<Ran> {
    let mut fields = text.split_whitespace().map_while(|field| field.parse().ok().map(Duration::from_nanos));
    Some(Ran { on_cpu: fields.next()?, waited: fields.next()? })
}

/// The threads of this process: what each is called, and did.
pub fn threads() -> Vec<(String, Ran)> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let one = |task: std::fs::DirEntry| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        Some((name.trim_end().to_owned(), ran(task.file_name().to_str()?)?))
    };
    tasks.filter_map(one).collect()
}

/// This process as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Clock ticks that its threads ran.
    pub cpu_ticks: u64,
    /// Clock ticks from the host's boot to its start.
    pub started_ticks: u64,
    /// How many threads.
    pub threads: u64,
    /// Bytes of addresses.
    pub virtual_bytes: u64,
    /// Pages in memory.
    pub resident_pages: u64,
}

/// What `/proc/self/stat` says.
pub fn process() -> Option<Process> {
    of_process(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

fn of_process(stat: &str) -> Option<Process> {
    let (user, system): (u64, u64) = (field(stat, 14)?, field(stat, 15)?);
    Some(Process {
        cpu_ticks: user.saturating_add(system),
        threads: field(stat, 20)?,
        started_ticks: field(stat, 22)?,
        virtual_bytes: field(stat, 23)?,
        resident_pages: field(stat, 24)?,
    })
}

/// When the host booted, in seconds since 1970.
pub fn booted() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::{Process, Ran, field, of_process, process, ran, ran_on, schedstat, threads};
    use std::time::Duration;

    fn stat() -> String {
        let fields: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        format!("7 (vcpu ) 0) S {}", fields.join(" "))
    }

    #[test]
    fn fields_are_found_after_any_name() {
        assert_eq!(field(&stat(), 39), Some(39_u32));
        assert_eq!(field::<u32>("7 (x) S 1", 39), None);
        assert!(ran_on(nix::unistd::gettid().as_raw()).is_some());
        assert_eq!(ran_on(-1), None);
        let expected = Process {
            cpu_ticks: 14 + 15,
            threads: 20,
            started_ticks: 22,
            virtual_bytes: 23,
            resident_pages: 24,
        };
        assert_eq!(of_process(&stat()), Some(expected));
        assert!(process().unwrap().resident_pages > 0);
    }

    #[test]
    fn a_thread_has_time_that_it_ran_and_waited() {
        let (on_cpu, waited) = (Duration::from_nanos(12), Duration::from_secs(3));
        assert_eq!(schedstat("12 3000000000 7\n"), Some(Ran { on_cpu, waited }));
        assert_eq!((schedstat(""), schedstat("1")), (None, None));
        assert_eq!(ran(-1), None);
        let named = std::thread::Builder::new().name("named".to_owned());
        named.spawn(|| assert!(threads().iter().any(|(name, _)| name == "named"))).unwrap().join().unwrap();
    }
}
