//! A VM that may use some nodes only: started inside of a cpuset, of either kind of control groups, it is placed on what
//! it may use, and refused what it may not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::moves::{ctl, pages_of, policy_of};
use super::{BootTest, Ctx};
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::suite::Skip;
use crate::runner::vm::{Start, Vm};

const TWO: Needs =
    Needs { nodes: 2, mib: 400, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: true };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "cpuset_of_cgroup_v2_is_respected", needs: TWO, run: v2 },
    BootTest {
        name: "cpuset_that_changes_under_a_vm_is_reported_and_the_policy_stays",
        needs: TWO,
        run: changed,
    },
    // The last one: what it leaves of its hierarchy keeps the controller from cgroup v2 for a while, a minute or more.
    BootTest { name: "cpuset_of_cgroup_v1_is_respected", needs: TWO, run: v1 },
];

/// Exit status when the host refuses.
const HOST: i32 = 3;

/// Seconds until what is left of a removed group is gone.
const GONE_WITHIN: u32 = 60;

/// A hierarchy of groups mounted for this test; unmounted at the end.
struct Hierarchy<'a, 'b> {
    ctx: &'a Ctx<'b>,
    at: tempfile::TempDir,
    /// Whether groups get cpusets for this test only.
    enabled: bool,
}

impl<'a, 'b> Hierarchy<'a, 'b> {
    fn mount(ctx: &'a Ctx<'b>, options: &[&str]) -> Result<Self> {
        let at = tempfile::tempdir()?;
        let path = at.path().to_string_lossy().into_owned();
        let mount = [&["mount"], options, &["none", &path]].concat();
        // A controller leaves another hierarchy when the last group there is wholly gone, some time after its `rmdir`.
        let mut mounted = ctx.busybox(&mount);
        for _ in 0..GONE_WITHIN {
            if mounted.is_ok() {
                break;
            }
            thread::sleep(Duration::from_secs(1));
            mounted = ctx.busybox(&mount);
        }
        mounted?;
        Ok(Self { ctx, at, enabled: false })
    }

    fn control(&self) -> PathBuf {
        self.at.path().join("cgroup.subtree_control")
    }

    fn group(&self) -> PathBuf {
        self.at.path().join("numavisor-test")
    }
}

