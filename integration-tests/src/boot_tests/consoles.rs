//! The virtio console: clients of its socket that type, read, and do not; and the console as a file.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{BootTest, Ctx};
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::vm::{PATIENCE, Start};

const TWO: Needs =
    Needs { nodes: 2, mib: 400, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "console_on_its_vnode_has_one_attached_at_a_time", needs: TWO, run: attached },
    BootTest { name: "console_into_a_file", needs: Needs { nodes: 1, ..TWO }, run: into_a_file },
];

const CONSOLE: u32 = 3;
/// What goes to the guest and back.
const BYTES: usize = 50_000;

fn attached(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (socket, api) = (directory.path().join("console"), directory.path().join("api"));
    let (flag, api) = (format!("socket={},vnode=1", socket.display()), api.to_string_lossy().into_owned());
    let spec = GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 192, &[0]), Vnode::on(ctx.pnode(1), 160, &[1])]);
    let mut vm = ctx.boot(&Start::of(&spec).flag(&["--console", &flag, "--api-socket", &api]))?;
    // Before there is a driver; it is served when there is.
    let mut first = attach(&socket)?;
    vm.ask("modprobe virtio_pci virtio_console")?;
    vm.output("(exec 3<>/dev/hvc0; stty raw -echo <&3; echo up >&3; exec cat <&3 >&3) >/dev/null 2>&1 &")?;
    expect(&mut first, b"up\n")?;

    // Both ways, more than any one buffer holds.
    let sent: Vec<u8> = (0..BYTES).map(|index| u8::try_from(index * 7 % 251).unwrap_or(0)).collect();
    let (mut typing, bytes) = (first.try_clone()?, sent.clone());
    let typist = thread::spawn(move || typing.write_all(&bytes));
    expect(&mut first, &sent)?;
    ensure!(typist.join().is_ok_and(|result| result.is_ok()), "typing failed");

    let mut told = String::new();
    attach(&socket)?.read_to_string(&mut told)?;
    ensure!(told.contains("another client is attached"), "a second one is told {told:?}");
    drop(first);
    vm.output("echo while you were out >/dev/hvc0")?;
    let mut second = attach(&socket)?;
    expect(&mut second, b"while you were out\n")?;

    // A client that does not read holds nobody up for long, and the guest's CPUs do not hang.
    vm.output("dd if=/dev/zero of=/dev/hvc0 bs=4096 count=512 2>/dev/null")?;
    vm.output("echo the end >/dev/hvc0")?;
    let mut rest = Vec::new();
    while !rest.ends_with(b"the end\n") {
        let mut part = [0; 4096];
        let count = second.read(&mut part).context("the end of what was printed")?;
        ensure!(count > 0, "sent away after {} bytes", rest.len());
        rest.extend(&part[..count]);
    }
    check::quiet_log(&vm.report()?)?;

    let metrics = ctx.numavisor(&["ctl", "--api-socket", &api, "metrics"])?.stdout;
    let metrics = String::from_utf8_lossy(&metrics);
    let count = |figure: &str| -> Result<usize> {
        let start = format!("numavisor_console_{figure}_total{{device=\"console\",vnode=\"1\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
        line.with_context(|| format!("no {figure} in {metrics}"))?.parse().context(start)
    };
    let (printed, lost) = (count("printed_bytes")?, count("lost_bytes")?);
    let read = b"up\n".len() + BYTES + b"while you were out\n".len() + rest.len();
    ensure!(printed == read + lost && lost > 0, "{printed} bytes printed, {lost} lost, {read} read");
    ensure!(count("typed_bytes")? == BYTES && count("attached")? == 2, "the metrics say {metrics}");

    check::devices(&spec, &vm.report()?, &[(CONSOLE, 1)])?;
    check::workers(&vm, &[("console", ctx.cpus_of(ctx.pnode(1)))])?;
    check::bound(&vm, &spec)?;
    vm.power_off()?;
    ensure!(!fs::exists(&socket)?, "the socket is left behind");
    Ok(())
}

fn into_a_file(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("log");
    fs::write(&file, "before\n")?;
    let flag = format!("file={}", file.display());
    let spec = GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 192, &[0])]);
    let words = "console=hvc0 console=ttyS0 ignore_loglevel panic=-1";
    let mut vm = ctx.boot(&Start::of(&spec).cmdline(words).flag(&["--console", &flag]))?;
    vm.ask("modprobe virtio_pci virtio_console")?;
    vm.output("echo said by the kernel >/dev/kmsg; echo said by init >/dev/hvc0")?;
    let began = Instant::now();
    loop {
        let text = fs::read_to_string(&file)?;
        let words = ["said by the kernel", "said by init"];
        if text.starts_with("before\n") && words.iter().all(|words| text.contains(words)) {
            break;
        }
        ensure!(began.elapsed() < PATIENCE, "the file has {text:?}");
        thread::sleep(Duration::from_millis(50));
    }
    // What the kernel says in the middle of a report would be part of it.
    vm.output("echo N >/sys/module/printk/parameters/ignore_loglevel")?;
    check::devices(&spec, &vm.report()?, &[(CONSOLE, 0)])?;
    vm.power_off()?;

    let missing = format!("file={}", directory.path().join("no/such").display());
    let mut refused = ctx.start(&Start::default().flag(&["--console", &missing]))?;
    let said =
        refused.line("the refusal", |line| line.contains("numavisor: console: ").then(|| line.to_owned()))?;
    let status = refused.ended()?;
    ensure!(status.code() == Some(2), "a file that cannot be made ended with {status}: {said}");
    Ok(())
}

pub(super) fn attach(socket: &Path) -> Result<UnixStream> {
    let stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn expect(stream: &mut UnixStream, bytes: &[u8]) -> Result<()> {
    let mut read = vec![0; bytes.len()];
    let mut at = 0;
    while at < read.len() {
        match stream.read(&mut read[at..]) {
            Ok(0) => break,
            Ok(count) => at += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(|| format!("after {at} of {} bytes", bytes.len())),
        }
    }
    let same = read.iter().zip(bytes).take_while(|(read, byte)| read == byte).count();
    ensure!(same == bytes.len(), "{at} of {} bytes came, {same} of them as they were", bytes.len());
    Ok(())
}
