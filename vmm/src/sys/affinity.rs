//! Where threads may run. Which CPUs these are is decided elsewhere.

use super::errno::HostError;
use nix::sched::{CpuSet as KernelCpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use resources::{CpuSet, PcpuId};

/// A set of CPUs as the kernel takes it.
pub fn kernel_cpus(cpus: &CpuSet) -> Result<KernelCpuSet, HostError> {
    let mut set = KernelCpuSet::new();
    for cpu in cpus.iter() {
        set.set(cpu.index())
            .map_err(|e| HostError::new("sched_setaffinity", e).of(format!("CPUs {cpus}")))?;
    }
    Ok(set)
}

/// Lets a thread run on `cpus` only; `Pid` 0 is this one.
pub fn set_affinity(thread: Pid, cpus: &CpuSet) -> Result<(), HostError> {
    let set = kernel_cpus(cpus)?;
    sched_setaffinity(thread, &set)
        .map_err(|e| HostError::new("sched_setaffinity", e).of(format!("CPUs {cpus}")))
}

/// Where a thread may run; `Pid` 0 is this one.
pub fn affinity(thread: Pid) -> Result<CpuSet, HostError> {
    let set = sched_getaffinity(thread).map_err(|e| HostError::new("sched_getaffinity", e))?;
    let cpus = (0..).take(KernelCpuSet::count()).map(PcpuId);
    Ok(cpus.filter(|cpu| set.is_set(cpu.index()).unwrap_or(false)).collect())
}

/// Lets this thread run on `cpus` only.
pub fn pin_this_thread(cpus: &CpuSet) -> Result<(), HostError> {
    set_affinity(Pid::from_raw(0), cpus)
}

#[cfg(test)]
mod tests {
    use super::{affinity, pin_this_thread, set_affinity};
    use nix::unistd::Pid;
    use resources::CpuSet;

    #[test]
    fn a_thread_may_run_where_it_was_told_to_and_stays_where_it_was_if_that_is_refused() {
        let this = Pid::from_raw(0);
        let one = CpuSet::one(affinity(this).unwrap().first().unwrap());
        pin_this_thread(&one).unwrap();
        let refused = set_affinity(this, &"1023".parse().unwrap()).unwrap_err();
        assert_eq!((refused.errno(), affinity(this).unwrap()), (libc::EINVAL, one));
    }
}
