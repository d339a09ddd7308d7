//! Boot tests: stock Linux guests on the host at hand, one file per subject.
//!
//! A test names the host it needs and never asks whether that host is real or a lab.

mod balloon;
mod balloon_compaction;
mod balloon_life;
mod balloon_release;
mod balloon_traps;
mod consoles;
mod cpus;
mod cpusets;
mod debian;
mod disks;
mod fields;
mod inputs;
mod kernels;
mod life;
mod memory;
mod move_pages;
mod moves;
mod nets;
mod pauses;
mod policies;
mod resets;
mod segments;
mod serving;
mod soak;
mod sockets;
mod terminal;
mod topology;
mod unikernels;
mod views;

use std::cell::RefCell;
use std::process::Output;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};

use crate::runner::check;
use crate::runner::host::{HostFacts, Needs};
use crate::runner::payload::{GuestKernel, Payload};
use crate::runner::spec::GuestSpec;
use crate::runner::vm::{ERRORS, Start, Vm, note, untimed};

/// One boot test.
pub(crate) struct BootTest {
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    pub(crate) run: fn(&Ctx) -> Result<()>,
}

/// Tests of whose ground shorter ones cover the most: the same under another kernel, or with more of everything, or one
/// more shape of many. They run where they are named, and with `--long`; the others have to end in half an hour.
const LONG: [&str; 70] = [
    "topology_without_any_flag_is_one_vnode",
    "topology_interleaved_vcpus",
    "topology_memory_only_vnode",
    "topology_asymmetric_distances",
    "topology_extreme_distances",
    "topology_distances_of_the_host",
    "topology_hmat_reaches_sysfs",
    "topology_many_vnodes_on_one_pnode",
    "topology_uneven_vnodes_on_an_uneven_host",
    "topology_vnode_across_the_hole_below_4_gib",
    "topology_four_vnodes_in_a_ring",
    "kernel_newer_with_two_vnodes",
    "kernel_newer_with_a_memory_only_vnode",
    "kernel_command_line_arrives",
    "cpus_affinity_soft_and_none",
    "cpus_more_vcpus_than_the_node_has",
    "cpus_sixteen_on_four_vnodes",
    "cpus_sixty_four_vnodes",
    "cpus_apic_ids_above_255",
    "cpuset_of_cgroup_v2_is_respected",
    "memory_all_of_it_filled_is_on_its_pnode",
    "memory_two_guests_at_once",
    "memory_1g_pages_from_each_nodes_pool",
    "balloon_takes_from_the_vnode_under_a_newer_kernel",
    "balloon_of_a_guest_that_compacts",
    "balloon_of_a_newer_guest_that_compacts",
    "balloon_beside_a_kernel_that_makes_huge_pages_whole",
    "balloon_all_at_once_past_free_memory",
    "balloon_all_at_once_past_free_memory_under_a_newer_kernel",
    "balloon_of_1g_pages_that_stay_taken",
    "balloon_of_a_guest_that_clears_free_pages",
    "balloon_of_a_guest_that_poisons_free_pages",
    "balloon_asks_nothing_where_pages_would_be_another_vnodes",
    "balloon_rests_drains_and_holds_over_a_reboot",
    "balloon_of_a_driver_that_goes_in_mid_flight_and_comes_late",
    "balloon_of_a_guest_that_starts_another_kernel_stands_still",
    "balloon_release_over_a_driver_that_goes_and_a_reset",
    "reclaim_of_a_vnode_on_two_pnodes",
    "reclaim_by_pnode_of_four_vnodes_on_three_of_eight",
    "soak_of_guarded_memory_at_high_pressure",
    "policy_preferred",
    "policy_bind_to_two_pnodes",
    "console_into_a_file",
    "move_keeps_preferred_and_interleave",
    "move_4k_pages_under_load",
    "move_transparent_huge_pages_under_load",
    "swap_two_vnodes_of_nearly_full_pnodes",
    "disk_two_and_entropy_under_a_newer_kernel",
    "segments_eight_vnodes_and_32_disks",
    "net_pings_both_ways_and_leaves_no_tap",
    "pause_holds_what_the_kernel_serves",
    "field_balancing_leaves_guest_memory_alone",
    "field_input_that_ends_leaves_no_busy_thread",
    "life_reset_reboots_when_asked",
    "life_scripted_guest_powers_off",
    "life_reset_ends_with_its_status",
    "segments_one_vnode",
    "policy_interleave_over_two_pnodes",
    "view_host_with_a_node_without_cpus",
    "move_2m_pages_under_load",
    "field_disk_with_sectors_of_4k",
    "topology_eight_vnodes",
    "serve_boots_again_and_again",
    "kernel_newer_reads_hmat",
    "a_vnode_bound_to_two_pnodes_has_a_part_on_each",
    "cpus_two_hundred_and_fifty_six",
    "console_on_its_vnode_has_one_attached_at_a_time",
    "two_moves_at_once_and_one_during_an_inflate",
    "disk_does_the_same_where_io_uring_is_forbidden",
    "topology_tables_and_caches_are_those_of_the_plan",
];

