//! Id types, one per kind of id, so that ids cannot be swapped. Sets of ids are in `set`.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The id as an index into a table that is dense from 0.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<u32> for $name {
            fn from(id: u32) -> Self {
                Self(id)
            }
        }

        impl From<$name> for u32 {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id!(
    /// A guest node, dense from 0; the same number is its ACPI proximity domain.
    VnodeId
);
id!(
    /// A host node as sysfs numbers it; may be sparse.
    PnodeId
);
id!(
    /// A guest CPU, dense from 0: the order of MADT and so Linux's CPU number.
    VcpuId
);
id!(
    /// A host CPU as sysfs numbers it; may be sparse.
    PcpuId
);
id!(
    /// An x2APIC id (Intel SDM 10.12.5.1); also KVM's number of the vCPU.
    ApicId
);
