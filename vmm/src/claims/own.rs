//! The claim of a VM that runs here, vnode by vnode: it grows before a vnode moves and shrinks after. While a move is
//! under way, and after one that did not reach its end, both sides are claimed, so that it can go on, or back. What a
//! vnode's balloon holds may be released, and is claimed again before the guest has it; how much, is a `Lease`'s.

use crate::claims::{Book, Claims, ClaimsError, Held, Living, Survey, touched};
use resources::{Bytes, Claim, Ledger, NodeClaim, Placement, PnodeId, Vnode, VnodeId, VnodePlacement};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a VM that runs waits for the directory: others hold its lock for milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The claim. Calls may wait for the directory's lock: not for the control loop.
#[derive(Debug)]
pub struct OwnClaim {
    /// Where it is claimed; `None` where nobody is told.
    claims: Option<Claims>,
    /// `None` while somebody has a turn.
    state: Mutex<Option<State>>,
    back: Condvar,
}

/// One who may change the claim: nobody else does meanwhile.
#[derive(Debug)]
pub struct Turn<'a> {
    own: &'a OwnClaim,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Held>,
    vnodes: Vec<Own>,
    /// What others are told: never less than the vnodes claim.
    written: Claim,
}

/// Of one vnode.
#[derive(Debug, Clone, Default)]
struct Own {
    /// What it claims: less than it needs by what it has released.
    claim: Claim,
    released: Claim,
}

/// A claim that is to take the place of a vnode's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// All its memory where it has been. What it released of that stays released.
    Stays(Claim),
    /// What it needs where it is now: nothing of that is released.
    Moved(Claim),
}

/// What was seen of the others, and of this VM, before a claim is to grow.
#[derive(Debug, Default)]
pub struct Seen {
    others: Survey,
    /// What this VM has touched.
    has: Claim,
}

impl OwnClaim {
    /// As it was claimed at the start; `held` is `None` where nobody is told.
    pub fn new(held: Option<Held>, placement: &Placement) -> Self {
        let own = |at: &VnodePlacement| Own { claim: at.claim.clone(), released: Claim::default() };
        let vnodes = placement.vnodes.iter().map(own).collect();
        let claims = held.as_ref().map(Held::claims).cloned();
        let state = State { held, written: placement.claim.clone(), vnodes };
        Self { claims, state: Mutex::new(Some(state)), back: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn.
    pub fn turn(&self) -> Turn<'_> {
        let state = self.back.wait_while(self.lock(), |state| state.is_none());
        let state = state.unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        Turn { own: self, state }
    }

    /// Waits for a turn, but not for long.
    pub fn turn_within(&self, patience: Duration) -> Option<Turn<'_>> {
        let waited = self.back.wait_timeout_while(self.lock(), patience, |state| state.is_none());
        let state = waited.unwrap_or_else(PoisonError::into_inner).0.take()?;
        Some(Turn { own: self, state })
    }

    /// What [`Turn::grow`] needs to know. It takes time, and no turn: the kernel walks the page tables of all VMs.
    pub fn look(&self) -> Result<Seen, ClaimsError> {
        let others = self.claims.as_ref().map_or_else(|| Ok(Survey::default()), Claims::survey)?;
        Ok(Seen { others, has: touched::own(Path::new(touched::PROCFS)).has })
    }

    /// Gives all of it back.
    pub fn release(&self) {
        self.turn().state.held = None;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.own.lock() = Some(std::mem::take(&mut self.state));
        self.own.back.notify_one();
    }
}

