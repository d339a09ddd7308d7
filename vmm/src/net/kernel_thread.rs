//! The kernel's threads that serve queues in place of ours (vhost): each is named after the thread that asked for it,
//! and runs where that one runs. Since Linux 6.4 it inherits that and is a thread of this process; before, it is the
//! kernel's own, begins anywhere, and only root may put it elsewhere.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, gettid};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The parent of the kernel's own threads, `kthreadd`.
const KERNEL: &str = "2";

/// There are, or were, such threads: else nobody needs to look for them.
static IN_USE: AtomicBool = AtomicBool::new(false);

/// Has the threads that serve in this thread's place run where it runs.
pub fn join_me() {
    IN_USE.store(true, Ordering::Release);
    match sched_getaffinity(Pid::from_raw(0)) {
        Ok(cpus) => follow(&[gettid()], &cpus),
        Err(error) => tracing::warn!(%error, "cannot pin vhost thread"),
    }
}

/// Has the threads that serve in the place of `workers` run on `cpus`.
pub fn follow(workers: &[Pid], cpus: &CpuSet) {
    if !IN_USE.load(Ordering::Acquire) {
        return;
    }
    let found = named_after(workers, Path::new("/proc"));
    for thread in found.unwrap_or_default() {
        if let Err(error) = sched_setaffinity(thread, cpus) {
            // Where it runs changes how fast it is, not what it does.
            tracing::warn!(%error, %thread, "cannot pin vhost thread; Linux before 6.4 requires CAP_SYS_NICE");
        }
    }
}

/// Threads of this process, or where it has none those of the kernel, that are called after one of `workers`. Others may call
/// theirs what they like.
fn named_after(workers: &[Pid], proc: &Path) -> io::Result<Vec<Pid>> {
    let names: Vec<String> = workers.iter().map(|worker| format!("vhost-{worker}")).collect();
    let is_one = |at: &Path| {
        let name = fs::read_to_string(at.join("comm")).unwrap_or_default();
        names.iter().any(|one| one == name.trim_end())
    };
    let own = numbered(&proc.join("self/task"))?;
    let own: Vec<Pid> = own.into_iter().filter(|(_, at)| is_one(at)).map(|(id, _)| id).collect();
    if !own.is_empty() {
        return Ok(own);
    }
    let kernels = match fs::read_to_string(proc.join(KERNEL).join("task").join(KERNEL).join("children")) {
        Ok(children) => {
            let child = |word: &str| Some((Pid::from_raw(word.parse().ok()?), proc.join(word)));
            children.split_whitespace().filter_map(child).collect()
        }
        // Not every kernel lists them (CONFIG_PROC_CHILDREN).
        Err(_) => numbered(proc)?,
    };
    Ok(kernels.into_iter().filter(|(_, at)| is_one(at) && is_kernels(at)).map(|(id, _)| id).collect())
}

/// The entries of a directory of `/proc` that are processes or threads.
fn numbered(at: &Path) -> io::Result<Vec<(Pid, PathBuf)>> {
    let number = |entry: fs::DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()));
    let all = fs::read_dir(at)?.flatten().filter_map(number);
    Ok(all.map(|(id, path)| (Pid::from_raw(id), path)).collect())
}

/// `ID (NAME) STATE PARENT ...`, and names may have parentheses of their own; see proc(5).
fn is_kernels(at: &Path) -> bool {
    let stat = fs::read_to_string(at.join("stat")).unwrap_or_default();
    stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)) == Some(KERNEL)
}

#[cfg(test)]
mod tests {
    use super::named_after;
    use nix::unistd::Pid;
    use std::fs;
    use std::path::Path;

    fn add(proc: &Path, at: &str, name: &str, parent: &str) {
        let at = proc.join(at);
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join("comm"), format!("{name}\n")).unwrap();
        fs::write(at.join("stat"), format!("80 (a) b) S {parent} 0 0")).unwrap();
    }

    #[test]
    fn only_threads_of_this_process_or_else_of_the_kernel_are_found() {
        let proc = tempfile::tempdir().unwrap();
        let found = || named_after(&[Pid::from_raw(70)], proc.path()).unwrap();
        for (at, name, parent) in [
            ("self/task/72", "vhost-700", "1"),
            ("80", "vhost-70", "2"),
            ("81", "vhost-70", "1"),
            ("82", "vhost-7", "2"),
            ("fs", "vhost-70", "2"),
        ] {
            add(proc.path(), at, name, parent);
        }
        assert_eq!(found(), [Pid::from_raw(80)]);
        // Where the kernel lists its own, nothing else is looked at.
        add(proc.path(), "83", "vhost-70", "2");
        fs::create_dir_all(proc.path().join("2/task/2")).unwrap();
        fs::write(proc.path().join("2/task/2/children"), "82 83 ").unwrap();
        assert_eq!(found(), [Pid::from_raw(83)]);
        add(proc.path(), "self/task/71", "vhost-70", "1");
        assert_eq!(found(), [Pid::from_raw(71)]);
    }
}
