//! Disks and entropy: on their vnodes in the guest, on their pnodes on the host, and what is written is there.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{BootTest, Ctx};
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::payload::GuestKernel;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::suite::Skip;
use crate::runner::vm::{Start, Vm};

const TWO: Needs =
    Needs { nodes: 2, mib: 400, cpus: 2, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "disk_two_and_entropy_on_their_vnodes", needs: TWO, run: stock_kernel },
    BootTest { name: "disk_two_and_entropy_under_a_newer_kernel", needs: TWO, run: newer_kernel },
    BootTest {
        name: "disk_grows_while_its_guest_runs",
        needs: Needs { nodes: 1, cpus: 1, ..TWO },
        run: grows,
    },
    BootTest {
        name: "disk_gives_storage_back_and_fails_as_its_host_does",
        needs: Needs { nodes: 1, root: true, ..TWO },
        run: |ctx| storage(ctx, true),
    },
    BootTest {
        name: "disk_does_the_same_where_io_uring_is_forbidden",
        needs: Needs { nodes: 1, root: true, ..TWO },
        run: |ctx| storage(ctx, false),
    },
    BootTest { name: "disk_refusals_are_one_line", needs: Needs { nodes: 1, cpus: 1, ..TWO }, run: refusals },
];

/// Virtio's numbers of device types.
const BLK: u32 = 2;
const RNG: u32 = 4;

/// A disk of `mib` MiB, no two sectors of it alike.
fn patterned(path: &Path, mib: usize) -> Result<()> {
    let bytes: Vec<u8> = (0..(mib << 20) / 8).flat_map(|word| (word * 0x9E37_79B1).to_le_bytes()).collect();
    fs::write(path, bytes).with_context(|| path.display().to_string())
}

/// `--disk` of these options.
pub(super) fn flag(path: &Path, options: &str) -> [String; 2] {
    ["--disk".to_owned(), format!("path={}{options}", path.display())]
}

/// The guest's name of the disk with a serial number.
fn called(vm: &mut Vm, serial: &str) -> Result<String> {
    let found = vm.output(&format!("grep -l ^{serial}$ /sys/block/vd*/serial"))?;
    let name = found.split('/').nth(3).with_context(|| format!("no disk is called {serial}: '{found}'"))?;
    Ok(name.to_owned())
}

fn stock_kernel(ctx: &Ctx) -> Result<()> {
    on_their_vnodes(ctx, GuestKernel::Stock)
}

fn newer_kernel(ctx: &Ctx) -> Result<()> {
    on_their_vnodes(ctx, GuestKernel::Newer)
}

fn on_their_vnodes(ctx: &Ctx, kernel: GuestKernel) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (far, near) = (directory.path().join("far"), directory.path().join("near"));
    patterned(&far, 5)?;
    patterned(&near, 3)?;
    let spec =
        GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 192, &[0, 1]), Vnode::on(ctx.pnode(1), 128, &[2, 3])]);
    let mut start = Start::of(&spec).kernel(kernel).flag(&["--rng"]);
    start.flags.extend(flag(&far, ",vnode=1,readonly=on,serial=FAR"));
    start.flags.extend(flag(&near, ",vnode=0,serial=NEAR"));
    let mut vm = ctx.boot(&start)?;
    vm.ask("modprobe virtio_pci virtio_blk virtio_rng")?;
    let (far_name, near_name) = (called(&mut vm, "FAR")?, called(&mut vm, "NEAR")?);

    for (name, path) in [(&far_name, &far), (&near_name, &near)] {
        let there = ctx.busybox(&["md5sum", &path.to_string_lossy()])?;
        let here = vm.output(&format!("md5sum /dev/{name}"))?;
        let sum = |text: &str| text.split_whitespace().next().map(str::to_owned);
        ensure!(sum(&here).is_some() && sum(&here) == sum(&there), "the guest reads {here}, it is {there}");
    }
    let random = vm.output("dd if=/dev/hwrng bs=64 count=1 2>/dev/null | hexdump -v -e '1/1 \"%02x\"'")?;
    ensure!(random.len() == 128 && !random.trim_matches('0').is_empty(), "/dev/hwrng gives '{random}'");
    written(&mut vm, &near_name, &near)?;
    let before = fs::read(&far)?;
    let (status, said) =
        vm.shell(&format!("dd if=/dev/zero of=/dev/{far_name} bs=4096 count=1 conv=fsync 2>&1"))?;
    ensure!(status != 0, "the guest could write to a disk that is read only: {said}");
    ensure!(fs::read(&far)? == before, "a disk that is read only has changed");

    check::devices(&spec, &vm.report()?, &[(BLK, 1), (BLK, 0), (RNG, 0)])?;
    let cpus = |index| ctx.cpus_of(ctx.pnode(index));
    check::workers(&vm, &[("blk0", cpus(1)), ("blk1", cpus(0)), ("rng", cpus(0))])?;
    check::bound(&vm, &spec)?;

    shared(ctx, &near)?;
    vm.power_off()?;
    ensure!(fs::read(&near)?.len() == 3 << 20, "the disk's length has changed");
    Ok(())
}

