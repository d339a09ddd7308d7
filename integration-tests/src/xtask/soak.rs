//! `cargo xtask soak`: guests whose memory is taken, given back and moved for a long time in lab hosts, by numavisor or by
//! QEMU, under the emulator of the tests or another; and a table of what became of them.

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::artifacts::Artifacts;
use super::boot;
use crate::image::emulator::Variant;
use crate::lab::job::{Event, Job, Monitor, Pressure, Soak};
use crate::lab::machine::{self, Images, Pace};
use crate::lab::shape::{COUNTED, HostShape};
use crate::runner::soak::Outcome;

/// What to run, for how long.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// End after so many rounds of taking, moving and giving back, in all lab hosts together
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    rounds: u64,
    /// End after so many minutes
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Rounds of one guest; then the next is started
    #[arg(long, default_value_t = 50)]
    rounds_of_guest: u64,
    /// What runs the guests
    #[arg(long, value_enum, default_value = "numavisor")]
    monitor: Monitor,
    /// Only move memory
    #[arg(long)]
    no_balloon: bool,
    /// How much of a guest's free memory is taken: some, or more than there is
    #[arg(long, value_enum, default_value = "high")]
    pressure: Pressure,
    /// Another emulator than that of the tests, in words: `fault` (its known fault is left in), `installed` (the installed
    /// QEMU), `thread=single`, `kicked` (its CPUs are interrupted all the time for nothing), `cpu:FLAG`, `host:WORD`
    #[arg(long, value_name = "WORD")]
    emulator: Vec<String>,
    /// vCPUs of each guest
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// The lab host of this name; `counted` has one CPU
    #[arg(long, default_value = "two")]
    host: String,
    /// Lab hosts at a time
    #[arg(long, default_value_t = 1)]
    hosts: usize,
    /// Write down what the lab hosts' KVM does, and show the end of it for guests that die: that takes time
    #[arg(long)]
    trace: bool,
}

/// Runs it, and prints the table.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let variant = Variant::parse(&options.emulator)?;
    ensure!(options.cpus > 0 && options.hosts > 0, "--cpus and --hosts: at least 1");
    let shape = if options.host == COUNTED.name { &COUNTED } else { boot::shape(Some(&options.host), None)? };
    let artifacts = Artifacts::make()?;
    let artifacts = if options.monitor == Monitor::Qemu { artifacts.with_rival()? } else { artifacts };
    let mut images = artifacts.images()?;
    images.emulator.vary(variant);
    let (until, sum) =
        (Instant::now() + Duration::from_secs(options.minutes * 60), Mutex::new(Sum::default()));
    thread::scope(|scope| {
        for host in 0..options.hosts {
            let (images, sum) = (&images, &sum);
            scope.spawn(move || soak(images, shape, options, host, until, sum));
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{sum}");
    Ok(if sum.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One lab host after the other, as long as there is time.
fn soak(
    images: &Images,
    shape: &HostShape,
    options: &Options,
    host: usize,
    until: Instant,
    sum: &Mutex<Sum>,
) {
    let lock = || sum.lock().unwrap_or_else(PoisonError::into_inner);
    let hear = |line: &str| match Event::parse(line) {
        Some(Event::Bench(outcome)) => match serde_json::from_value::<Outcome>(outcome) {
            Ok(outcome) => lock().add(&outcome),
            Err(error) => println!("host {host}: {error}"),
        },
        Some(_) => {}
        None => println!("host {host}: {line}"),
    };
    for number in 0.. {
        let left = until.saturating_duration_since(Instant::now()).as_secs();
        let rounds = options.rounds.saturating_sub(lock().rounds);
        if left == 0 || rounds == 0 {
            return;
        }
        let job = Job::Soak(Soak {
            rounds,
            seconds: left,
            rounds_of_guest: options.rounds_of_guest,
            monitor: options.monitor,
            balloon: !options.no_balloon,
            pressure: options.pressure,
            vcpus: options.cpus,
            trace: options.trace,
        });
        let label = format!("{}-{host}-{number}", job.label(shape));
        // The last guest may take its time to end.
        let pace = Pace::wall(left + LAST_GUEST_SECONDS);
        if let Err(error) = machine::run(images, shape, &job, &label, pace, hear) {
            println!("host {host}: {error:#}");
            let how = machine::fault(&error)
                .map_or_else(|| error.root_cause().to_string(), |fault| fault.to_string());
            *lock().hosts.entry(how).or_default() += 1;
            // Whatever it is, it must not go round in circles.
            thread::sleep(Duration::from_secs(1));
        }
    }
}

/// For the last round and power-off of a guest whose time is over.
const LAST_GUEST_SECONDS: u64 = 300;

/// What became of all guests.
#[derive(Debug, Default)]
struct Sum {
    guests: u64,
    rounds: u64,
    looked: u64,
    wrong: u64,
    /// Guests that died, and lab hosts, by how they did.
    deaths: BTreeMap<String, u64>,
    hosts: BTreeMap<String, u64>,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.guests += 1;
        self.rounds += outcome.rounds;
        self.looked += outcome.looked;
        self.wrong += outcome.wrong;
        if let Some(death) = &outcome.death {
            *self.deaths.entry(death.clone()).or_default() += 1;
        }
    }

    fn is_clean(&self) -> bool {
        self.wrong == 0 && self.deaths.is_empty() && self.hosts.is_empty() && self.guests > 0
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(to, "guests                 {}", self.guests)?;
        writeln!(to, "rounds                 {}", self.rounds)?;
        writeln!(to, "pages looked at        {}", self.looked)?;
        write!(to, "pages that changed     {}", self.wrong)?;
        for (what, by_kind) in [("guests that died", &self.deaths), ("lab hosts that ended", &self.hosts)] {
            write!(to, "\n{what:<22} {}", by_kind.values().sum::<u64>())?;
            for (kind, count) in by_kind {
                write!(to, "\n  {count:>4} {kind}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Sum;
    use crate::runner::soak::Outcome;

    #[test]
    fn the_table_counts_deaths_by_how_they_came() {
        let mut sum = Sum::default();
        assert!(!sum.is_clean(), "nothing ran");
        sum.add(&Outcome { rounds: 50, looked: 1000, wrong: 0, death: None });
        assert!(sum.is_clean());
        for death in ["guest crashed", "guest busy and silent", "guest crashed"] {
            sum.add(&Outcome { rounds: 3, looked: 10, wrong: 0, death: Some(death.to_owned()) });
        }
        sum.hosts.insert("lab host silent".to_owned(), 1);
        assert!(!sum.is_clean());
        assert_eq!(
            sum.to_string(),
            "guests                 4\n\
             rounds                 59\n\
             pages looked at        1030\n\
             pages that changed     0\n\
             guests that died       3\n     \
                1 guest busy and silent\n     \
                2 guest crashed\n\
             lab hosts that ended   1\n     \
                1 lab host silent"
        );
    }

    #[test]
    fn a_corruption_is_not_clean() {
        let mut sum = Sum::default();
        sum.add(&Outcome { rounds: 50, looked: 1000, wrong: 1, death: None });
        assert!(!sum.is_clean());
    }
}
