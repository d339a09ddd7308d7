//! How a start is planned and claims its place: outside the directory's lock as long as that is any use, and never
//! without a last check under it. What a plan is, and whether it still fits, is the planner's business.

use crate::claims::{Claims, ClaimsError, Held};
use resources::{Claim, Ledger};

/// How often a start is planned before it is planned under the lock, where nobody else can claim meanwhile.
const TRIES: usize = 3;

/// Plans a VM, as often as it is asked.
pub trait Planner {
    /// What it makes.
    type Plan;
    /// Why it makes none.
    type Error: From<ClaimsError>;

    /// Looks at the host as it is now, and plans beside what others were promised.
    fn plan(&mut self, others: &Ledger) -> Result<Self::Plan, Self::Error>;

    /// What a plan claims.
    fn claim<'a>(&self, plan: &'a Self::Plan) -> &'a Claim;

    /// Whether there is still room for a plan: of memory, which others may have taken who claim nothing, and if the
    /// claims of others `changed` of CPUs too. Called under the lock, so it must be quick.
    fn still_fits(&mut self, plan: &Self::Plan, others: &Ledger, changed: bool) -> Result<bool, Self::Error>;
}

impl Claims {
    /// Plans, and claims what was planned before anybody else can. Where others claim at the same time it is planned
    /// again, beside them.
    pub fn reserve<P: Planner>(&self, planner: &mut P) -> Result<(P::Plan, Held), P::Error> {
        let mut tries = 1;
        loop {
            let survey = self.survey()?;
            let mut plan = planner.plan(&survey.ledger())?;
            let book = self.lock(&survey)?;
            let (others, changed, last) = (book.ledger(), !book.as_surveyed, tries == TRIES);
            // A plan made beside other claims may still fit, but another might be better now.
            let fits = (!changed || last) && planner.still_fits(&plan, &others, changed)?;
            if !fits && !last {
                tries += 1;
                continue;
            }
            if !fits {
                plan = planner.plan(&others)?;
            }
            let held = book.claim(planner.claim(&plan))?;
            return Ok((plan, held));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Planner, TRIES};
    use crate::claims::{Claims, ClaimsError, Held};
    use resources::{Bytes, Claim, Ledger, NodeClaim, PnodeId};

    fn claim(memory: u64) -> Claim {
        let node = NodeClaim { memory: Bytes(memory), ..NodeClaim::default() };
        Claim { pnodes: [(PnodeId(0), node)].into() }
    }

    /// Claims one byte more than others, in a directory where somebody else claims whenever it plans.
    struct Racer {
        claims: Claims,
        /// How many of its plans somebody else gets ahead of.
        overtaken: usize,
        fits: bool,
        others: Vec<Held>,
        /// For each plan, whether the directory was locked.
        locked: Vec<bool>,
        checked: Vec<bool>,
    }

    impl Racer {
        fn new(claims: &Claims, overtaken: usize, fits: bool) -> Self {
            let (others, locked, checked) = Default::default();
            Self { claims: claims.clone(), overtaken, fits, others, locked, checked }
        }
    }

    impl Planner for Racer {
        type Plan = Claim;
        type Error = ClaimsError;

        fn plan(&mut self, others: &Ledger) -> Result<Claim, ClaimsError> {
            let book = self.claims.lock_within(&self.claims.survey()?, std::time::Duration::ZERO);
            self.locked.push(book.is_err());
            if let (Ok(book), true) = (book, self.locked.len() <= self.overtaken) {
                self.others.push(book.claim(&claim(100))?);
            }
            Ok(claim(others.untouched_memory(PnodeId(0)).get() + 1))
        }

        fn claim<'a>(&self, plan: &'a Claim) -> &'a Claim {
            plan
        }

        fn still_fits(&mut self, _: &Claim, _: &Ledger, changed: bool) -> Result<bool, ClaimsError> {
            self.checked.push(changed);
            Ok(self.fits)
        }
    }

    #[test]
    fn starts_are_planned_outside_the_lock_until_that_has_failed_too_often() {
        // How many plans others get ahead of, whether plans still fit: plans by whether the lock was held, and checks.
        let cases: [(usize, bool, Vec<bool>, Vec<bool>); 5] = [
            (0, true, vec![false], vec![false]),
            (1, true, vec![false, false], vec![false]),
            (TRIES, true, vec![false; TRIES], vec![true]),
            (TRIES, false, vec![false, false, false, true], vec![true]),
            (0, false, vec![false, false, false, true], vec![false; TRIES]),
        ];
        for (overtaken, fits, locked, checked) in cases {
            let root = tempfile::tempdir().unwrap();
            let claims = Claims::open(root.path(), None).unwrap();
            let mut racer = Racer::new(&claims, overtaken, fits);
            let (plan, held) = claims.reserve(&mut racer).unwrap();
            assert_eq!((&racer.locked, &racer.checked), (&locked, &checked), "{overtaken} {fits}");
            // One that was planned under the lock has seen all others.
            let seen = if racer.locked.last() == Some(&true) { overtaken } else { overtaken.min(TRIES - 1) };
            assert_eq!(plan, claim(100 * seen as u64 + 1), "{overtaken} {fits}");
            let sum: u64 = claims.living().unwrap().iter().map(|vm| vm.claim.total().memory.get()).sum();
            assert_eq!(sum, 100 * overtaken as u64 + plan.total().memory.get());
            drop(held);
        }
    }
}