fn grows(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (disk, socket) = (directory.path().join("disk"), directory.path().join("api.sock"));
    patterned(&disk, 2)?;
    let (disk_text, socket) = (disk.to_string_lossy().into_owned(), socket.to_string_lossy().into_owned());
    let spec = GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 192, &[0])]);
    let flags = ["--disk", &format!("path={disk_text}"), "--api-socket", &socket];
    let mut vm = ctx.boot(&Start::of(&spec).flag(&flags))?;
    vm.ask("modprobe virtio_pci virtio_blk")?;
    sectors(&mut vm, 2 << 11)?;

    let ctl = |words: &[&str]| ctx.numavisor(&[&["ctl", "--api-socket", &socket], words].concat());
    let done = ctl(&["disk-resize", "0", "5M"])?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    ensure!(done.status.success() && said == "disk 0 has 5242880 bytes for the guest\n", "ctl says {said}");
    ensure!(fs::metadata(&disk)?.len() == 5 << 20, "the file is {} bytes long", fs::metadata(&disk)?.len());
    sectors(&mut vm, 5 << 11)?;
    vm.output("yes NUMAVISO | dd of=/dev/vda bs=1M seek=4 count=1 iflag=fullblock conv=notrunc,fsync 2>&1")?;
    ensure!(fs::read(&disk)?.ends_with(b"NUMAVISO\nNUMA"), "what the guest wrote at the end is not there");
    let metrics = String::from_utf8_lossy(&ctl(&["metrics"])?.stdout).into_owned();
    let count = |figure: &str| -> Result<u64> {
        let start = format!("numavisor_disk_{figure}_total{{device=\"blk0\",vnode=\"0\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
        line.with_context(|| format!("no {figure} in {metrics}"))?.parse().context(start)
    };
    let counted =
        ["written_bytes", "flushes", "malformed"].map(count).into_iter().collect::<Result<Vec<u64>>>()?;
    ensure!(counted[0] == 1 << 20 && counted[1] >= 1 && counted[2] == 0, "it counts {counted:?}");

    // Someone else makes it longer; a shorter one is refused, as is a disk that is not there.
    File::options().write(true).open(&disk)?.set_len(7 << 20)?;
    ensure!(ctl(&["disk-resize", "0"])?.status.success(), "the new length could not be told");
    sectors(&mut vm, 7 << 11)?;
    for (words, status) in [(["disk-resize", "0", "1M"], 2), (["disk-resize", "1", "8M"], 2)] {
        let refused = ctl(&words)?;
        ensure!(refused.status.code() == Some(status), "{words:?} ended with {}", refused.status);
    }
    sectors(&mut vm, 7 << 11)?;
    vm.power_off()
}

/// Something of the host's that a busybox command takes away again.
struct Until<'a, 'b>(&'a Ctx<'b>, Vec<String>);

impl Drop for Until<'_, '_> {
    fn drop(&mut self) {
        // The test has failed already, or it is the host's own storage that does not let go.
        let _ = self.0.busybox(&self.1.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// Two queues each: a file on a host's file system that is too small for it, and a block device past the page cache.
/// What storage there is behind a disk, and its errors; in a container's usual filter of system calls without `io_uring`.
fn storage(ctx: &Ctx, io_uring: bool) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let small = directory.path().join("small");
    fs::create_dir(&small)?;
    let at = small.to_string_lossy().into_owned();
    ctx.busybox(&["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", &at])?;
    let _mounted = Until(ctx, ["umount", "-l", &at].map(str::to_owned).to_vec());
    let (sparse, backing) = (small.join("disk"), directory.path().join("backing"));
    let file = File::create(&sparse)?;
    file.set_len(16 << 20)?;
    patterned(&backing, 3)?;
    let free = ctx.busybox(&["losetup", "-f"]).map_err(|_| Skip("needs a loop device".to_owned()))?;
    let device = free.trim();
    ctx.busybox(&["losetup", device, &backing.to_string_lossy()])?;
    let _attached = Until(ctx, ["losetup", "-d", device].map(str::to_owned).to_vec());

    let mut start = Start::of(&GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 192, &[0, 1])]));
    start.flags.extend(flag(&sparse, ",queues=2"));
    start.flags.extend(flag(Path::new(device), ",queues=2,direct=on"));
    if !io_uring {
        start.forbidden = vec![libc::SYS_io_uring_setup];
    }
    let mut vm = ctx.boot(&start)?;
    vm.ask("modprobe virtio_pci virtio_blk")?;
    ensure!(has_rings(&vm)? == io_uring, "the host's kernel says otherwise of io_uring");
    for disk in ["vda", "vdb"] {
        let queues = vm.output(&format!("ls /sys/block/{disk}/mq"))?;
        ensure!(queues.split_whitespace().eq(["0", "1"]), "{disk} has the queues {queues}");
    }
    let stored = || -> Result<u64> { Ok(file.metadata()?.blocks() * 512) };
    vm.output("dd if=/dev/urandom of=/dev/vda bs=1M count=4 conv=fsync 2>&1")?;
    ensure!(stored()? == 4 << 20, "{} bytes are stored, the guest wrote 4 MiB", stored()?);
    fails(&mut vm, "dd if=/dev/urandom of=/dev/vda bs=1M seek=4 count=8 conv=fsync 2>&1")?;
    vm.output("blkdiscard /dev/vda")?;
    ensure!(stored()? == 0, "{} bytes are stored after all was discarded", stored()?);
    vm.output("cmp -n 16777216 /dev/vda /dev/zero")?;
    vm.output("dd if=/dev/urandom of=/dev/vda bs=1M seek=8 count=4 conv=fsync 2>&1")?;

    // A disk that has become shorter, and is long again.
    let read = "dd if=/dev/vda of=/dev/null bs=64k skip=32 count=1 iflag=direct 2>&1";
    vm.output(read)?;
    file.set_len(1 << 20)?;
    fails(&mut vm, read)?;
    file.set_len(16 << 20)?;
    vm.output(read)?;

    let mut expected = fs::read(&backing)?;
    let (from, to) = (512 << 10, 1536 << 10);
    expected.get_mut(from..to).context("a short file")?.fill(0);
    vm.ask(&format!("zeroes /dev/vdb {from} {}", to - from))?;
    written(&mut vm, "vdb", &backing)?;
    let (head, tail) = (3 * 4096, 5 * 4096);
    let after = fs::read(&backing)?;
    ensure!(
        after[..head] == expected[..head] && after[tail..] == expected[tail..],
        "zeroes are not where they were asked"
    );
    vm.power_off()
}

