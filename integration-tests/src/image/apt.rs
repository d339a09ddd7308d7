//! Debian packages by the machine's own apt: installing tools, and fetching packages without installing them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Other package indexes than the machine's own, kept in the cache; sites are the ones the machine uses already.
pub(crate) struct Private {
    root: PathBuf,
}

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

impl Private {
    /// Fetches the index of `suite` from the sites of the configured sources.
    pub(crate) fn open(cache: &Path, suite: &str) -> Result<Self> {
        Self::open_all(cache, &[suite])
    }

    /// The same for several suites together.
    pub(crate) fn open_all(cache: &Path, suites: &[&str]) -> Result<Self> {
        let name = suites.join("+");
        let root = cache.join("apt").join(&name);
        for directory in ["state/lists/partial", "cache/archives/partial", "etc"] {
            fs::create_dir_all(root.join(directory))?;
        }
        fs::write(root.join("state/status"), "")?;
        let mut sources = String::new();
        for site in sites()?.iter().filter(|site| !site.contains("security")) {
            for suite in suites {
                sources.push_str(&format!("deb [signed-by={KEYRING}] {site} {suite} main\n"));
            }
        }
        fs::write(root.join("etc/sources.list"), sources)?;
        let private = Self { root };
        let status = private.command("apt-get").args(["-qq", "update"]).status()?;
        ensure!(status.success(), "apt-get update for {name} failed");
        Ok(private)
    }

    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        let root = self.root.display();
        for option in [
            format!("Dir::State={root}/state"),
            format!("Dir::State::status={root}/state/status"),
            format!("Dir::Cache={root}/cache"),
            format!("Dir::Etc::sourcelist={root}/etc/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}

/// The index to ask: the machine's own, or a private one.
pub(crate) enum Index {
    /// What `apt` on this machine is configured for.
    Machine,
    /// A suite fetched by us.
    Private(Private),
}

impl Index {
    fn command(&self, tool: &str) -> Command {
        match self {
            Self::Machine => Command::new(tool),
            Self::Private(private) => private.command(tool),
        }
    }

    /// The first dependency of `package` whose name begins with `prefix`.
    pub(crate) fn dependency(&self, package: &str, prefix: &str) -> Result<Option<String>> {
        let text = output(self.command("apt-cache").args(["depends", package]))?;
        Ok(text.lines().find_map(|line| {
            let name = line.trim().strip_prefix("Depends: ")?;
            name.starts_with(prefix).then(|| name.to_owned())
        }))
    }

    /// Names of packages that match a regular expression.
    pub(crate) fn names(&self, expression: &str) -> Result<Vec<String>> {
        let text = output(self.command("apt-cache").args(["search", "--names-only", expression]))?;
        Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// Downloads `package` and unpacks it into `root`.
    pub(crate) fn unpack(&self, package: &str, root: &Path) -> Result<()> {
        fs::create_dir_all(root)?;
        let download = tempfile::tempdir_in(root.parent().unwrap_or(root))?;
        let mut command = self.command("apt-get");
        command
            .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
            .current_dir(download.path());
        output(&mut command).with_context(|| format!("downloading {package}"))?;
        extract(download.path(), root)
    }

    /// The same with all that `package` depends on, where `suite` is preferred for itself.
    pub(crate) fn unpack_all(&self, package: &str, suite: &str, root: &Path) -> Result<()> {
        fs::create_dir_all(root)?;
        let download = tempfile::tempdir_in(root.parent().unwrap_or(root))?;
        fs::create_dir(download.path().join("partial"))?;
        let mut command = self.command("apt-get");
        let archives = format!("Dir::Cache::archives={}", download.path().display());
        command.args(["-q", "-y", "-o", &archives, "--no-install-recommends", "--download-only"]);
        output(command.args(["-t", suite, "install", package]))
            .with_context(|| format!("downloading {package}"))?;
        extract(download.path(), root)
    }
}

/// Unpacks all packages in a directory.
fn extract(from: &Path, root: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            output(Command::new("dpkg").arg("-x").arg(&file).arg(root))?;
        }
    }
    Ok(())
}

/// The sites of the configured Debian sources.
fn sites() -> Result<BTreeSet<String>> {
    let text = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let sites: BTreeSet<String> = text.lines().map(str::to_owned).filter(|site| !site.is_empty()).collect();
    ensure!(!sites.is_empty(), "apt has no package sources configured");
    Ok(sites)
}

/// The configured sources of Debian itself, as lines of a `sources.list`.
pub(crate) fn debian_sources() -> Result<String> {
    let line = format!("deb [signed-by={KEYRING}] $(REPO_URI) $(RELEASE) $(COMPONENT)");
    let lines = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        &line,
        "Created-By: Packages",
        "Origin: Debian",
    ]))?;
    ensure!(!lines.trim().is_empty(), "apt has no package sources of Debian");
    let lines: BTreeSet<&str> = lines.lines().collect();
    Ok(lines.into_iter().map(|line| format!("{line}\n")).collect())
}

/// Installs those of `packages` that are not there, saying which and why; without root, by sudo, else by telling.
pub(crate) fn install(packages: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = packages.iter().filter(|(package, _)| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing what is missing:");
    for (package, why) in &missing {
        println!("  {package:<18} {why}");
    }
    let names: Vec<&str> = missing.iter().map(|(package, _)| *package).collect();
    let line = format!("apt-get install -y --no-install-recommends {}", names.join(" "));
    let prefix: &[&str] = if nix::unistd::geteuid().is_root() {
        &[]
    } else if works(Command::new("sudo").args(["-n", "true"])) {
        &["sudo"]
    } else {
        bail!("packages are missing and this is not root; please run:\n  sudo apt-get update && sudo {line}");
    };
    run_as(prefix, "apt-get -qq update")?;
    run_as(prefix, &line)
}

fn run_as(prefix: &[&str], line: &str) -> Result<()> {
    let words: Vec<&str> = prefix.iter().copied().chain(line.split_whitespace()).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive");
    output(&mut command).map(|_| ())
}

fn installed(package: &str) -> bool {
    output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]))
        .is_ok_and(|text| text == "installed")
}

fn works(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
