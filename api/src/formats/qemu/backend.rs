//! `-object memory-backend-*`: size, host nodes and page size.

use crate::formats::Refusal;
use crate::formats::list::{ids, shown};
use crate::formats::notes::Notes;
use crate::formats::qemu::options::Options;
use resources::spec::Switch;
use resources::{Bytes, MemoryPolicy, NodeSet, PageSize, VnodeSpec};
use std::collections::BTreeMap;

/// Memory backends by id.
pub type Backends = BTreeMap<String, Backend>;

/// One memory backend.
#[derive(Debug, Clone)]
pub struct Backend {
    /// How much.
    pub size: Bytes,
    nodes: NodeSet,
    policy: Option<MemoryPolicy>,
    pages: Option<PageSize>,
    prefault: Option<Switch>,
    shared: Option<Switch>,
}

impl Backend {
    /// Reads an object; none if it is no memory backend.
    pub fn read(mut options: Options, notes: &mut Notes) -> Result<Option<(String, Self)>, Refusal> {
        let kind = options.needed("qom-type")?;
        if !["memory-backend-ram", "memory-backend-memfd", "memory-backend-shm", "memory-backend-file"]
            .contains(&kind.as_str())
        {
            notes.at(options.line, format!("{} {} is ignored", options.name, shown(&kind)));
            return Ok(None);
        }
        options.plain_only()?;
        let id = options.needed("id")?;
        let size =
            options.size("size", 1)?.ok_or_else(|| options.refuse("size", "missing, must be given"))?;
        let nodes = ids::<resources::PnodeId>(&options.all("host-nodes").join(","));
        let nodes = nodes.map_err(|why| options.refuse("host-nodes", why))?;
        let policy = match options.take("policy").as_deref() {
            None | Some("default") => None,
            Some("bind") => Some(MemoryPolicy::Bind),
            Some("preferred") => Some(MemoryPolicy::Preferred),
            Some("interleave") => Some(MemoryPolicy::Interleave),
            Some(word) => {
                let what = format!("`{}` is not one of default, bind, preferred, interleave", shown(word));
                return Err(options.refuse("policy", what));
            }
        };
        match (nodes.is_empty(), policy) {
            (false, None) => return Err(options.refuse("host-nodes", "needs a policy other than default")),
            (true, Some(_)) => return Err(options.refuse("policy", "needs host-nodes")),
            (true, None) | (false, Some(_)) => {}
        }
        let prefault = options.switch("prealloc")?.map(Switch);
        let pages = pages(&kind, &mut options, notes)?;
        let shared = options.switch("share")?.map(Switch);
        for default in [("merge", "off"), ("dump", "on")] {
            if options.take(default.0).is_some_and(|value| value != default.1) {
                notes.at(options.line, format!("{} {} is ignored", options.name, default.0));
            }
        }
        options.leave_rest(notes);
        Ok(Some((id, Self { size, nodes, policy, pages, prefault, shared })))
    }

    /// Whether memory of a vnode lies where this lies and is of the same pages.
    pub fn is_like(&self, vnode: &VnodeSpec) -> bool {
        let nodes = Some(&self.nodes).filter(|nodes| !nodes.is_empty());
        (nodes, self.policy, self.pages) == (vnode.pnode.as_ref(), vnode.policy, vnode.pages)
    }

    /// Puts a vnode's memory here.
    pub fn give(&self, vnode: &mut VnodeSpec) {
        vnode.memory = Some(self.size);
        vnode.pnode = Some(self.nodes.clone()).filter(|nodes| !nodes.is_empty());
        (vnode.policy, vnode.pages) = (self.policy, self.pages);
        (vnode.prefault, vnode.shared) = (self.prefault, self.shared);
    }
}

fn pages(kind: &str, options: &mut Options, notes: &mut Notes) -> Result<Option<PageSize>, Refusal> {
    let of = |size: Bytes| match size {
        size if size == Bytes::mib(2) => Ok(PageSize::Huge2M),
        size if size == Bytes::gib(1) => Ok(PageSize::Huge1G),
        size => Err(format!("{size} is not one of 2M, 1G")),
    };
    if kind == "memory-backend-file" {
        let path = options.needed("mem-path")?;
        return Ok(file_pages(&path, options.line, &options.name, notes));
    }
    let huge = options.switch("hugetlb")?.unwrap_or(false);
    match options.size("hugetlbsize", 1)? {
        None if huge => {
            notes.at(
                options.line,
                format!("{} hugetlb without hugetlbsize is taken as 2M pages", options.name),
            );
            Ok(Some(PageSize::Huge2M))
        }
        Some(size) if huge => of(size).map(Some).map_err(|why| options.refuse("hugetlbsize", why)),
        Some(_) | None => Ok(None),
    }
}

/// Where huge pages are mounted is a habit; the path says which they are likely to be.
pub fn file_pages(path: &str, line: usize, name: &str, notes: &mut Notes) -> Option<PageSize> {
    let (pages, what) = match path {
        path if !path.contains("huge") => (None, "as ordinary memory"),
        path if path.contains("1G") || path.contains("1048576") => (Some(PageSize::Huge1G), "as 1G pages"),
        _ => (Some(PageSize::Huge2M), "as 2M pages"),
    };
    notes.at(line, format!("{name} {} is taken {what}", shown(path)));
    pages
}
