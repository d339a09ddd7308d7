//! `-smp`: the number of CPUs, and the socket, die and core of each, for `-numa cpu` and for QEMU's default
//! distribution.

use crate::formats::Refusal;
use crate::formats::notes::Notes;
use crate::formats::qemu::options::Options;
use resources::topology::MAX_VCPUS;
use resources::{VcpuId, VcpuSet};

/// How many of each in the one above it, CPUs numbered threads first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smp {
    sockets: u32,
    dies: u32,
    cores: u32,
    threads: u32,
}

/// A CPU, or all within what is named.
#[derive(Debug, Default)]
pub struct Place {
    /// Of the machine.
    pub socket: Option<u32>,
    /// Of the socket.
    pub die: Option<u32>,
    /// Of the die.
    pub core: Option<u32>,
    /// Of the core.
    pub thread: Option<u32>,
}

impl Default for Smp {
    fn default() -> Self {
        Self { sockets: 1, dies: 1, cores: 1, threads: 1 }
    }
}

impl Smp {
    /// Reads the option and works out what it does not say: cores come before sockets, but for machine types of QEMU
    /// up to 6.1, where `sockets_first`.
    pub fn read(mut options: Options, sockets_first: bool, notes: &mut Notes) -> Result<Self, Refusal> {
        let mut part = |key: &str| -> Result<Option<u32>, Refusal> {
            match options.number(key)? {
                Some(0) => Err(options.refuse(key, "0 is too small, must be at least 1")),
                part => Ok(part),
            }
        };
        let (cpus, most) = (part("cpus")?, part("maxcpus")?);
        let (sockets, dies, threads) = (part("sockets")?, part("dies")?.unwrap_or(1), part("threads")?);
        // Between a die and its cores; nothing here is told about them.
        let between = part("clusters")?.unwrap_or(1).checked_mul(part("modules")?.unwrap_or(1));
        let cores = match (part("cores")?, between) {
            (cores, Some(1)) => cores,
            (cores, between) => match between.and_then(|between| between.checked_mul(cores.unwrap_or(1))) {
                Some(cores) => Some(cores),
                None => return Err(options.refuse("clusters", format_args!("more than {MAX_VCPUS} CPUs"))),
            },
        };
        let product = |sockets: u32, cores: u32, threads: u32| {
            [sockets, dies, cores, threads]
                .into_iter()
                .try_fold(1, u32::checked_mul)
                .filter(|n| *n <= MAX_VCPUS)
        };
        let smp = match most.or(cpus) {
            None => Self {
                sockets: sockets.unwrap_or(1),
                dies,
                cores: cores.unwrap_or(1),
                threads: threads.unwrap_or(1),
            },
            Some(total) => {
                let rest = |others: Option<u32>| total / others.unwrap_or(u32::MAX).max(1);
                match (sockets, cores) {
                    (None, cores) if sockets_first => {
                        let (cores, threads) = (cores.unwrap_or(1), threads.unwrap_or(1));
                        Self { sockets: rest(product(1, cores, threads)), dies, cores, threads }
                    }
                    (sockets, None) => {
                        let (sockets, threads) = (sockets.unwrap_or(1), threads.unwrap_or(1));
                        Self { sockets, dies, cores: rest(product(sockets, 1, threads)), threads }
                    }
                    (None, Some(cores)) => {
                        let threads = threads.unwrap_or(1);
                        Self { sockets: rest(product(1, cores, threads)), dies, cores, threads }
                    }
                    (Some(sockets), Some(cores)) => {
                        let threads = threads.unwrap_or_else(|| rest(product(sockets, cores, 1)));
                        Self { sockets, dies, cores, threads }
                    }
                }
            }
        };
        let all = product(smp.sockets, smp.cores, smp.threads);
        let Some(all) = all.filter(|all| (1..=MAX_VCPUS).contains(all)) else {
            return Err(options.refuse("cpus", format_args!("must be 1 to {MAX_VCPUS} CPUs in all")));
        };
        if let Some(total) = most.or(cpus).filter(|total| *total != all) {
            let what = format!("{total} CPUs are not {}", smp.shape());
            return Err(options.refuse(if most.is_some() { "maxcpus" } else { "cpus" }, what));
        }
        match cpus {
            Some(cpus) if cpus > all => {
                return Err(options.refuse("cpus", format_args!("{cpus} are more than all, {all}")));
            }
            Some(cpus) if cpus < all => {
                notes.at(options.line, "-smp cpus is ignored: the guest boots with all CPUs");
            }
            Some(_) | None => {}
        }
        options.leave_rest(notes);
        Ok(smp)
    }

