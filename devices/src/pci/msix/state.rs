//! The state of MSI-X: the table and the pending bits. Message control is in the configuration space.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::{ADDRESS_RESERVED, Gate, Msix, Vector, lock};
use crate::interrupt::MsiMessage;
use crate::state::{State, StateError, ensure};

/// State of an [`Msix`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsixState {
    /// The vectors from 0 on.
    pub vectors: Vec<VectorState>,
}

/// An entry of the table, and its pending bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VectorState {
    /// Message address, a multiple of 4.
    pub address: u64,
    /// Message data.
    pub data: u32,
    /// The vector is masked.
    pub masked: bool,
    /// It was triggered, and is sent once nothing masks it.
    pub pending: bool,
}

impl State for MsixState {
    const NAME: &'static str = "msix";
    const VERSION: u32 = 1;
}

impl MsixState {
    /// As a guest finds so many vectors: masked.
    #[must_use]
    pub fn power_on(vectors: u16) -> Self {
        let vector = VectorState { address: 0, data: 0, masked: true, pending: false };
        Self { vectors: vec![vector; vectors.into()] }
    }
}

impl Msix {
    /// The state now. No device may trigger vectors meanwhile.
    #[must_use]
    pub fn save(&self) -> MsixState {
        let state = |vector| {
            let vector = lock(vector);
            let MsiMessage { address, data } = vector.message;
            VectorState { address, data, masked: vector.masked, pending: vector.pending }
        };
        MsixState { vectors: self.vectors.iter().map(state).collect() }
    }

    /// Puts the vectors into `state`, with MSI-X off: [`set_control`](Self::set_control) comes next, and then sends what is
    /// pending and not masked.
    ///
    /// # Errors
    /// [`StateError::Value`]; nothing has changed.
    pub fn restore(&self, state: &MsixState) -> Result<(), StateError> {
        self.check(state)?;
        self.enabled.store(false, Ordering::Relaxed);
        for ((number, vector), state) in (0..).zip(&self.vectors).zip(&state.vectors) {
            let mut vector = lock(vector);
            *vector = Vector {
                message: MsiMessage { address: state.address, data: state.data },
                masked: state.masked,
                pending: state.pending,
                gate: Gate::Off,
                sent: vector.sent,
            };
            self.apply(number, &mut vector);
        }
        Ok(())
    }

    /// As at power-on: all vectors masked and off.
    pub fn reset(&self) {
        // Refused for no state that the vectors have been in.
        let _ = self.restore(&MsixState::power_on(self.count()));
    }

    /// Whether the vectors can be in `state`.
    pub(crate) fn check(&self, state: &MsixState) -> Result<(), StateError> {
        let count = state.vectors.len();
        ensure::<MsixState>(count == self.vectors.len(), "vectors", count, "must be the function's vectors")?;
        for (number, vector) in state.vectors.iter().enumerate() {
            ensure::<MsixState>(
                vector.address & ADDRESS_RESERVED == 0,
                format!("vectors[{number}].address"),
                format_args!("{:#x}", vector.address),
                "must be a multiple of 4",
            )?;
        }
        Ok(())
    }
}
