//! Sets of nodes and policy modes as the kernel takes them. What has which policy is decided in `memory`.

use super::errno::HostError;
use resources::{NodeSet, PnodeId};

/// Nodes that fit in a kernel mask: `MAX_NUMNODES` is 1,024 on x86 (`CONFIG_NODES_SHIFT` at most 10).
const MASK_NODES: usize = 1024;
const WORD_BITS: usize = u64::BITS as usize;

/// A set of nodes as the kernel takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeMask {
    words: [u64; MASK_NODES / WORD_BITS],
}

impl NodeMask {
    /// `None` when a node is past what any x86 kernel has.
    pub fn new(nodes: &NodeSet) -> Option<Self> {
        let mut words = [0; MASK_NODES / WORD_BITS];
        for node in nodes.iter() {
            *words.get_mut(node.index() / WORD_BITS)? |= 1 << (node.index() % WORD_BITS);
        }
        Some(Self { words })
    }

    /// None.
    pub(super) fn empty() -> Self {
        Self { words: [0; MASK_NODES / WORD_BITS] }
    }

    /// The nodes that the cpuset of this thread allows now.
    pub(super) fn allowed() -> Result<Self, HostError> {
        const MEMS_ALLOWED: libc::c_ulong = 1 << 2;
        let mut mask = Self::empty();
        let no_mode = std::ptr::null_mut::<libc::c_int>();
        // SAFETY: the mask is as long as said, and the kernel writes nothing else.
        let result = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                no_mode,
                mask.words.as_mut_ptr(),
                MASK_NODES,
                std::ptr::null_mut::<libc::c_void>(),
                MEMS_ALLOWED,
            )
        };
        if result == 0 { Ok(mask) } else { Err(HostError::last("get_mempolicy")) }
    }

    /// Whether node 0 is in it and no other.
    pub(super) fn is_only_node_0(&self) -> bool {
        self.words[0] == 1 && self.words[1..].iter().all(|word| *word == 0)
    }

    /// The words, and how many nodes they have bits for.
    pub(super) fn words(&self) -> (*const u64, usize) {
        (self.words.as_ptr(), MASK_NODES)
    }

    /// As [`words`](Self::words), to be written to.
    pub(super) fn words_mut(&mut self) -> (*mut u64, usize) {
        (self.words.as_mut_ptr(), MASK_NODES)
    }

    /// As a set.
    pub fn nodes(&self) -> NodeSet {
        self.without(&Self::empty())
    }

    /// Those of `self` that `other` does not have.
    pub(super) fn without(&self, other: &Self) -> NodeSet {
        let has = |mask: &Self, node: usize| mask.words[node / WORD_BITS] >> (node % WORD_BITS) & 1 == 1;
        let ids = (0..MASK_NODES).filter(|node| has(self, *node) && !has(other, *node));
        ids.filter_map(|node| u32::try_from(node).ok()).map(PnodeId).collect()
    }
}

/// A memory policy mode (`linux/mempolicy.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `MPOL_PREFERRED`: one node, else others.
    Preferred,
    /// `MPOL_BIND`: these nodes only.
    Bind,
    /// `MPOL_INTERLEAVE`: page by page in turn.
    Interleave,
    /// `MPOL_PREFERRED_MANY`: these nodes, else others (Linux 5.15).
    PreferredMany,
}

/// The kernel keeps the nodes as they are named when the process' cpuset changes; without it, it would rename them
/// (`MPOL_F_STATIC_NODES`).
const STATIC_NODES: libc::c_int = 1 << 15;

impl Mode {
    pub(super) fn number(self) -> libc::c_int {
        let mode = match self {
            Self::Preferred => 1,
            Self::Bind => 2,
            Self::Interleave => 3,
            Self::PreferredMany => 5,
        };
        mode | STATIC_NODES
    }
}

#[cfg(test)]
mod tests {
    use super::NodeMask;

    #[test]
    fn sets_have_the_nodes_that_a_kernel_can_have() {
        let set = |list: &str| NodeMask::new(&list.parse().unwrap());
        assert_eq!(set("1024"), None);
        let some = set("0-1,64,1023").unwrap();
        assert_eq!(some.without(&set("1,64").unwrap()), "0,1023".parse().unwrap());
        assert!(some.without(&some).is_empty());
        let only_0 = ["0", "1", "0-1", "0,64", ""].map(|list| set(list).unwrap().is_only_node_0());
        assert_eq!(only_0, [true, false, false, false, false]);
    }

    #[test]
    fn what_this_process_may_use_is_what_the_kernel_says() {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let list = status.lines().find_map(|line| line.strip_prefix("Mems_allowed_list:")).unwrap();
        let allowed = NodeMask::allowed().unwrap();
        assert_eq!(allowed.without(&NodeMask::empty()), list.trim().parse().unwrap());
    }
}
