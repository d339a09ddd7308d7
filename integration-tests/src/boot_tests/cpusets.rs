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
use crate::runner::vm::{Start, Vm};

const TWO: Needs =
    Needs { nodes: 2, mib: 400, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: true };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "cpuset_of_cgroup_v2_is_respected", needs: TWO, run: v2 },
    BootTest { name: "cpuset_of_cgroup_v1_is_respected", needs: TWO, run: v1 },
];

/// Exit status when the host refuses.
const HOST: i32 = 3;

/// A hierarchy of groups mounted for this test; unmounted at the end.
struct Hierarchy<'a, 'b> {
    ctx: &'a Ctx<'b>,
    at: tempfile::TempDir,
}

impl<'a, 'b> Hierarchy<'a, 'b> {
    fn mount(ctx: &'a Ctx<'b>, options: &[&str]) -> Result<Self> {
        let at = tempfile::tempdir()?;
        let path = at.path().to_string_lossy().into_owned();
        ctx.busybox(&[&["mount"], options, &["none", &path]].concat())?;
        Ok(Self { ctx, at })
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
        let _ = fs::write(self.at.path().join("cgroup.subtree_control"), "-cpuset");
        let path = self.at.path().to_string_lossy().into_owned();
        let _ = self.ctx.busybox(&["umount", &path]);
    }
}

fn v2(ctx: &Ctx) -> Result<()> {
    let groups = Hierarchy::mount(ctx, &["-t", "cgroup2"])?;
    let control = groups.at.path().join("cgroup.subtree_control");
    fs::write(&control, "+cpuset").context("the cpuset controller")?;
    stays_inside(ctx, &groups.group())
}

fn v1(ctx: &Ctx) -> Result<()> {
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
