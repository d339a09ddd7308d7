//! The options of QEMU that say something of memory, CPUs, nodes and what is booted; all others are left out.

use crate::formats::Refusal;
use crate::formats::list::shown;
use crate::formats::notes::Notes;
use crate::formats::qemu::backend::{Backend, Backends, file_pages};
use crate::formats::qemu::numa::Numa;
use crate::formats::qemu::options::Options;
use crate::formats::qemu::smp::Smp;
use crate::formats::qemu::words::{Word, words};
use resources::spec::Switch;
use resources::{Bytes, OnReset, SerialSpec, VmSpec};

/// QEMU's own memory when it is not told: 128 MiB.
const DEFAULT_MEMORY: Bytes = Bytes::mib(128);

/// Options without a value that are as things are here, or make no difference.
const SILENT: [&str; 4] = ["enable-kvm", "nodefaults", "no-user-config", "nographic"];
/// Options with a value of that kind.
const SILENT_WITH_VALUE: [&str; 5] = ["name", "uuid", "accel", "display", "monitor"];
/// Options without a value among those that are left out, so that the word after them is not taken for one.
const FLAGS: [&str; 13] = [
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
    "preconfig",
    "usb",
    "mem-prealloc",
];

/// Everything understood so far.
#[derive(Default)]
struct Machine {
    spec: VmSpec,
    numa: Numa,
    smp: Smp,
    memory: Option<Bytes>,
    backends: Backends,
    /// `-machine memory-backend=`, and its line.
    backend: Option<(usize, String)>,
    prefault: bool,
    pages: Option<resources::PageSize>,
    serials: usize,
}

/// Reads a command line.
pub fn read(text: &str, notes: &mut Notes) -> Result<VmSpec, Refusal> {
    let words = words(text)?;
    let mut words = skip_program(&words, notes).iter().peekable();
    let mut machine = Machine::default();
    machine.spec.on_reset = OnReset::Reboot;
    while let Some(Word { line, text }) = words.next() {
        let Some(name) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')).filter(|n| !n.is_empty())
        else {
            notes.at(*line, format!("`{}` is left out", shown(text)));
            continue;
        };
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
                return Err(Refusal::at(*line, format_args!("-{name}: has no value, must have one")));
            }
            _ if SILENT_WITH_VALUE.contains(&name) => {}
            _ => notes.at(*line, format!("-{} is left out", shown(name))),
        }
    }
    machine.finish(notes)
}

fn is_known(name: &str) -> bool {
    let known = [
        "m", "smp", "numa", "object", "machine", "M", "kernel", "initrd", "append", "serial", "mem-path",
        "action",
    ];
    known.contains(&name)
}

/// What stands before the options: the program, and what runs it.
fn skip_program<'a>(words: &'a [Word], notes: &mut Notes) -> &'a [Word] {
    let options = words.iter().position(|word| word.text.starts_with('-')).unwrap_or(words.len());
    let is_qemu =
        |word: &Word| word.text.rsplit('/').next().is_some_and(|name| name.contains("qemu") || name == "kvm");
    let program = words.iter().position(is_qemu);
    match program {
        Some(program) => {
            let before =
                words[..program].iter().map(|word| word.text.as_str()).filter(|word| *word != "exec");
            let before: Vec<&str> = before.collect();
            if !before.is_empty() {
                notes.at(words[program].line, format!("`{}` is left out", shown(&before.join(" "))));
            }
            &words[program + 1..]
        }
        None => &words[options.min(1)..],
    }
}

impl Machine {
    fn option(&mut self, line: usize, name: &str, value: &str, notes: &mut Notes) -> Result<(), Refusal> {
        let options = |implied| Options::read(line, &format!("-{name}"), value, implied);
        match name {
            "m" => {
                let mut options = options("size")?;
                self.memory = options.size("size", 1 << 20)?;
                options.leave_rest(notes);
            }
            "smp" => self.smp = Smp::read(options("cpus")?, notes)?,
            "numa" => self.numa.option(options("type")?, notes)?,
            "object" => {
                if let Some((id, backend)) = Backend::read(options("qom-type")?, notes)?
                    && self.backends.insert(id.clone(), backend).is_some()
                {
                    let what = format!("-object id: `{}` is given twice, ids must differ", shown(&id));
                    return Err(Refusal::at(line, what));
                }
            }
            "machine" | "M" => self.machine(options("type")?, notes),
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

    fn machine(&mut self, mut options: Options, notes: &mut Notes) {
        if let Some(backend) = options.take("memory-backend") {
            self.backend = Some((options.line, backend));
        }
        // The kind of machine is ours; whether it has an HMAT follows from what is said of it.
        for key in ["type", "hmat", "accel"] {
            options.take(key);
        }
        options.leave_rest(notes);
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
            _ => notes.at(line, format!("-serial {} is left out", shown(value))),
        }
    }

    fn finish(mut self, notes: &mut Notes) -> Result<VmSpec, Refusal> {
        let backend = match &self.backend {
            None => None,
            Some((line, id)) => Some(self.backends.get(id).ok_or_else(|| {
                Refusal::at(*line, format_args!("-machine memory-backend: there is no `{}`", shown(id)))
            })?),
        };
        let memory = self.memory.or(backend.map(|backend| backend.size)).unwrap_or(DEFAULT_MEMORY);
        self.numa.finish(&mut self.spec, memory, &self.smp, &self.backends, notes)?;
        if let ([vnode], Some(backend)) = (self.spec.numa.as_mut_slice(), backend) {
            if backend.size != memory {
                let what =
                    format!("-m: {memory} but its memory backend has {}, must be the same", backend.size);
                return Err(Refusal::of(what));
            }
            backend.give(vnode);
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
