//! The line commands a test guest obeys; each is answered with one `@@done` or `@@error` line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{FallocateFlags, fallocate};
use serde_json::{Value, json};

use super::guard::Guard;
use super::{DONE, ERROR, OUT, REPORT, memory, modules, power, report, traffic, vsock};
use crate::sys::BoundMemory;

/// What a guest remembers between two commands.
#[derive(Default)]
pub(crate) struct State {
    held: Vec<BoundMemory>,
    guard: Option<Guard>,
}

impl State {
    /// Obeys one line and answers it. An empty line is no command.
    pub(crate) fn obey(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { return };
        let arguments: Vec<&str> = words.collect();
        match self.run(name, &arguments) {
            Ok(answer) => println!("{DONE}{name} {answer}"),
            Err(error) => println!("{ERROR}{name} {}", format!("{error:#}").replace('\n', " ")),
        }
    }

    fn run(&mut self, name: &str, arguments: &[&str]) -> Result<Value> {
        match (name, arguments) {
            // alloc MiB NODE: memory bound to that node, touched, and held until `free`
            ("alloc", [mib, node]) => {
                let memory = memory::allocate(mib.parse()?, node.parse()?)?;
                self.held.push(memory);
                Ok(json!({ "mib": mib, "node": node }))
            }
            // checkerboard MiB NODE: the same, and then every second page of 4 KiB is free again
            ("checkerboard", [mib, node]) => {
                self.held.push(memory::checkerboard(mib.parse()?, node.parse()?)?);
                Ok(json!({ "mib": mib, "node": node }))
            }
            ("free", []) => {
                self.held.clear();
                Ok(json!({}))
            }
            // fill [NODE...]: all free memory of these nodes, or of every one, but the reserve of `memory::reserve_kib`;
            // held until `free`
            ("fill", nodes) => {
                let nodes = match nodes {
                    [] => super::report::online_nodes(),
                    nodes => nodes.iter().map(|node| node.parse()).collect::<Result<_, _>>()?,
                };
                let filled = memory::fill(&nodes)?;
                let answer: Vec<Value> = filled
                    .iter()
                    .map(|(node, memory)| json!({ "node": node, "mib": memory.len() * memory::CHUNK_MIB }))
                    .collect();
                self.held.extend(filled.into_iter().flat_map(|(_, memory)| memory));
                Ok(answer.into())
            }
            // guard PERCENT: from now on, threads keep so much of each node's free memory and look whether it changes
            ("guard", [percent]) => {
                let guard = Guard::start(percent.parse()?)?;
                let answer = json!({ "pages": guard.pages(), "threads": guard.threads() });
                self.guard = Some(guard);
                Ok(answer)
            }
            // guarded: what they have found so far
            ("guarded", []) => Ok(self.guard.as_ref().context("no guard")?.found()),
            // unguard: the same, and the end of it
            ("unguard", []) => Ok(self.guard.take().context("no guard")?.end()),
            ("sleep", [seconds]) => {
                std::thread::sleep(Duration::from_secs_f64(seconds.parse()?));
                Ok(json!({}))
            }
            // timestamps SECONDS: writes the time to page after page; the longest time between two
            ("timestamps", [seconds]) => Ok(memory::timestamps(Duration::from_secs_f64(seconds.parse()?))),
            // report: for people and scripts
            ("report", []) => {
                println!("{REPORT}{}", serde_json::to_string(&report::collect())?);
                Ok(json!({}))
            }
            // packed: the same in fewer bytes, each of which is an exit of the guest
            ("packed", []) => Ok(report::collect().packed()?.into()),
            ("modprobe", names) => {
                for name in names {
                    modules::load(name)?;
                }
                Ok(json!({}))
            }
            // disk PATH HOW BYTES COUNT: requests past the page cache, one after the other; seconds
            ("disk", [path, how, size, count]) => traffic::disk(path, how, size.parse()?, count.parse()?),
            // zeroes PATH OFFSET BYTES: by the disk itself, where it can
            ("zeroes", [path, offset, bytes]) => {
                let mode = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                fallocate(File::options().write(true).open(path)?, mode, offset.parse()?, bytes.parse()?)?;
                Ok(json!({}))
            }
            // stream ADDRESS MiB: as much by TCP; seconds
            ("stream", [address, mib]) => traffic::stream(address, mib.parse()?),
            // take ADDRESS MiB: as much by TCP, the other way; seconds
            ("take", [address, mib]) => traffic::take(address, mib.parse()?),
            // questions ADDRESS COUNT: asked by TCP, one after the other; seconds
            ("questions", [address, count]) => traffic::questions(address, count.parse()?),
            // vsock-echo PORT: from now on what comes to that port goes back
            ("vsock-echo", [port]) => {
                vsock::echo(port.parse()?)?;
                Ok(json!({}))
            }
            // vsock-ask PORT WORD: sends a word to a port of the host; what comes back
            ("vsock-ask", [port, word]) => {
                Ok(json!({ "answer": vsock::ask(vsock::HOST_CID, port.parse()?, word)? }))
            }
            ("sh", words) => shell(&words.join(" ")),
            ("shell", []) => {
                let status = Command::new("/bin/sh").arg("-i").env("PATH", "/bin:/sbin:/usr/bin").status()?;
                Ok(json!({ "status": status.code() }))
            }
            ("powerbutton", []) => {
                let button = power::Button::find()?;
                println!("{DONE}powerbutton {}", json!({ "armed": true }));
                button.wait()?;
                println!("@@powerbutton pressed");
                power::off()
            }
            ("poweroff", []) => power::off(),
            ("reboot", []) => power::reboot(),
            ("crash", []) => power::crash(),
            // kexec KERNEL INITRAMFS: from these disks, with this kernel's command line
            ("kexec", [kernel, initramfs]) => match power::kexec(kernel, initramfs)? {},
            _ => bail!("no such command, or not so many arguments"),
        }
    }
}

fn shell(line: &str) -> Result<Value> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", line])
        .env("PATH", "/bin:/sbin:/usr/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().context("no standard output")?;
    for line in BufReader::new(output).lines() {
        println!("{OUT}{}", line?);
    }
    let status = child.wait()?;
    // As shells say it.
    Ok(json!({ "status": status.code().or(status.signal().map(|signal| 128 + signal)) }))
}
