//! A VM that may use some nodes only: started inside of a cpuset, of either kind of control groups, it is placed on what
//! it may use, and refused what it may not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

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

fn v2(ctx: &Ctx) -> Result<()> {
    let mut groups = Hierarchy::mount(ctx, &["-t", "cgroup2"])?;
    if !fs::read_to_string(groups.control())?.split_whitespace().any(|name| name == "cpuset") {
        fs::write(groups.control(), "+cpuset").context("the cpuset controller")?;
        groups.enabled = true;
    }
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
