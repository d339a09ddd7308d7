//! The state of a segment: that of its functions, and which BARs answer.

use serde::{Deserialize, Serialize};

use super::{PciSegment, SLOTS, lock, note};
use crate::state::{Section, State, StateError, ensure};

/// State of a [`PciSegment`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentState {
    /// Its functions, ascending by slot; the host bridge is the first.
    pub functions: Vec<FunctionState>,
}

/// State of a function in its slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionState {
    /// The slot.
    pub slot: u8,
    /// BARs that answer. Of two that overlap this is the one that did first.
    pub decoded: Vec<DecodedBar>,
    /// The function's own state.
    pub sections: Vec<Section>,
}

/// A BAR that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecodedBar {
    /// The first of its registers.
    pub index: u8,
    /// Where.
    pub address: u64,
}

impl State for SegmentState {
    const NAME: &'static str = "pci-segment";
    const VERSION: u32 = 1;
}

impl PciSegment {
    /// Has all functions finish what is in flight and start nothing more. Does not wait for that: all of it
    /// [is settled](Self::is_settled) then.
    pub fn hold(&self) {
        self.functions.iter().flatten().for_each(|function| lock(function).hold());
    }

    /// All functions go on.
    pub fn resume(&self) {
        self.functions.iter().flatten().for_each(|function| lock(function).resume());
    }

    /// The state of a segment that is held. No vCPU may run.
    ///
    /// # Errors
    /// [`StateError::Running`] if a function is not held.
    pub fn save(&self) -> Result<SegmentState, StateError> {
        let wishes = lock(&self.wishes);
        let mut functions = Vec::new();
        for (slot, function) in (0..SLOTS).zip(&self.functions) {
            let Some(function) = function else { continue };
            let own = wishes.iter().filter(|wish| wish.slot == slot);
            let decoded = own.filter_map(|wish| Some(DecodedBar { index: wish.bar, address: wish.granted? }));
            let decoded = decoded.collect();
            functions.push(FunctionState { slot, decoded, sections: lock(function).save()? });
        }
        Ok(SegmentState { functions })
    }

    /// Puts a segment with functions of the same kinds in the same slots into `state`. All of them must be held, or not have
    /// been used yet, and are held afterwards. No vCPU may run.
    ///
    /// # Errors
    /// [`StateError`]. Functions in lower slots than that of the error may have their new state: the segment has to be
    /// [reset](Self::reset) or dropped.
    pub fn restore(&self, state: SegmentState) -> Result<(), StateError> {
        let slots = (0..SLOTS).zip(&self.functions).filter(|(_, function)| function.is_some());
        let same = slots.map(|(slot, _)| slot).eq(state.functions.iter().map(|function| function.slot));
        let found: Vec<_> = state.functions.iter().map(|function| function.slot).collect();
        let rule = "must be the slots of this segment's functions, ascending";
        ensure::<SegmentState>(same, "functions", format_args!("slots {found:?}"), rule)?;
        let mut wishes = lock(&self.wishes);
        let mut decoded = Vec::new();
        for (function, state) in self.functions.iter().flatten().zip(state.functions) {
            lock(function).restore(state.sections)?;
            decoded.extend(state.decoded.into_iter().map(|bar| (state.slot, bar)));
        }
        // Those that answered first, where that makes sense; then the others as their registers say.
        for wish in wishes.iter_mut() {
            let answers = |(slot, bar): &&(u8, DecodedBar)| *slot == wish.slot && bar.index == wish.bar;
            wish.address = decoded.iter().find(answers).map(|(_, bar)| bar.address);
        }
        self.decode(&mut wishes);
        for (slot, function) in (0..SLOTS).zip(&self.functions) {
            if let Some(function) = function {
                note(&mut wishes, slot, &**lock(function));
            }
        }
        self.decode(&mut wishes);
        Ok(())
    }
}
