//! The socket device: both ways between guest and host, and the serial port as a file.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::nets::served_by_kernel;
use super::{BootTest, Ctx};
use crate::guest::vsock as guest_vsock;
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::suite::Skip;
use crate::runner::vm::{PATIENCE, Start};

const TWO: Needs =
    Needs { nodes: 2, mib: 400, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "vsock_both_ways_through_unix_sockets", needs: TWO, run: both_ways },
    BootTest {
        name: "vsock_both_ways_through_the_host_kernel",
        needs: Needs { root: true, ..TWO },
        run: by_kernel,
    },
    BootTest { name: "serial_port_into_a_file", needs: Needs { nodes: 1, ..TWO }, run: into_a_file },
];

const VSOCK: u32 = 19;

fn both_ways(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("vsock");
    let spec = GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 192, &[0]), Vnode::on(ctx.pnode(1), 160, &[1])]);
    let flag = format!("cid=3,socket={},vnode=1", socket.display());
    let mut vm = ctx.boot(&Start::of(&spec).flag(&["--vsock", &flag]))?;
    vm.ask("modprobe virtio_pci vmw_vsock_virtio_transport")?;
    vm.ask("vsock-echo 1234")?;

    // From the host: more than any one buffer holds comes back whole.
    let stream = UnixStream::connect(&socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    (&stream).write_all(b"CONNECT 1234\n")?;
    let mut line = String::new();
    answers.read_line(&mut line)?;
    ensure!(line.starts_with("OK "), "CONNECT 1234 was answered with {line:?}");
    let sent: Vec<u8> = (0..300_000u32).map(|index| (index * 7 % 251) as u8).collect();
    let bytes = sent.clone();
    let writer = thread::spawn(move || {
        let mut stream = stream;
        stream.write_all(&bytes).and_then(|()| stream.shutdown(Shutdown::Write))
    });
    let mut back = Vec::new();
    answers.read_to_end(&mut back)?;
    ensure!(writer.join().is_ok_and(|result| result.is_ok()), "writing to the guest failed");
    ensure!(back == sent, "{} bytes of {} came back, or others", back.len(), sent.len());

    // To a port that nobody has.
    let mut stream = UnixStream::connect(&socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"CONNECT 4321\n")?;
    let mut nothing = Vec::new();
    // A reset is as good as an end.
    let _ = stream.read_to_end(&mut nothing);
    ensure!(nothing.is_empty(), "nobody listens at port 4321, yet there is an answer");

    // From the guest.
    let listener = UnixListener::bind(format!("{}_5000", socket.display()))?;
    let host = thread::spawn(move || -> std::io::Result<String> {
        let (mut stream, _) = listener.accept()?;
        let mut question = String::new();
        stream.read_to_string(&mut question)?;
        stream.write_all(b"two-nodes")?;
        Ok(question)
    });
    let answer = vm.ask("vsock-ask 5000 how-many")?;
    ensure!(answer["answer"] == "two-nodes", "the guest was answered {answer}");
    let question = host.join().map_err(|_| anyhow::anyhow!("the host's end panicked"))??;
    ensure!(question == "how-many", "the guest asked {question:?}");
    ensure!(vm.ask("vsock-ask 5001 hello").is_err(), "the guest could connect to a port that nobody has");

    check::devices(&spec, &vm.report()?, &[(VSOCK, 1)])?;
    check::workers(&vm, &[("vsock", ctx.cpus_of(ctx.pnode(1)))])?;
    vm.power_off()?;
    ensure!(!fs::exists(&socket)?, "the socket is left behind");
    Ok(())
}

fn by_kernel(ctx: &Ctx) -> Result<()> {
    if !fs::exists("/dev/vhost-vsock")? {
        return Err(Skip("needs /dev/vhost-vsock".to_owned()).into());
    }
    const CID: u32 = 4711;
    let spec = GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 192, &[0]), Vnode::on(ctx.pnode(1), 160, &[1])]);
    let mut vm = ctx.boot(&Start::of(&spec).flag(&["--vsock", &format!("cid={CID},vnode=1")]))?;
    vm.ask("modprobe virtio_pci vmw_vsock_virtio_transport")?;
    vm.ask("vsock-echo 1234")?;
    let word = "two-nodes".repeat(1000);
    // The kernel takes the queues over a moment after the guest's driver is ready.
    let began = Instant::now();
    let answer = loop {
        match guest_vsock::ask(CID, 1234, &word) {
            Ok(answer) => break answer,
            Err(error) if began.elapsed() > PATIENCE => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    };
    ensure!(answer == word, "the guest answered with {} bytes, not {}", answer.len(), word.len());
    ensure!(
        guest_vsock::ask(CID, 4321, "hello").is_err(),
        "nobody listens at port 4321, yet one can connect"
    );
    guest_vsock::echo(5000)?;
    let answer = vm.ask("vsock-ask 5000 how-many")?;
    ensure!(answer["answer"] == "how-many", "the guest was answered {answer}");
    check::devices(&spec, &vm.report()?, &[(VSOCK, 1)])?;
    served_by_kernel(vm.pid(), &ctx.cpus_of(ctx.pnode(1)))?;
    // Another guest cannot have its id as long as it lives.
    let mut second = ctx.start(&Start::default().flag(&["--vsock", &format!("cid={CID}")]))?;
    let said =
        second.line("the refusal", |line| line.contains(&format!("cid {CID}: ")).then(|| line.to_owned()))?;
    let status = second.ended()?;
    ensure!(status.code() == Some(2), "a second guest of the same id ended with {status}: {said}");
    vm.power_off()
}

fn into_a_file(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("serial");
    fs::write(&file, "before\n")?;
    let flag = format!("file={}", file.display());
    let start = Start::default().flag(&["--serial", &flag]).cmdline("numavisor.do=report,poweroff");
    let mut vm = ctx.start(&start)?;
    let status = vm.ended()?;
    ensure!(status.code() == Some(0), "ended with {status}, not with 0");
    let text = fs::read_to_string(&file)?;
    ensure!(text.starts_with("before\n"), "what was in the file is gone");
    let report = text.lines().any(|line| line.trim_end().starts_with("@@done report"));
    ensure!(report, "the file does not have what the guest said: {text}");
    Ok(())
}
