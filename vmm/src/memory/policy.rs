//! A vnode's memory policy in the kernel's words.

use crate::sys::{Mode, NodeMask};
use resources::{MemoryPolicy, NodeSet};

/// Mode and nodes for `mbind(2)`; `None` when a node has a number that no kernel knows.
pub fn kernel_policy(policy: MemoryPolicy, pnodes: &NodeSet) -> Option<(Mode, NodeMask)> {
    let mode = match policy {
        MemoryPolicy::Bind => Mode::Bind,
        MemoryPolicy::Interleave => Mode::Interleave,
        MemoryPolicy::Preferred if pnodes.len() == 1 => Mode::Preferred,
        MemoryPolicy::Preferred => Mode::PreferredMany,
    };
    Some((mode, NodeMask::new(pnodes)?))
}

#[cfg(test)]
mod tests {
    use super::kernel_policy;
    use crate::sys::Mode;
    use resources::MemoryPolicy::{Bind, Interleave, Preferred};

    #[test]
    fn preferring_several_nodes_is_a_mode_of_its_own() {
        let mode = |policy, nodes: &str| kernel_policy(policy, &nodes.parse().unwrap()).unwrap().0;
        assert_eq!(mode(Preferred, "1"), Mode::Preferred);
        assert_eq!(mode(Preferred, "0-1"), Mode::PreferredMany);
        assert_eq!(mode(Bind, "0-1"), Mode::Bind);
        assert_eq!(mode(Interleave, "0"), Mode::Interleave);
    }
}
