//! QEMU options for memory, CPUs, nodes and the kernel; all others are ignored.

use crate::formats::Refusal;
use crate::formats::list::shown;
use crate::formats::notes::Notes;
use crate::formats::qemu::backend::{Backend, Backends, file_pages};
use crate::formats::qemu::memory_device::MemoryDevice;
use crate::formats::qemu::numa::Numa;
use crate::formats::qemu::options::Options;
use crate::formats::qemu::smp::Smp;
use crate::formats::qemu::words::{Word, words};
use resources::spec::Switch;
use resources::{Bytes, OnReset, SerialSpec, VmSpec};
use std::collections::BTreeSet;

/// QEMU's own memory when it is not told: 128 MiB.
const DEFAULT_MEMORY: Bytes = Bytes::mib(128);

/// Options without a value that are as things are here, or make no difference.
const SILENT: [&str; 4] = ["enable-kvm", "nodefaults", "no-user-config", "nographic"];
/// Options with a value of that kind.
const SILENT_WITH_VALUE: [&str; 5] = ["name", "uuid", "accel", "display", "monitor"];
/// Options without a value among those that are ignored, so that the word after them is not taken for one.
const FLAGS: [&str; 12] = [
    "S",
    "s",
    "daemonize",
    "no-shutdown",
    "snapshot",
    "no-acpi",
    "no-hpet",
    "no-fd-bootchk",
    "full-screen",
    "only-migratable",
    "usb",
    "mem-prealloc",
];

/// Options that put a part of the machine where it cannot be read from here.
const ELSEWHERE: [(&str, &str); 2] = [
    ("readconfig", "may contain memory, CPUs and nodes, must be given as options"),
    ("preconfig", "CPUs and nodes may be set by QMP later, must be given as options"),
];
/// Options that only a machine of QEMU's has: where one stands before the program, the program is not given them as
/// they stand. `-m` is not among them: `numactl` has one.
const MACHINE: [&str; 8] =
    ["smp", "numa", "object", "machine", "device", "enable-kvm", "kernel", "readconfig"];

/// Everything understood so far.
#[derive(Default)]
struct Machine {
    spec: VmSpec,
    numa: Numa,
    /// `-smp`, `-m` and `-machine`: QEMU puts the keys of all of them together.
    smp: Option<Options>,
    memory: Option<Options>,
    machine: Option<Options>,
    backends: Backends,
    devices: Vec<MemoryDevice>,
    /// Backends that something names.
    used: BTreeSet<String>,
    prefault: bool,
    pages: Option<resources::PageSize>,
    serials: usize,
}

/// Reads a command line.
pub fn read(text: &str, notes: &mut Notes) -> Result<VmSpec, Refusal> {
    let words = words(text)?;
    let mut words = skip_program(&words, notes)?.iter().peekable();
    let mut machine = Machine::default();
    machine.spec.on_reset = OnReset::Reboot;
    while let Some(Word { line, text }) = words.next() {
        let Some(name) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')).filter(|n| !n.is_empty())
        else {
            if text.contains('$') || text.contains('`') {
                let what = format!(
                    "`{}`: a shell expands this to unknown options; use /proc/PID/cmdline",
                    shown(text)
                );
                return Err(Refusal::at(*line, what));
            }
            notes.at(*line, format!("`{}` is ignored", shown(text)));
            continue;
        };
        if let Some((name, why)) = ELSEWHERE.iter().find(|(elsewhere, _)| *elsewhere == name) {
            return Err(Refusal::at(*line, format_args!("-{name}: {why}")));
        }
        if SILENT.contains(&name) {
            continue;
        }
        if name == "no-reboot" {
            machine.spec.on_reset = OnReset::Exit;
            continue;
        }
        if name == "mem-prealloc" {
            machine.prefault = true;
            continue;
        }
        let takes = !FLAGS.contains(&name);
        let known = is_known(name);
        let value = words.next_if(|word| takes && (known || !word.text.starts_with('-')));
        match value {
            Some(value) if known => machine.option(*line, name, &value.text, notes)?,
            None if known => {
                return Err(Refusal::at(*line, format_args!("-{name}: a value is required")));
            }
            _ if SILENT_WITH_VALUE.contains(&name) => {}
            _ => notes.at(*line, format!("-{} is ignored", shown(name))),
        }
    }
    machine.finish(notes)
}