/// Whether a test is left to `--long`.
pub(crate) fn is_long(test: &BootTest) -> bool {
    LONG.contains(&test.name)
}

/// Every boot test, in the order in which they run.
pub(crate) fn all() -> impl Iterator<Item = &'static BootTest> {
    [
        views::TESTS,
        topology::TESTS,
        kernels::TESTS,
        unikernels::TESTS,
        cpus::TESTS,
        cpusets::TESTS,
        memory::TESTS,
        balloon::TESTS,
        balloon_compaction::TESTS,
        balloon_life::TESTS,
        balloon_release::TESTS,
        balloon_traps::TESTS,
        soak::TESTS,
        policies::TESTS,
        consoles::TESTS,
        moves::TESTS,
        move_pages::TESTS,
        disks::TESTS,
        segments::TESTS,
        nets::TESTS,
        pauses::TESTS,
        resets::TESTS,
        fields::TESTS,
        sockets::TESTS,
        debian::TESTS,
        life::TESTS,
        serving::TESTS,
        terminal::TESTS,
        inputs::TESTS,
    ]
    .into_iter()
    .flatten()
}

/// Whether a test boots the Debian on a disk.
pub(crate) fn wants_debian(test: &BootTest) -> bool {
    debian::TESTS.iter().any(|one| one.name == test.name)
}

/// What a test may use.
pub(crate) struct Ctx<'a> {
    pub(crate) payload: &'a Payload,
    pub(crate) host: &'a HostFacts,
    pub(crate) needs: Needs,
    pub(crate) transcript: Rc<RefCell<String>>,
}

impl Ctx<'_> {
    /// The `index`th of the nodes that fulfil the test's needs.
    pub(crate) fn pnode(&self, index: usize) -> u32 {
        self.host.ordinary(&self.needs)[index].node
    }

    /// The CPUs of a node.
    pub(crate) fn cpus_of(&self, pnode: u32) -> Vec<u32> {
        self.host
            .nodes
            .iter()
            .find(|node| node.node == pnode)
            .map(|node| node.cpus.clone())
            .unwrap_or_default()
    }

    /// Starts a guest and waits for its init.
    pub(crate) fn boot(&self, start: &Start) -> Result<Vm> {
        let mut vm = self.start(start)?;
        vm.ready()?;
        Ok(vm)
    }

    /// Starts a guest.
    pub(crate) fn start(&self, start: &Start) -> Result<Vm> {
        Vm::start(self.payload, start, &self.transcript)
    }

    /// Boots `spec` bound and pinned as it says, checks both views of it, and powers it off.
    pub(crate) fn boots_bound(&self, spec: &GuestSpec, kernel: GuestKernel) -> Result<()> {
        let mut vm = self.boot(&Start::of(spec).kernel(kernel))?;
        let report = vm.report()?;
        check::guest_view(spec, &report)?;
        let touched = check::bound(&vm, spec)?;
        for (vnode, pages) in touched.iter().enumerate() {
            ensure!(spec.vnodes[vnode].mib == 0 || *pages > 0, "no page of vnode {vnode} was touched at all");
        }
        check::threads(&vm, spec, |pnode| self.cpus_of(pnode))?;
        vm.power_off()
    }

    /// Starts a guest that the host must refuse with status `code`, and returns what was said: one line.
    pub(crate) fn refused(&self, start: &Start, code: i32) -> Result<String> {
        let before = self.transcript.borrow().len();
        let mut vm = self.start(start)?;
        let status = vm.ended()?;
        drop(vm);
        let transcript = self.transcript.borrow();
        let since = transcript.get(before..).unwrap_or_default();
        let said: Vec<&str> = since.lines().filter_map(|line| untimed(line).strip_prefix(ERRORS)).collect();
        ensure!(status.code() == Some(code), "ended with {status}, not with {code}: {said:?}");
        ensure!(said.len() == 1, "the refusal is not one line: {said:?}");
        Ok(said[0].to_owned())
    }

    /// Runs a busybox command on the host, which must succeed.
    pub(crate) fn busybox(&self, words: &[&str]) -> Result<String> {
        let output = std::process::Command::new("/bin/busybox").args(words).output().context("busybox")?;
        let said = [output.stdout.as_slice(), &output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        said.lines().for_each(|line| note(&self.transcript, line));
        ensure!(output.status.success(), "{words:?} ended with {}: {said}", output.status);
        Ok(said)
    }

    /// Runs numavisor with arguments it should end on by itself.
    pub(crate) fn numavisor(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = std::process::Command::new(self.payload.numavisor());
        command.args(arguments);
        let output = command.output().context("starting numavisor")?;
        let said = [output.stdout.as_slice(), &output.stderr].concat();
        let lines = format!("$ {command:?}\n{}", String::from_utf8_lossy(&said));
        lines.lines().for_each(|line| note(&self.transcript, line));
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use super::{LONG, all};

    #[test]
    fn what_is_long_is_a_test() {
        let unknown: Vec<&str> =
            LONG.into_iter().filter(|long| all().all(|test| test.name != *long)).collect();
        assert_eq!(unknown, Vec::<&str>::new());
    }
}
