//! Claims for commands: the directory, planning beside other VMs, and what to do if claims are unusable. `vmm` reads
//! and writes them.

use crate::args::{ClaimingFlags, ClaimsFlags};
use crate::exit::Failure;
use crate::group;
use resources::Ledger;
use std::path::{Path, PathBuf};
use vmm::claims::{Claims, ClaimsError, Held, Living, Planner};

/// The word for no directory.
const NONE: &str = "none";

/// The claims directory, and the group that may read it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClaimsAt {
    place: Place,
    group: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Default,
    Given(PathBuf),
    Nowhere,
}

impl From<&ClaimsFlags> for ClaimsAt {
    fn from(flags: &ClaimsFlags) -> Self {
        let place = match &flags.claims_dir {
            None => Place::Default,
            Some(path) if path == Path::new(NONE) => Place::Nowhere,
            Some(path) => Place::Given(path.clone()),
        };
        Self { place, group: None }
    }
}

impl TryFrom<&ClaimingFlags> for ClaimsAt {
    type Error = Failure;

    fn try_from(flags: &ClaimingFlags) -> Result<Self, Failure> {
        let at = Self::from(&flags.directory);
        let Some(name) = &flags.claims_group else { return Ok(at) };
        if at.place == Place::Nowhere {
            return Err(Failure::input("--claims-group: needs a directory, and --claims-dir is none"));
        }
        let group = group::id(name).ok_or_else(|| {
            Failure::input(format_args!("--claims-group: `{name}` is not a group of this host"))
        })?;
        Ok(Self { group: Some(group), ..at })
    }
}

impl ClaimsAt {
    /// The claims of running VMs, read-only. Call this before reading the host.
    pub fn running(&self) -> Result<Vec<Living>, ClaimsError> {
        match &self.place {
            Place::Default => Claims::look(&Claims::default_path()).living(),
            Place::Given(path) => Claims::look(path).living(),
            Place::Nowhere => Ok(Vec::new()),
        }
    }

    /// The same as sums.
    pub fn ledger(&self) -> Result<Ledger, ClaimsError> {
        self.running().map(|running| Living::ledger(&running))
    }

    /// Plans a VM beside others and claims its place; `none` plans as if it were alone and claims nothing.
    pub fn reserve<P: Planner>(&self, planner: &mut P) -> Result<(P::Plan, Option<Held>), P::Error> {
        let claims = match &self.place {
            Place::Default => Claims::open_default(self.group)?,
            Place::Given(path) => Claims::open(path, self.group)?,
            Place::Nowhere => return Ok((planner.plan(&Ledger::new())?, None)),
        };
        let (plan, held) = claims.reserve(planner)?;
        Ok((plan, Some(held)))
    }
}

/// What is wrong with claims, and what to do about it, in one line.
pub fn explain(error: &ClaimsError) -> String {
    let remedy = match error {
        ClaimsError::Io { .. } | ClaimsError::Unsafe { .. } => {
            "--claims-dir DIR uses another directory, --claims-dir none starts without claims"
        }
        ClaimsError::Busy { .. } => "try again when that is over",
    };
    format!("{error}; {remedy}")
}

impl From<ClaimsError> for Failure {
    fn from(error: ClaimsError) -> Self {
        Self::of(error.diagnosis(), explain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::{ClaimsAt, Place};
    use crate::args::{ClaimingFlags, ClaimsFlags};
    use std::path::PathBuf;

    fn flags(directory: Option<&str>, group: Option<&str>) -> ClaimingFlags {
        let directory = ClaimsFlags { claims_dir: directory.map(PathBuf::from) };
        ClaimingFlags { directory, claims_group: group.map(str::to_owned) }
    }

    #[test]
    fn a_group_is_one_of_this_host_and_needs_a_directory() {
        let at =
            |directory, group| ClaimsAt::try_from(&flags(directory, group)).map_err(|failure| failure.line);
        let given = Place::Given("d".into());
        assert_eq!(at(Some("d"), Some("0")), Ok(ClaimsAt { place: given, group: Some(0) }));
        assert_eq!(at(None, None), Ok(ClaimsAt::default()));
        let refused = "--claims-group: `no-such-group` is not a group of this host";
        assert_eq!(at(None, Some("no-such-group")), Err(refused.to_owned()));
        let refused = "--claims-group: needs a directory, and --claims-dir is none";
        assert_eq!(at(Some("none"), Some("0")), Err(refused.to_owned()));
    }
}