    fn shape(&self) -> String {
        let Self { sockets, dies, cores, threads } = self;
        format!("{sockets} sockets of {dies} dies of {cores} cores of {threads} threads")
    }

    /// How many CPUs.
    pub fn cpus(&self) -> u32 {
        self.sockets * self.dies * self.cores * self.threads
    }

    /// All CPUs at a place.
    pub fn at(&self, place: &Place) -> VcpuSet {
        let within = |cpu: &u32| {
            let (thread, core) = (cpu % self.threads, cpu / self.threads);
            let (core, die) = (core % self.cores, core / self.cores);
            let (die, socket) = (die % self.dies, die / self.dies);
            let fits = |named: Option<u32>, is: u32| named.is_none_or(|named| named == is);
            fits(place.socket, socket)
                && fits(place.die, die)
                && fits(place.core, core)
                && fits(place.thread, thread)
        };
        (0..self.cpus()).filter(within).map(VcpuId).collect()
    }

    /// The node of a CPU when no node names any: sockets in turn.
    pub fn default_node(&self, cpu: u32, nodes: u32) -> u32 {
        cpu / (self.threads * self.cores * self.dies) % nodes.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, Smp};
    use crate::formats::notes::Notes;
    use crate::formats::qemu::options::Options;

    fn read_of(text: &str, sockets_first: bool) -> Result<(u32, u32, u32, u32), String> {
        let options = Options::read(1, "-smp", text, "cpus").unwrap();
        let smp = Smp::read(options, sockets_first, &mut Notes::default()).map_err(|why| why.to_string())?;
        Ok((smp.sockets, smp.dies, smp.cores, smp.threads))
    }

    fn read(text: &str) -> Result<(u32, u32, u32, u32), String> {
        read_of(text, false)
    }

    #[test]
    fn old_machine_types_have_sockets_first() {
        assert_eq!(read_of("4", true), Ok((4, 1, 1, 1)));
        assert_eq!(read_of("8,cores=2", true), Ok((4, 1, 2, 1)));
        assert_eq!(read_of("8,threads=2", true), Ok((4, 1, 1, 2)));
        assert_eq!(read_of("8,sockets=2", true), Ok((2, 1, 4, 1)));
    }

    #[test]
    fn clusters_and_modules_are_cores_here() {
        assert_eq!(read("8,sockets=1,clusters=2,cores=4"), Ok((1, 1, 8, 1)));
        assert_eq!(read("8,clusters=1,cores=4"), Ok((2, 1, 4, 1)));
        assert!(read("8,clusters=4294967295,modules=9").is_err());
    }

    #[test]
    fn what_is_not_said_is_worked_out() {
        assert_eq!(read("4"), Ok((1, 1, 4, 1)));
        assert_eq!(read("2,sockets=2,maxcpus=2"), Ok((2, 1, 1, 1)));
        assert_eq!(read("16,sockets=2,dies=2,threads=2"), Ok((2, 2, 2, 2)));
        assert_eq!(read("8,cores=2"), Ok((4, 1, 2, 1)));
        assert_eq!(read("8,sockets=2,cores=2"), Ok((2, 1, 2, 2)));
        assert_eq!(read("sockets=2,cores=3"), Ok((2, 1, 3, 1)));
        assert_eq!(read("1,maxcpus=4"), Ok((1, 1, 4, 1)));
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let shape = "sockets of 1 dies of 2 cores of 1 threads";
        assert_eq!(read("5,sockets=2,cores=2"), Err(format!("line 1: -smp cpus: 5 CPUs are not 2 {shape}")));
        assert_eq!(read("5,maxcpus=4"), Err("line 1: -smp cpus: 5 are more than all, 4".into()));
        assert_eq!(read("0"), Err("line 1: -smp cpus: 0 is too small, must be at least 1".into()));
        assert_eq!(read("5000"), Err("line 1: -smp cpus: must be 1 to 4096 CPUs in all".into()));
        assert_eq!(
            read("sockets=4294967295,cores=4294967295"),
            Err("line 1: -smp cpus: must be 1 to 4096 CPUs in all".into())
        );
    }

    #[test]
    fn places_name_cpus() {
        let smp = Smp { sockets: 2, dies: 1, cores: 2, threads: 2 };
        let at = |socket, core, thread| smp.at(&Place { socket, die: None, core, thread }).to_string();
        assert_eq!(at(Some(1), None, None), "4-7");
        assert_eq!(at(Some(0), Some(1), None), "2-3");
        assert_eq!(at(Some(1), Some(0), Some(1)), "5");
        assert_eq!(at(Some(2), None, None), "");
        assert_eq!((0..8).map(|cpu| smp.default_node(cpu, 2)).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 1, 1, 1]);
    }
}