fn is_known(name: &str) -> bool {
    let known = [
        "m", "smp", "numa", "object", "device", "set", "machine", "M", "kernel", "initrd", "append",
        "serial", "mem-path", "action",
    ];
    known.contains(&name)
}

/// What stands before the options: the program, and what runs it.
fn skip_program<'a>(words: &'a [Word], notes: &mut Notes) -> Result<&'a [Word], Refusal> {
    let options = words.iter().position(|word| word.text.starts_with('-')).unwrap_or(words.len());
    let is_qemu =
        |word: &Word| word.text.rsplit('/').next().is_some_and(|name| name.contains("qemu") || name == "kvm");
    let program = words.iter().position(is_qemu);
    match program {
        Some(program) => {
            // In `args=(-smp 4` the first option is not a word of its own.
            let option = |word: &&Word| {
                let last = word.text.rsplit('(').next().unwrap_or_default();
                last.strip_prefix('-').is_some_and(|name| MACHINE.contains(&name.trim_start_matches('-')))
            };
            if let Some(early) = words[..program].iter().find(option) {
                let what = format!(
                    "`{}` comes before the program, as in a script that keeps options in a variable; \
                     give the words of /proc/PID/cmdline",
                    shown(&early.text)
                );
                return Err(Refusal::at(early.line, what));
            }
            let name = words[program].text.rsplit('/').next().unwrap_or_default();
            if let Some(arch) = name.strip_prefix("qemu-system-") {
                match arch {
                    "i386" => notes.at(words[program].line, "the guest's processor is x86_64, not i386"),
                    _ if arch.starts_with("x86_64") => {}
                    _ => {
                        let what = format!("{}: the guest must be x86_64", shown(name));
                        return Err(Refusal::at(words[program].line, what));
                    }
                }
            }
            let before =
                words[..program].iter().map(|word| word.text.as_str()).filter(|word| *word != "exec");
            let before: Vec<&str> = before.collect();
            if !before.is_empty() {
                notes.at(words[program].line, format!("`{}` is ignored", shown(&before.join(" "))));
            }
            Ok(&words[program + 1..])
        }
        None => Ok(&words[options.min(1)..]),
    }
}

/// Takes one more of an option whose keys QEMU puts together.
fn add(to: &mut Option<Options>, more: Options) -> Result<(), Refusal> {
    more.plain_only()?;
    match to {
        Some(options) => options.merge(more),
        None => *to = Some(more),
    }
    Ok(())
}

/// Whether CPUs that `-smp` does not place are sockets first: machine types of QEMU up to 6.1, by their names upstream
/// and in distributions.
fn has_sockets_first(machine_type: &str) -> bool {
    const OLD_NAMES: [&str; 14] = [
        "precise", "trusty", "utopic", "vivid", "wily", "xenial", "yakkety", "zesty", "artful", "bionic",
        "cosmic", "disco", "eoan", "focal",
    ];
    const LAST_OLD_NAMES: [&str; 3] = ["groovy", "hirsute", "impish"];
    let kind = machine_type.split('+').next().unwrap_or_default();
    let Some(version) = kind
        .strip_prefix("pc-")
        .map(|rest| rest.strip_prefix("i440fx-").or_else(|| rest.strip_prefix("q35-")).unwrap_or(rest))
    else {
        return false;
    };
    if let Some(rhel) = version.strip_prefix("rhel") {
        return rhel.starts_with(['6', '7', '8']);
    }
    if OLD_NAMES.iter().chain(&LAST_OLD_NAMES).any(|name| version.starts_with(name)) {
        return true;
    }
    let mut numbers = version.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), minor) => (major, minor.unwrap_or(0)) <= (6, 1),
        (None, _) => false,
    }
}

