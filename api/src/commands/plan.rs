//! `numavisor plan`: decides everything, fails where `run` would fail, and changes nothing.

use crate::addresses;
use crate::args::PlanArgs;
use crate::claims::ClaimsAt;
use crate::exit::Failure;
use crate::{files, look, show, start};
use resources::{HostTopology, Ledger, Plan, PlanError, VmSpec};
use std::path::Path;
use std::process::ExitCode;

/// Prints the plan and writes the tables.
pub fn run(args: &PlanArgs) -> Result<ExitCode, Failure> {
    let root = args.tree.root();
    let (spec, here) = (args.vm.spec()?, look::is_this(&root));
    let spec = if here { addresses::given(spec) } else { spec };
    // VMs that run here are none of another host's business, unless it is said where its VMs are.
    let ledger = match (&args.claims.claims_dir, here) {
        (Some(_), _) | (None, true) => ClaimsAt::from(&args.claims).ledger(),
        (None, false) => Ok(Ledger::new()),
    };
    let plan = decide(&spec, &look::host(&root)?, &ledger?)?;
    // What is on another host, nobody knows here.
    if here && let Some(error) = start::check(&plan, &spec, args.host.force_host)? {
        tracing::warn!("this VM cannot start here, KVM limits were not checked: {error}");
    }
    if let Some(directory) = &args.acpi_dir {
        write_tables(&plan, directory)?;
    }
    let document = show::plan_json::document(&plan);
    files::print(&match args.json {
        true => show::json(&document)?,
        false => show::plan::text(&show::value(&document)?),
    })
}

/// The plan, or why there is none.
pub fn decide(spec: &VmSpec, host: &HostTopology, ledger: &Ledger) -> Result<Plan, Failure> {
    Plan::beside(spec, host, ledger).map_err(|error: PlanError| Failure::of(error.diagnosis(), error))
}

/// Writes the RSDP and each table to a file that has its signature as name.
fn write_tables(plan: &Plan, directory: &Path) -> Result<(), Failure> {
    let set = vmm::tables(plan).map_err(Failure::input)?.tables;
    let refused = |path: &Path, error: std::io::Error| {
        Failure::input(format_args!("--acpi-dir: {}: {error}", path.display()))
    };
    std::fs::create_dir_all(directory).map_err(|error| refused(directory, error))?;
    let rsdp = std::iter::once(("RSDP".to_owned(), &set.rsdp));
    let tables =
        set.tables.iter().map(|table| (String::from_utf8_lossy(&table.signature).into_owned(), &table.bytes));
    for (name, bytes) in rsdp.chain(tables) {
        let path = directory.join(format!("{name}.dat"));
        std::fs::write(&path, bytes).map_err(|error| refused(&path, error))?;
    }
    Ok(())
}
