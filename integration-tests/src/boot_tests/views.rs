//! What `numavisor host` and `numavisor plan` say agrees with the host's own sysfs.

use anyhow::{Context, Result, ensure};

use super::{BootTest, Ctx};
use crate::runner::host::Needs;

const TWO: Needs =
    Needs { nodes: 2, mib: 0, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "view_host_is_as_in_sysfs", needs: TWO, run: host },
    BootTest { name: "view_host_with_a_node_without_cpus", needs: Needs { cpuless: true, ..TWO }, run: host },
    BootTest { name: "view_plan_writes_its_tables", needs: TWO, run: tables },
];

fn host(ctx: &Ctx) -> Result<()> {
    let output = ctx.numavisor(&["host", "--json"])?;
    ensure!(output.status.success(), "numavisor host --json: {}", output.status);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).context("host --json")?;
    let text = said.to_string();
    let plain = ctx.numavisor(&["host"])?;
    ensure!(plain.status.success(), "numavisor host: {}", plain.status);
    let plain = String::from_utf8_lossy(&plain.stdout).into_owned();
    for node in &ctx.host.nodes {
        // The shape of the JSON is the api's business; that the kernel's figures are in it is ours.
        let meminfo = std::fs::read_to_string(format!("/sys/devices/system/node/node{}/meminfo", node.node))?;
        let kib: u64 = meminfo
            .lines()
            .find(|line| line.contains("MemTotal:"))
            .and_then(|line| line.split_whitespace().nth(3))
            .and_then(|kib| kib.parse().ok())
            .context("no MemTotal")?;
        ensure!(
            text.contains(&(kib * 1024).to_string()),
            "node {}: {} bytes are not in {text}",
            node.node,
            kib * 1024
        );
        let cpus = crate::rangelist::format(&node.cpus);
        ensure!(
            cpus.is_empty() || plain.contains(&cpus),
            "node {}: CPUs {cpus} are not in\n{plain}",
            node.node
        );
    }
    Ok(())
}

fn tables(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().to_string_lossy().into_owned();
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    let (zero, one) = (
        format!("id=0,memory=64M,vcpus=[0],pnode={first}"),
        format!("id=1,memory=64M,vcpus=[1],pnode={second}"),
    );
    let output = ctx.numavisor(&["plan", "--numa", &zero, "--numa", &one, "--acpi-dir", &path])?;
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    for table in ["SRAT", "SLIT", "APIC", "FACP", "DSDT", "XSDT"] {
        let file = directory.path().join(format!("{table}.dat"));
        let bytes = std::fs::read(&file).with_context(|| format!("{table}.dat"))?;
        ensure!(
            bytes.starts_with(table.as_bytes()),
            "{table}.dat begins with {:02x?}",
            &bytes[..4.min(bytes.len())]
        );
        let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        ensure!(sum == 0, "{table}.dat sums to {sum}");
    }
    Ok(())
}