impl Machine {
    fn option(&mut self, line: usize, name: &str, value: &str, notes: &mut Notes) -> Result<(), Refusal> {
        let options = |implied| Options::read(line, &format!("-{name}"), value, implied);
        match name {
            "m" => add(&mut self.memory, options("size")?)?,
            "smp" => add(&mut self.smp, options("cpus")?)?,
            "numa" => self.numa.option(options("type")?, notes)?,
            "object" => {
                if let Some((id, backend)) = Backend::read(options("qom-type")?, notes)?
                    && self.backends.insert(id.clone(), backend).is_some()
                {
                    let what = format!("-object id: `{}` is given twice, ids must differ", shown(&id));
                    return Err(Refusal::at(line, what));
                }
            }
            "device" => {
                self.devices.extend(MemoryDevice::read(options("driver")?, &mut self.used, notes)?);
            }
            "set" => {
                let group = value.split('.').next().unwrap_or_default();
                if ["memory", "smp-opts", "numa", "object", "machine"].contains(&group) {
                    let what =
                        format!("-set {}: changes the machine, must be given as an option", shown(value));
                    return Err(Refusal::at(line, what));
                }
                notes.at(line, "-set is ignored");
            }
            "machine" | "M" => add(&mut self.machine, options("type")?)?,
            "kernel" => self.spec.kernel = Some(value.into()),
            "initrd" => self.spec.initramfs = Some(value.into()),
            "append" => self.spec.cmdline = Some(value.to_owned()),
            "serial" => self.serial(line, value, notes),
            "mem-path" => self.pages = file_pages(value, line, "-mem-path", notes),
            // -action
            _ => {
                let mut options = options("")?;
                if let Some(reboot) = options.take("reboot") {
                    self.spec.on_reset = if reboot == "shutdown" { OnReset::Exit } else { OnReset::Reboot };
                }
                options.leave_rest(notes);
            }
        }
        Ok(())
    }

    fn serial(&mut self, line: usize, value: &str, notes: &mut Notes) {
        self.serials += 1;
        let serial = match (value, value.strip_prefix("file:")) {
            ("stdio" | "mon:stdio", _) => Some(SerialSpec::Stdio),
            ("null" | "none", _) => Some(SerialSpec::None),
            (_, Some(path)) if !path.is_empty() => Some(SerialSpec::File(path.into())),
            _ => None,
        };
        match serial {
            Some(serial) if self.serials == 1 => self.spec.serial = serial,
            _ => notes.at(line, format!("-serial {} is ignored", shown(value))),
        }
    }

    fn finish(mut self, notes: &mut Notes) -> Result<VmSpec, Refusal> {
        let (mut kind, mut backend) = (None, None);
        if let Some(mut options) = self.machine.take() {
            kind = options.take("type");
            backend = options.take("memory-backend").map(|id| (options.line, id));
            // Which accelerator is ours; whether there is an HMAT follows from what is said of it.
            for key in ["hmat", "accel"] {
                options.take(key);
            }
            options.leave_rest(notes);
        }
        let smp = match self.smp.take() {
            Some(options) => Smp::read(options, kind.as_deref().is_some_and(has_sockets_first), notes)?,
            None => Smp::default(),
        };
        let mut named = None;
        if let Some(mut options) = self.memory.take() {
            named = options.size("size", 1 << 20)?;
            options.leave_rest(notes);
        }
        self.used.extend(self.numa.backends().cloned().chain(backend.iter().map(|(_, id)| id.clone())));
        for id in self.backends.keys().filter(|id| !self.used.contains(*id)) {
            notes.of(format!("-object `{}` is ignored: nothing uses its memory", shown(id)));
        }
        let backend = match &backend {
            None => None,
            Some((line, id)) => Some(self.backends.get(id).ok_or_else(|| {
                Refusal::at(*line, format_args!("-machine memory-backend: there is no `{}`", shown(id)))
            })?),
        };
        let memory = named.or(backend.map(|backend| backend.size)).unwrap_or(DEFAULT_MEMORY);
        self.numa.finish(&mut self.spec, memory, &smp, &self.backends, notes)?;
        if let ([vnode], Some(backend)) = (self.spec.numa.as_mut_slice(), backend) {
            if backend.size != memory {
                let what =
                    format!("-m: {memory} but its memory backend has {}, must be the same", backend.size);
                return Err(Refusal::of(what));
            }
            backend.give(vnode);
        }
        for device in &self.devices {
            // What no node says of itself is known before something is added to it.
            if let (Some(total), [vnode]) = (self.spec.memory, self.spec.numa.as_mut_slice()) {
                vnode.memory = Some(total);
                self.spec.memory = None;
            } else if self.spec.memory.is_some() {
                return Err(Refusal::of(
                    "-device: adds memory to a node, so all nodes must say how much they have",
                ));
            }
            device.give(&mut self.spec.numa, &self.backends, notes)?;
        }
        for vnode in &mut self.spec.numa {
            vnode.pages = vnode.pages.or(self.pages);
            if self.prefault {
                vnode.prefault = Some(Switch(true));
            }
        }
        Ok(self.spec)
    }
}