impl Turn<'_> {
    /// Has `decide` say what vnodes claim beside others, and claims it before anybody else claims anything; nothing is
    /// claimed if it refuses. It is asked with what others were promised, other VMs and the vnodes of this one that do
    /// not move, and looks at the host itself; once more, under the directory's lock, if others have claimed meanwhile.
    /// `moving` is what each vnode that moves has where.
    pub fn grow<E: From<ClaimsError>>(
        &mut self,
        seen: Seen,
        moving: &BTreeMap<VnodeId, Vec<(PnodeId, NodeClaim)>>,
        mut decide: impl FnMut(&Ledger) -> Result<Vec<(VnodeId, Claim)>, E>,
    ) -> Result<(), E> {
        self.change(seen, moving, |ledger, vnodes| {
            for (vnode, claim) in decide(ledger)? {
                if let Some(own) = vnodes.get_mut(vnode.index()) {
                    own.claim = std::mem::take(&mut own.claim).at_least(&claim);
                }
            }
            Ok(())
        })
    }

    /// Claims again what a vnode has released of a pnode: as much as `decide` says, which is asked as by [`grow`](Self::grow),
    /// with all that this VM claims too.
    pub fn claim_back<E: From<ClaimsError>>(
        &mut self,
        seen: Seen,
        (vnode, pnode): (VnodeId, PnodeId),
        mut decide: impl FnMut(&Ledger) -> Result<NodeClaim, E>,
    ) -> Result<(), E> {
        self.change(seen, &BTreeMap::new(), |ledger, vnodes| {
            let back = Claim { pnodes: [(pnode, decide(ledger)?)].into() };
            if let Some(own) = vnodes.get_mut(vnode.index()) {
                own.claim = [&own.claim, &back].into_iter().sum();
                own.released = own.released.less(&back);
            }
            Ok(())
        })
    }

    fn change<E: From<ClaimsError>>(
        &mut self,
        seen: Seen,
        moving: &BTreeMap<VnodeId, Vec<(PnodeId, NodeClaim)>>,
        mut decide: impl FnMut(&Ledger, &mut [Own]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Seen { others, mut has } = seen;
        for (pnode, node) in moving.values().flatten() {
            has = has.less(&Claim { pnodes: [(*pnode, node.clone())].into() });
        }
        let staying = self.state.vnodes.iter().enumerate();
        let staying = staying.filter(|(at, _)| !moving.keys().any(|vnode| vnode.index() == *at));
        let staying: Claim = staying.map(|(_, own)| &own.claim).sum();
        let beside = |living: &[Living], held: Option<&Held>| {
            let mut ledger = held.map_or_else(Ledger::new, |held| Living::ledger_without(living, held));
            ledger.add(&staying, &has);
            ledger
        };
        let mut vnodes = self.state.vnodes.clone();
        decide(&beside(&others.living, self.state.held.as_ref()), &mut vnodes)?;
        let mut book = None;
        if let Some(held) = &self.state.held {
            let locked = held.claims().lock_within(&others, PATIENCE)?;
            if !locked.as_surveyed {
                vnodes.clone_from(&self.state.vnodes);
                decide(&beside(&locked.living, Some(held)), &mut vnodes)?;
            }
            book = Some(locked);
        }
        self.write(book, &vnodes)?;
        self.state.vnodes = vnodes;
        Ok(())
    }

    /// Lowers a vnode's claim by what the guest gave back: others may have it from now on.
    pub fn release(&mut self, vnode: VnodeId, what: &Claim) -> Result<(), ClaimsError> {
        let mut vnodes = self.state.vnodes.clone();
        if let Some(own) = vnodes.get_mut(vnode.index()) {
            own.claim = own.claim.less(what);
            own.released = [&own.released, what].into_iter().sum();
        }
        let claims = self.state.held.as_ref().map(|held| held.claims().clone());
        let book = claims.map(|claims| claims.lock_within(&Survey::default(), PATIENCE)).transpose()?;
        self.write(book, &vnodes)?;
        self.state.vnodes = vnodes;
        Ok(())
    }

    /// What a vnode claims, and beside that has released.
    pub fn of(&self, vnode: VnodeId) -> Claim {
        let own = self.state.vnodes.get(vnode.index());
        own.map(|own| [&own.claim, &own.released].into_iter().sum()).unwrap_or_default()
    }

    /// What a vnode has released.
    pub fn released(&self, vnode: VnodeId) -> Claim {
        self.state.vnodes.get(vnode.index()).map(|own| own.released.clone()).unwrap_or_default()
    }

    /// Puts other claims in the place of these. If the directory does not take them, others are told of the larger ones
    /// until the next change that it takes: nothing is lost, only some room.
    pub fn settle(&mut self, settled: &[(VnodeId, Settled)]) {
        for (vnode, settled) in settled {
            let Some(own) = self.state.vnodes.get_mut(vnode.index()) else { continue };
            match settled {
                Settled::Stays(claim) => own.claim = claim.less(&own.released),
                Settled::Moved(claim) => *own = Own { claim: claim.clone(), released: Claim::default() },
            }
        }
        let total = claimed(&self.state.vnodes);
        let held = self.state.held.as_ref().filter(|_| total != self.state.written);
        let Some(claims) = held.map(|held| held.claims().clone()) else { return };
        // What others have touched is nobody's business here.
        let locked = claims.lock_within(&Survey::default(), PATIENCE);
        let vnodes = self.state.vnodes.clone();
        if let Err(error) = locked.and_then(|book| self.write(Some(book), &vnodes)) {
            tracing::warn!("{error}; memory that vnodes no longer use stays claimed for now");
        }
    }

    fn write(&mut self, book: Option<Book>, vnodes: &[Own]) -> Result<(), ClaimsError> {
        let total = claimed(vnodes);
        if let (Some(book), Some(held)) = (book, &mut self.state.held) {
            book.replace(held, &total, &vnodes.iter().map(|own| &own.released).sum())?;
        }
        self.state.written = total;
        Ok(())
    }
}

