//! Memory that is taken, given back and moved while its guest looks at it: no page changes, and the guest lives. A long
//! form of it is `cargo xtask soak`.

use std::rc::Rc;

use anyhow::{Result, ensure};

use super::{BootTest, Ctx};
use crate::lab::job::Pressure;
use crate::runner::host::Needs;
use crate::runner::soak::Guest;

const TWO: Needs =
    Needs { nodes: 2, mib: 700, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "soak_of_guarded_memory_at_low_pressure", needs: TWO, run: low },
    BootTest { name: "soak_of_guarded_memory_at_high_pressure", needs: TWO, run: high },
];

const ROUNDS: u64 = 1;

fn low(ctx: &Ctx) -> Result<()> {
    soak(ctx, Pressure::Low)
}

fn high(ctx: &Ctx) -> Result<()> {
    soak(ctx, Pressure::High)
}

fn soak(ctx: &Ctx, pressure: Pressure) -> Result<()> {
    let pnodes = [ctx.pnode(0), ctx.pnode(1)];
    let mut guest = Guest::numavisor(ctx.payload, pnodes, 2, pressure, true, &Rc::clone(&ctx.transcript))?;
    for round in 0..ROUNDS {
        guest.round(round)?;
    }
    let found = guest.found()?;
    ensure!(found["wrong"] == 0, "pages changed: {found}");
    ensure!(found["looked"].as_u64() > Some(0), "the guest looked at no page: {found}");
    guest.end()
}
