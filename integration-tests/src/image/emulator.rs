//! The QEMU that emulates lab hosts: the installed one, or a newer one fetched with its libraries into the cache and
//! never installed; in both cases a copy without the fault that `emulator_fix` describes, where its code is known. And
//! what a soak changes about it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::apt::{Index, Private};
use super::emulator_fix;

/// Older ones lose interrupts: at each exit of a nested guest they clear a bit of the processor's pending requests by an
/// ordinary `and` (`svm_helper.c`), while another processor sets one beside it. A host processor then sleeps for ever, or
/// a guest waits for one that does. Before 8.1 they may also go on running code that has been written over.
const SOUND: (u32, u32) = (11, 0);
const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// A QEMU.
#[derive(Clone, Debug)]
pub(crate) struct Emulator {
    origin: Origin,
    /// The program without its fault.
    fixed: Option<PathBuf>,
    /// As a soak wants it.
    pub(crate) variant: Variant,
}

/// Where a QEMU is from.
#[derive(Clone, Debug)]
enum Origin {
    /// Of the machine.
    Installed,
    /// With all it needs, below a directory.
    Fetched(PathBuf),
}

/// How an emulator is run; by default as for tests.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Variant {
    /// The program as it came, with its fault.
    pub(crate) as_it_came: bool,
    /// The installed one, however old.
    pub(crate) installed: bool,
    /// One thread for all CPUs.
    pub(crate) one_thread: bool,
    /// Its CPUs are asked to leave their loops all the time, for nothing.
    pub(crate) kicked: bool,
    /// More flags of the processor model, each with a comma before it.
    pub(crate) cpu: String,
    /// More words for the host's kernel.
    pub(crate) cmdline: String,
}

impl Variant {
    /// From words as they are typed: `fault`, `installed`, `thread=single`, `kicked`, `cpu:-vgif`, `host:kvm_amd.vgif=0`.
    pub(crate) fn parse(words: &[String]) -> Result<Self> {
        let mut variant = Self::default();
        for word in words {
            match word.split_once(':') {
                None if word == "fault" => variant.as_it_came = true,
                None if word == "installed" => variant.installed = true,
                None if word == "thread=single" => variant.one_thread = true,
                None if word == "kicked" => variant.kicked = true,
                Some(("cpu", flag)) => variant.cpu.push_str(&format!(",{flag}")),
                Some(("host", words)) => variant.cmdline.push_str(&format!(" {words}")),
                _ => bail!(
                    "--emulator {word}: not one of fault, installed, thread=single, kicked, cpu:FLAG, host:WORD"
                ),
            }
        }
        Ok(variant)
    }
}

impl Emulator {
    /// The installed one if it is sound, else one of Debian's stable release in `cache`, else the installed one after all.
    pub(crate) fn find(cache: &Path) -> Result<Self> {
        let installed = Self::from(Origin::Installed);
        let version = installed.version()?;
        let emulator = if version >= SOUND {
            installed
        } else {
            Self::fetch(cache).unwrap_or_else(|error| {
                let (major, minor) = version;
                eprintln!("no newer QEMU, lab hosts may lock up under {major}.{minor}: {error:#}");
                installed
            })
        };
        Ok(emulator.with_fix(cache))
    }

    fn from(origin: Origin) -> Self {
        Self { origin, fixed: None, variant: Variant::default() }
    }

    fn fetch(cache: &Path) -> Result<Self> {
        let root = cache.join("qemu");
        let fetched = Self::from(Origin::Fetched(root.clone()));
        if fetched.version().is_ok_and(|version| version >= SOUND) {
            return Ok(fetched);
        }
        println!("fetching a newer QEMU and its libraries, for lab hosts");
        let _ = fs::remove_dir_all(&root);
        let [release, newer] = ["stable", "stable-backports"];
        Index::Private(Private::open_all(cache, &[release, newer])?).unpack_all(PACKAGE, newer, &root)?;
        let version = fetched.version()?;
        ensure!(version >= SOUND, "{newer} has {}.{}", version.0, version.1);
        Ok(fetched)
    }

    /// With a copy in the cache that lacks the fault, if its code is known.
    fn with_fix(mut self, cache: &Path) -> Self {
        let to = cache.join(format!("{PROGRAM}-fixed"));
        match write_fixed(&self.program(), &to) {
            Ok(()) => self.fixed = Some(to),
            Err(error) => eprintln!(
                "this QEMU keeps a fault by which guests die now and then, its code is not known: {error:#}"
            ),
        }
        self
    }

    /// Run as a soak wants it.
    pub(crate) fn vary(&mut self, variant: Variant) {
        if variant.installed {
            *self = Self::from(Origin::Installed);
        }
        self.variant = variant;
    }

    fn program(&self) -> PathBuf {
        let root = match &self.origin {
            Origin::Installed => Path::new("/"),
            Origin::Fetched(root) => root,
        };
        root.join("usr/bin").join(PROGRAM)
    }

    /// Major and minor; an error if it does not start.
    fn version(&self) -> Result<(u32, u32)> {
        let output = self.command().arg("--version").output().context(PROGRAM)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut numbers = text
            .split_whitespace()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
            .map(|version| version.split('.').filter_map(|part| part.parse().ok()))
            .with_context(|| format!("{PROGRAM}: {}", String::from_utf8_lossy(&output.stderr)))?;
        numbers.next().zip(numbers.next()).context("a version without numbers")
    }

    /// To start it with.
    pub(crate) fn command(&self) -> Command {
        let fixed = self.fixed.clone().filter(|_| !self.variant.as_it_came);
        let program = fixed.unwrap_or_else(|| self.program());
        let (root, mut command) = match &self.origin {
            Origin::Installed => (Path::new("/"), Command::new(program)),
            Origin::Fetched(root) => {
                let libraries = root.join(LIBRARIES);
                // Another release's program runs with that release's loader and C library.
                let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
                command.arg("--library-path").arg(&libraries).arg(program);
                (root.as_path(), command)
            }
        };
        command.env("QEMU_MODULE_DIR", root.join(LIBRARIES).join("qemu"));
        for directory in FIRMWARE {
            command.arg("-L").arg(root.join(directory));
        }
        command
    }
}

/// Writes the fixed program, if it is not what is there.
fn write_fixed(program: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("reading {}", program.display()))?;
    let fixed = emulator_fix::fixed(&bytes)?;
    if fs::read(to).is_ok_and(|there| there == fixed) {
        return Ok(());
    }
    let directory = to.parent().context("no directory")?;
    fs::create_dir_all(directory)?;
    // In one step: another may be running it.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&fixed)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o755))?;
    file.persist(to).map(|_| ()).with_context(|| format!("writing {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::Variant;

    #[test]
    fn words_make_a_variant() {
        let parse =
            |words: &[&str]| Variant::parse(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
        assert_eq!(parse(&[]).unwrap(), Variant::default());
        let all =
            ["fault", "installed", "thread=single", "kicked", "cpu:-vgif", "cpu:-smap", "host:kvm_amd.npt=0"];
        assert_eq!(
            parse(&all).unwrap(),
            Variant {
                as_it_came: true,
                installed: true,
                one_thread: true,
                kicked: true,
                cpu: ",-vgif,-smap".to_owned(),
                cmdline: " kvm_amd.npt=0".to_owned(),
            }
        );
        assert!(parse(&["thread=multi"]).unwrap_err().to_string().starts_with("--emulator thread=multi: "));
    }
}