fn claimed(vnodes: &[Own]) -> Claim {
    vnodes.iter().map(|own| &own.claim).sum()
}

/// Memory of a vnode as a claim: in bytes, or in pages of its pool.
pub fn memory_of(vnode: &Vnode, bytes: Bytes) -> NodeClaim {
    match vnode.pages.pool() {
        None => NodeClaim { memory: bytes, ..NodeClaim::default() },
        Some(size) => {
            NodeClaim { huge_pages: [(size, bytes.get() / size.get())].into(), ..NodeClaim::default() }
        }
    }
}

/// Memory of a vnode in a claim, on all pnodes together.
pub fn bytes_of(vnode: &Vnode, claim: &Claim) -> Bytes {
    let total = claim.total();
    match vnode.pages.pool() {
        None => total.memory,
        Some(size) => {
            let pages = total.huge_pages.get(&size).copied().unwrap_or(0);
            Bytes(pages.saturating_mul(size.get()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{OwnClaim, PATIENCE, Seen, Settled};
    use crate::claims::{Claims, ClaimsError, Survey};
    use resources::test_host::HostShape;
    use resources::{Bytes, Claim, Ledger, NodeClaim, Plan, PnodeId, VmSpec, VnodeId};
    use std::collections::BTreeMap;
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn claim(pnode: u32, memory: Bytes) -> Claim {
        Claim { pnodes: [(PnodeId(pnode), NodeClaim { memory, ..NodeClaim::default() })].into() }
    }

    /// A claim of one vnode, and what it is.
    fn own(claims: &Claims) -> (OwnClaim, Claim) {
        let spec = VmSpec { memory: Some(Bytes::gib(1)), vcpus: Some(1), ..VmSpec::default() };
        let plan = Plan::new(&spec, &HostShape::new(2).topology()).unwrap();
        let held = claims.lock(&Survey::default()).unwrap().claim(&plan.placement.claim).unwrap();
        (OwnClaim::new(Some(held), &plan.placement), plan.placement.claim)
    }

    #[test]
    fn a_claim_grows_before_a_move_shrinks_after_and_is_seen_by_others() {
        let root = tempfile::tempdir().unwrap();
        let claims = Claims::open(root.path(), None).unwrap();
        let (own, before) = own(&claims);
        let seen = || claims.living().unwrap()[0].claim.clone();
        assert_eq!(seen(), before);
        let moving = BTreeMap::from([(VnodeId(0), Vec::new())]);
        let there = claim(1, Bytes::gib(1));
        // Others are promised nothing, and what moves is not in its own way.
        own.turn()
            .grow(own.look().unwrap(), &moving, |ledger| {
                assert_eq!(ledger.untouched_memory(PnodeId(0)), Bytes::ZERO);
                Ok::<_, ClaimsError>(vec![(VnodeId(0), there.clone())])
            })
            .unwrap();
        assert_eq!(seen(), before.clone().at_least(&there));
        let busy = || ClaimsError::Busy { path: root.path().to_owned(), holder: None, seconds: 0 };
        assert!(own.turn().grow(own.look().unwrap(), &moving, |_| Err(busy())).is_err());
        assert_eq!(seen(), before.clone().at_least(&there));
        own.turn().settle(&[(VnodeId(0), Settled::Moved(there.clone()))]);
        assert_eq!(seen(), there);
        own.release();
        assert_eq!(claims.living().unwrap(), []);
    }

    #[test]
    fn what_cannot_be_written_is_told_to_others_with_the_next_change() {
        let root = tempfile::tempdir().unwrap();
        let (directory, gone) = (root.path().join("claims"), root.path().join("gone"));
        let claims = Claims::open(&directory, None).unwrap();
        let (own, before) = own(&claims);
        let seen = || claims.living().unwrap()[0].claim.clone();
        std::fs::rename(&directory, &gone).unwrap();
        own.turn().settle(&[(VnodeId(0), Settled::Moved(claim(0, Bytes(1))))]);
        let grown = own.turn().grow(Seen::default(), &BTreeMap::new(), |_| {
            Ok::<_, ClaimsError>(vec![(VnodeId(0), claim(1, Bytes(1)))])
        });
        assert!(grown.is_err());
        std::fs::rename(&gone, &directory).unwrap();
        assert_eq!((seen(), own.turn().of(VnodeId(0))), (before, claim(0, Bytes(1))));
        own.turn().settle(&[]);
        assert_eq!(seen(), claim(0, Bytes(1)));
    }

    #[test]
    fn a_claim_that_does_not_change_is_not_written() {
        let root = tempfile::tempdir().unwrap();
        let claims = Claims::open(root.path(), None).unwrap();
        let (own, before) = own(&claims);
        let _busy = claims.lock(&Survey::default()).unwrap();
        let told = std::time::Instant::now();
        own.turn().settle(&[(VnodeId(0), Settled::Moved(before))]);
        assert!(told.elapsed() < PATIENCE, "it waited for the directory");
    }

    #[test]
    fn what_others_have_touched_is_not_read_to_give_something_back() {
        let root = tempfile::tempdir().unwrap();
        let procfs = root.path().join("proc");
        let process = procfs.join(std::process::id().to_string());
        std::fs::create_dir_all(&process).unwrap();
        std::fs::copy("/proc/self/stat", process.join("stat")).unwrap();
        let maps = process.join("numa_maps");
        nix::unistd::mkfifo(&maps, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        std::thread::spawn(move || {
            while let Ok(mut maps) = std::fs::File::options().write(true).open(&maps) {
                count.fetch_add(1, Ordering::Relaxed);
                // The reader may be content with fewer.
                let _ = maps.write_all(b"7f5c4c000000 bind:1 anon=1 N1=1 kernelpagesize_kB=4\n");
            }
        });
        let claims = Claims { procfs, ..Claims::open(&root.path().join("claims"), None).unwrap() };
        let (own, _) = own(&claims);
        for bytes in [3, 2, 1] {
            own.turn().settle(&[(VnodeId(0), Settled::Moved(claim(0, Bytes(bytes))))]);
        }
        assert_eq!(opened.load(Ordering::Relaxed), 0);
        let survey = claims.survey().unwrap();
        assert!(survey.living[0].touched.as_ref().unwrap().has.total().memory > Bytes::ZERO);
        assert!(opened.load(Ordering::Relaxed) > 0, "nobody looked where it was counted");
        assert_eq!(survey.living[0].claim, claim(0, Bytes(1)));
    }

    #[test]
    fn one_at_a_time_has_a_turn() {
        let root = tempfile::tempdir().unwrap();
        let (own, _) = own(&Claims::open(root.path(), None).unwrap());
        let turn = own.turn();
        assert!(own.turn_within(Duration::ZERO).is_none());
        drop(turn);
        assert!(own.turn_within(Duration::ZERO).is_some());
        std::thread::scope(|scope| {
            let turn = own.turn();
            let waiting = scope.spawn(|| drop(own.turn()));
            drop(turn);
            waiting.join().unwrap();
        });
    }

    #[test]
    fn a_decision_is_made_again_if_others_have_claimed_since_they_were_seen() {
        let root = tempfile::tempdir().unwrap();
        let claims = Claims::open(root.path(), None).unwrap();
        let (own, before) = own(&claims);
        let (mut asked, mut other) = (Vec::new(), None);
        let seen = own.look().unwrap();
        own.turn()
            .grow(seen, &BTreeMap::new(), |ledger| {
                asked.push(ledger.untouched_memory(PnodeId(1)));
                // Somebody else is quicker.
                let quicker = || claims.lock(&Survey::default()).unwrap().claim(&claim(1, Bytes(7))).unwrap();
                other.get_or_insert_with(quicker);
                Ok::<_, ClaimsError>(vec![(VnodeId(0), claim(1, Bytes(1)))])
            })
            .unwrap();
        assert_eq!(asked, [Bytes::ZERO, Bytes(7)]);
        assert_eq!(own.turn().of(VnodeId(0)), before.at_least(&claim(1, Bytes(1))));
    }

    #[test]
    fn what_a_vnode_releases_is_room_for_others_until_it_is_claimed_back() {
        let root = tempfile::tempdir().unwrap();
        let claims = Claims::open(root.path(), None).unwrap();
        let (own, full) = own(&claims);
        let seen = || {
            let vm = claims.living().unwrap().remove(0);
            let of = |claim: &Claim| claim.pnodes.get(&PnodeId(0)).map_or(Bytes::ZERO, |node| node.memory);
            (of(&vm.claim), of(&vm.released))
        };
        let mib = Bytes::mib;
        own.turn().release(VnodeId(0), &claim(0, mib(300))).unwrap();
        assert_eq!((seen(), own.turn().of(VnodeId(0))), ((mib(724), mib(300)), full.clone()));
        own.turn()
            .claim_back(own.look().unwrap(), (VnodeId(0), PnodeId(0)), |ledger| {
                assert_eq!(ledger.claimed(PnodeId(0)).unwrap().memory, mib(724));
                Ok::<_, ClaimsError>(NodeClaim { memory: mib(100), ..NodeClaim::default() })
            })
            .unwrap();
        assert_eq!(seen(), (mib(824), mib(200)));
        // Its threads go elsewhere, or a move comes to nothing: what was released stays so.
        own.turn().settle(&[(VnodeId(0), Settled::Stays(full.clone()))]);
        assert_eq!((seen(), own.turn().released(VnodeId(0))), ((mib(824), mib(200)), claim(0, mib(200))));
        // While it moves it claims what is left here, and all of it there.
        let (moving, there) = (BTreeMap::from([(VnodeId(0), Vec::new())]), claim(1, mib(1024)));
        let decide = |_: &Ledger| Ok::<_, ClaimsError>(vec![(VnodeId(0), there.clone())]);
        own.turn().grow(own.look().unwrap(), &moving, decide).unwrap();
        assert_eq!(seen(), (mib(824), mib(200)));
        own.turn().settle(&[(VnodeId(0), Settled::Moved(there.clone()))]);
        assert_eq!((seen(), own.turn().of(VnodeId(0))), ((mib(0), mib(0)), there.clone()));
    }

    #[test]
    fn what_a_vm_has_released_since_it_was_asked_it_no_longer_has() {
        let root = tempfile::tempdir().unwrap();
        let claims = Claims::open(root.path(), None).unwrap();
        let (own, _) = own(&claims);
        let mut survey = claims.survey().unwrap();
        let touched = crate::claims::Touched { has: claim(0, Bytes::mib(900)), ..Default::default() };
        survey.living[0].touched = Some(touched);
        own.turn().release(VnodeId(0), &claim(0, Bytes::mib(300))).unwrap();
        let book = claims.lock(&survey).unwrap();
        assert!(!book.as_surveyed);
        // 724 MiB are promised, and 600 of them taken.
        assert_eq!(book.ledger().untouched_memory(PnodeId(0)), Bytes::mib(124));
    }
}