/// Whether the VMM has rings of the kernel's.
fn has_rings(vm: &Vm) -> Result<bool> {
    let files = fs::read_dir(format!("/proc/{}/fd", vm.pid()))?.flatten();
    Ok(files
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|link| link == Path::new("anon_inode:[io_uring]")))
}

/// An error of the disk, and no end of the VM.
fn fails(vm: &mut Vm, line: &str) -> Result<()> {
    let (status, said) = vm.shell(line)?;
    ensure!(status == 1 && said.contains("Input/output error"), "'{line}': {status}, {said}");
    Ok(())
}

/// The guest's first disk has so many sectors, now or soon.
fn sectors(vm: &mut Vm, expected: u64) -> Result<()> {
    vm.output(&format!(
        "for i in $(seq 50); do [ $(cat /sys/block/vda/size) = {expected} ] && exit 0; usleep 100000; done; \
         cat /sys/block/vda/size; exit 1"
    ))
    .map(|_| ())
}

/// What the guest writes and flushes is in the file, where it should be.
fn written(vm: &mut Vm, name: &str, path: &Path) -> Result<()> {
    let before = fs::read(path)?;
    vm.output(&format!(
        "yes NUMAVISO | dd of=/dev/{name} bs=4096 seek=3 count=2 iflag=fullblock conv=notrunc,fsync 2>&1"
    ))?;
    let after = fs::read(path)?;
    let (head, tail) = (3 * 4096, 5 * 4096);
    let text: Vec<u8> = b"NUMAVISO\n".iter().copied().cycle().take(tail - head).collect();
    ensure!(after.get(head..tail) == Some(&text), "the host's file does not have what the guest wrote");
    ensure!(
        after.get(..head) == before.get(..head) && after.get(tail..) == before.get(tail..),
        "the host's file has changed where the guest did not write"
    );
    Ok(())
}

/// A second VM is refused a disk that one writes, to write it or to read it.
fn shared(ctx: &Ctx, written: &Path) -> Result<()> {
    for options in ["", ",readonly=on"] {
        let mut start = Start::default();
        start.flags.extend(flag(written, options));
        one_line(ctx, &start, "another process holds it")?;
    }
    Ok(())
}

/// Status 2 and one line with `words`, besides warnings: of a host that a living VM has claimed, say.
fn one_line(ctx: &Ctx, start: &Start, words: &str) -> Result<()> {
    let output = start.command(ctx.payload).stdin(std::process::Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(2), "ended with {}, not with 2: {said}", output.status);
    ensure!(
        said.contains(words) && said.lines().filter(|line| !line.contains(" warn: ")).count() == 1,
        "not one line with '{words}': {said}"
    );
    Ok(())
}

fn refusals(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
        let path = directory.path().join(name);
        fs::write(&path, bytes)?;
        File::options().write(true).open(&path)?.set_len(1 << 20)?;
        Ok(path)
    };
    let qcow2 = file("qcow2", b"QFI\xfb\0\0\0\x03")?;
    let raw = file("raw", b"")?;
    let missing = directory.path().join("missing");
    for (path, options, words) in [
        (&qcow2, "", "qemu-img convert"),
        (&missing, "", "missing"),
        (&directory.path().to_owned(), ",readonly=on", "regular file"),
        (&raw, ",vnode=1", "vnode"),
        (&raw, ",queues=0", "queues"),
        (&raw, ",serial=123456789012345678901", "serial"),
    ] {
        let mut start = Start::default();
        start.flags.extend(flag(path, options));
        one_line(ctx, &start, words)?;
    }
    Ok(())
}
