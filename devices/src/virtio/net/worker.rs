//! The running half of a network device: its pairs of queues and its control queue, in one thread.
//! Where that thread runs is `vmm`'s decision.

use std::any::Any;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::control::{COMMAND_BYTES, Command, ERROR, OK, parse};
use super::device::NetQueues;
use super::features::{switchable, to_offloads};
use super::pair::{Common, Pair, PairSource};
use super::state::NetDriverState;
use super::tap::Tap;
use crate::LogLimit;
use crate::state::StateError;
use crate::virtio::{Chain, GuestMemoryHandle, QueuePosition, Rest, Source, Worker, WorkerQueue};

const CONTROL_TOKEN: u32 = u32::MAX;
/// Most commands of one round: each may cost a system call or more.
const COMMANDS_PER_ROUND: u16 = 8;

/// The worker of a network device.
pub(super) struct NetWorker<M, T> {
    common: Common<M>,
    pairs: Vec<Pair<M, T>>,
    control: Option<WorkerQueue<M>>,
    /// Pairs in use, from the first on.
    in_use: usize,
    /// The driver's offloads that are on, as feature bits.
    offloads: u64,
    log: LogLimit,
}

impl<M: GuestMemoryHandle, T: Tap> NetWorker<M, T> {
    pub fn new(common: Common<M>, pairs: Vec<Pair<M, T>>, control: Option<WorkerQueue<M>>) -> Self {
        let offloads = switchable(common.features);
        Self { common, pairs, control, in_use: 1, offloads, log: LogLimit::per_second(1) }
    }

    /// What it does for its driver.
    pub fn save(&self) -> NetDriverState {
        NetDriverState {
            queue_pairs: u16::try_from(self.in_use).unwrap_or(u16::MAX),
            offloads: self.offloads,
            receive: self.pairs.iter().map(Pair::save).collect(),
        }
    }

    /// Does so for it again, before it has started.
    pub fn restore(&mut self, state: NetDriverState) -> Result<(), StateError> {
        state.check(self.common.features, self.pairs.len())?;
        let host = |call| {
            move |error: std::io::Error| StateError::Host {
                part: "net".to_owned(),
                call,
                reason: error.to_string(),
            }
        };
        self.in_use = usize::from(state.queue_pairs);
        for pair in self.pairs.iter().take(self.in_use) {
            pair.queues.tap.set_enabled(true).map_err(host("enable a queue of the interface"))?;
        }
        self.offloads = state.offloads;
        if let Some(first) = self.pairs.first() {
            let set = first.queues.tap.set_offloads(to_offloads(self.offloads));
            set.map_err(host("set the interface's offloads"))?;
        }
        for (pair, state) in self.pairs.iter_mut().zip(state.receive) {
            pair.restore(state);
        }
        Ok(())
    }

    /// The interface's queues back.
    pub fn into_queues(self) -> Vec<NetQueues<M, T>> {
        self.pairs.into_iter().map(|pair| pair.queues).collect()
    }

    fn start_pairs(&mut self) {
        for pair in self.pairs.iter_mut().take(self.in_use) {
            pair.start(&self.common);
        }
        self.tell_datapath();
    }

    fn tell_datapath(&self) {
        let kernel = self.pairs.iter().take(self.in_use).filter(|pair| pair.is_in_kernel()).count();
        let count = |n| u32::try_from(n).unwrap_or(u32::MAX);
        self.common.handle.set_pairs(count(kernel), count(self.in_use - kernel));
    }

    fn serve_control(&mut self) -> bool {
        let Some(mut control) = self.control.take() else { return false };
        let mut changed = false;
        control.begin_with(COMMANDS_PER_ROUND);
        while let Some(chain) = control.pop() {
            self.common.handle.counters().commands.one();
            let (answer, change) = self.command(&control, &chain);
            changed |= change;
            let written = chain.write(control.memory(), 0, &[answer]);
            control.used(chain, u32::try_from(written).unwrap_or(0));
        }
        control.signal();
        self.control = Some(control);
        changed
    }