impl Drop for Hierarchy<'_, '_> {
    fn drop(&mut self) {
        // A group goes when its last process is wholly gone, which takes a moment.
        for _ in 0..50 {
            if fs::remove_dir(self.group()).is_ok() || !self.group().exists() {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        if self.enabled {
            let _ = fs::write(self.control(), "-cpuset");
        }
        let path = self.at.path().to_string_lossy().into_owned();
        let _ = self.ctx.busybox(&["umount", &path]);
    }
}

/// The words in a file.
fn names(path: &Path) -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// Of cgroup v2, with cpusets.
fn groups_v2<'a, 'b>(ctx: &'a Ctx<'b>) -> Result<Hierarchy<'a, 'b>> {
    let mut groups = Hierarchy::mount(ctx, &["-t", "cgroup2"])?;
    // It is back some time after a hierarchy of cgroup v1 that had it was unmounted.
    let controllers = groups.at.path().join("cgroup.controllers");
    let mut seconds = 0..GONE_WITHIN;
    while !names(&controllers)?.contains("cpuset") && seconds.next().is_some() {
        thread::sleep(Duration::from_secs(1));
    }
    if !names(&groups.control())?.contains("cpuset") {
        fs::write(groups.control(), "+cpuset").context("the cpuset controller")?;
        groups.enabled = true;
    }
    Ok(groups)
}

fn v2(ctx: &Ctx) -> Result<()> {
    let groups = groups_v2(ctx)?;
    stays_inside(ctx, &groups.group())
}

fn v1(ctx: &Ctx) -> Result<()> {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Err(Skip("this host's cpusets are those of cgroup v2".to_owned()).into());
    }
    let groups = Hierarchy::mount(ctx, &["-t", "cgroup", "-o", "cpuset"])?;
    stays_inside(ctx, &groups.group())
}

/// Starts a guest from inside of a group.
fn start_in(ctx: &Ctx, group: &Path, start: &Start) -> Result<Vm> {
    let inner = start.command(ctx.payload);
    let mut command = Command::new("/bin/busybox");
    command.args(["sh", "-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(group.join("cgroup.procs"));
    command.arg(inner.get_program()).args(inner.get_args());
    Vm::spawn(command, &ctx.transcript)
}

fn stays_inside(ctx: &Ctx, group: &Path) -> Result<()> {
    let (outside, inside) = (ctx.pnode(0), ctx.pnode(1));
    fs::create_dir(group).context("a group")?;
    let cpus: Vec<String> = ctx.cpus_of(inside).iter().map(u32::to_string).collect();
    fs::write(group.join("cpuset.cpus"), cpus.join(","))?;
    fs::write(group.join("cpuset.mems"), inside.to_string())?;

    // Nothing is said of pnodes, and the other one has as much room.
    let spec = GuestSpec::new(vec![Vnode::on(inside, 256, &[0])]);
    let mut vm = start_in(ctx, group, &Start::default().flag(&["--memory", "256M", "--vcpus", "1"]))?;
    vm.ready()?;
    vm.ask("alloc 64 0")?;
    check::bound(&vm, &spec)?;
    check::threads(&vm, &spec, |pnode| ctx.cpus_of(pnode))?;
    vm.power_off()?;

    let wrong = format!("id=0,memory=256M,vcpus=[0],pnode={outside}");
    let mut vm = start_in(ctx, group, &Start::default().flag(&["--numa", &wrong]))?;
    let status = vm.ended()?;
    ensure!(status.code() == Some(HOST), "a pnode outside of the cpuset: {status}, not {HOST}");
    Ok(())
}

/// Tenths of a second in which the kernel migrates memory after a change of a cpuset.
const MIGRATES_WITHIN: u32 = 300;

fn changed(ctx: &Ctx) -> Result<()> {
    let groups = groups_v2(ctx)?;
    let group = groups.group();
    let (home, other) = (ctx.pnode(0), ctx.pnode(1));
    fs::create_dir(&group).context("a group")?;
    fs::write(group.join("cpuset.mems"), format!("{home},{other}"))?;
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api");
    let spec = GuestSpec::new(vec![Vnode::on(home, 256, &[0])]);
    let mut vm = start_in(ctx, &group, &Start::of(&spec).flag(&["--api-socket", &socket.to_string_lossy()]))?;
    vm.ready()?;
    vm.ask("alloc 64 0")?;
    check::bound(&vm, &spec)?;

    // The pnode is taken away: the kernel takes the memory to what is left.
    fs::write(group.join("cpuset.mems"), other.to_string())?;
    let mut pages = pages_of(&vm, &spec, 0)?;
    for _ in 0..MIGRATES_WITHIN {
        if pages.contains_key(&other) && !pages.contains_key(&home) {
            break;
        }
        thread::sleep(Duration::from_millis(100));
        pages = pages_of(&vm, &spec, 0)?;
    }
    ensure!(pages.contains_key(&other), "the kernel has migrated nothing: {pages:?}");
    told(ctx, &vm, &spec, &socket, home)?;

    // Allowed again, the policy names its own pnode, and not what it was renamed to.
    fs::write(group.join("cpuset.mems"), format!("{home},{other}"))?;
    let policy = policy_of(&vm, &spec, 0)?;
    ensure!(policy.iter().all(|found| *found == format!("bind:{home}")), "{policy:?}");
    told(ctx, &vm, &spec, &socket, home)?;
    let job = ctl(ctx, &socket, &["move", "0", "--pnode", &home.to_string()])?;
    ensure!(job["state"] == "done", "the move ended as {job}");
    check::bound(&vm, &spec)?;
    vm.output("echo still here")?;
    vm.power_off()
}

/// What the API tells is what the host's kernel says: the pnode of the policy, and where the memory lies.
fn told(ctx: &Ctx, vm: &Vm, spec: &GuestSpec, socket: &Path, home: u32) -> Result<()> {
    let told = ctl(ctx, socket, &["vnodes", "0", "--fresh"])?;
    let pages = pages_of(vm, spec, 0)?;
    let away: u64 = pages.iter().filter(|(pnode, _)| **pnode != home).map(|(_, pages)| pages * 4096).sum();
    ensure!(told["pnodes"] == format!("{home}"), "{told}");
    // The guest runs: some pages may be new.
    let foreign = told["residency"]["misplaced"].as_u64().context("no residency")?;
    ensure!(foreign.abs_diff(away) <= 8 << 20, "{pages:?}, {told}");
    Ok(())
}