    /// Does a command; its answer, and whether what to wait for has changed.
    fn command(&mut self, control: &WorkerQueue<M>, chain: &Chain) -> (u8, bool) {
        let mut bytes = [0; COMMAND_BYTES];
        let length = chain.read(control.memory(), 0, &mut bytes);
        let command = bytes.get(..length).unwrap_or_default();
        let pairs = u16::try_from(self.pairs.len()).unwrap_or(u16::MAX);
        match parse(command, self.common.features, pairs) {
            Some(Command::QueuePairs(wanted)) => (self.use_pairs(usize::from(wanted)), true),
            Some(Command::Offloads(features)) => {
                let Some(first) = self.pairs.first() else { return (ERROR, false) };
                match first.queues.tap.set_offloads(to_offloads(features)) {
                    Ok(()) => {
                        self.offloads = features;
                        (OK, false)
                    }
                    Err(error) => (self.refused("set offloads", &error), false),
                }
            }
            None => {
                self.common.handle.counters().malformed.one();
                control.refused("an unknown command");
                (ERROR, false)
            }
        }
    }

    fn use_pairs(&mut self, wanted: usize) -> u8 {
        let (less, more) = (wanted.min(self.in_use), wanted.max(self.in_use));
        let enable = wanted > self.in_use;
        for number in less..more {
            let Some(pair) = self.pairs.get_mut(number) else { continue };
            if !enable {
                pair.stop(&self.common);
            }
            if let Err(error) = pair.queues.tap.set_enabled(enable) {
                let answer = self.refused("switch a queue", &error);
                self.in_use = if enable { number } else { number + 1 };
                self.start_pairs();
                return answer;
            }
        }
        self.in_use = wanted;
        self.start_pairs();
        OK
    }

    fn refused(&mut self, what: &'static str, error: &std::io::Error) -> u8 {
        if let Some(suppressed) = self.log.admit(Instant::now()) {
            tracing::warn!(%error, what, suppressed, "net: host rejected a command");
        }
        ERROR
    }
}

impl<M: GuestMemoryHandle, T: Tap> Worker for NetWorker<M, T> {
    fn sources(&self) -> Vec<Source> {
        let mut sources = Vec::new();
        for (pair, base) in self.pairs.iter().take(self.in_use).zip((0..).step_by(PairSource::COUNT as usize))
        {
            pair.sources(base, &mut sources);
        }
        sources.extend(self.control.as_ref().map(|control| control.source(CONTROL_TOKEN)));
        sources
    }

    fn start(&mut self) {
        self.start_pairs();
        self.serve_control();
    }

    fn ready(&mut self, token: u32) -> bool {
        if token == CONTROL_TOKEN {
            return self.serve_control();
        }
        let Ok(number) = usize::try_from(token / PairSource::COUNT) else { return false };
        let pair = self.pairs.get_mut(number).filter(|_| number < self.in_use);
        match (pair, PairSource::of(token % PairSource::COUNT)) {
            (Some(pair), Some(source)) => pair.ready(source, &self.common),
            _ => false,
        }
    }

    /// Until the first of the pairs that rest wants to look. Where all of them do, what comes the other way gathers too.
    fn rest(&self, now: Instant) -> Option<Rest> {
        let own = || self.pairs.iter().take(self.in_use).filter(|pair| !pair.is_in_kernel());
        let until = own().filter_map(Pair::rest_until).min()?;
        let alone = own().all(|pair| pair.rest_until().is_some());
        Some(Rest { time: until.saturating_duration_since(now), alone })
    }

    fn look(&mut self, now: Instant) -> bool {
        let common = &self.common;
        self.pairs.iter_mut().take(self.in_use).fold(false, |changed, pair| pair.look(now, common) | changed)
    }

    fn stop(&mut self, _: &AtomicBool) {
        for pair in &mut self.pairs {
            pair.stop(&self.common);
        }
        self.common.handle.set_pairs(0, 0);
    }

    fn positions(&self) -> Vec<(u16, QueuePosition)> {
        let control = self.control.as_ref().map(WorkerQueue::position);
        self.pairs.iter().flat_map(Pair::positions).chain(control).collect()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
