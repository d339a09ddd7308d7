//! Claims as commands use them: beside whom a VM is planned, and what happens when that cannot be known. Keeping
//! claims is `vmm`'s work.

use crate::args::ClaimsFlags;
use resources::{Claim, Ledger};
use std::path::{Path, PathBuf};
use vmm::claims::{Book, Claims, ClaimsError, Held, Living};

/// The word for no directory.
const NONE: &str = "none";

/// Where claims are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClaimsAt {
    /// Where they are by default. If that cannot be used VMs start all the same, with a warning: nobody asked for it.
    #[default]
    Default,
    /// Where the user said. If that cannot be used nothing starts.
    Given(PathBuf),
    /// Nowhere.
    Nowhere,
}

impl From<&ClaimsFlags> for ClaimsAt {
    fn from(flags: &ClaimsFlags) -> Self {
        match &flags.claims_dir {
            None => Self::Default,
            Some(path) if path == Path::new(NONE) => Self::Nowhere,
            Some(path) => Self::Given(path.clone()),
        }
    }
}

/// Where a new VM is planned: the host is its own until the claim is made.
#[derive(Debug)]
pub struct Turn {
    at: ClaimsAt,
    book: Option<Book>,
}

impl ClaimsAt {
    /// What living VMs were promised, to look at. To be asked before the host is looked at.
    pub fn living(&self) -> Result<Vec<Living>, ClaimsError> {
        let found = match self {
            Self::Default => Claims::look(&Claims::default_path()).living(),
            Self::Given(path) => Claims::look(path).living(),
            Self::Nowhere => Ok(Vec::new()),
        };
        self.settle(found).map(Option::unwrap_or_default)
    }

    /// The same as sums.
    pub fn ledger(&self) -> Result<Ledger, ClaimsError> {
        self.living().map(|living| Living::ledger(&living))
    }

    /// Waits for this VM's turn. To be asked before the host is looked at.
    pub fn turn(&self) -> Result<Turn, ClaimsError> {
        let open = |claims: Result<Claims, ClaimsError>| {
            let claims = claims?;
            claims.lock(claims.survey()?)
        };
        let book = match self {
            Self::Default => self.settle(open(Claims::open_default()))?,
            Self::Given(path) => self.settle(open(Claims::open(path)))?,
            Self::Nowhere => None,
        };
        Ok(Turn { at: self.clone(), book })
    }

    /// A failure where nobody asked for claims is a warning.
    fn settle<T>(&self, result: Result<T, ClaimsError>) -> Result<Option<T>, ClaimsError> {
        match (self, result) {
            (_, Ok(done)) => Ok(Some(done)),
            (Self::Default | Self::Nowhere, Err(error)) => {
                tracing::warn!("{error}; going on without: VMs do not see what others were promised");
                Ok(None)
            }
            (Self::Given(_), Err(error)) => Err(error),
        }
    }
}

impl Turn {
    /// What the others were promised.
    pub fn ledger(&self) -> Ledger {
        self.book.as_ref().map(Book::ledger).unwrap_or_default()
    }

    /// Takes what was planned; the next one's turn begins.
    pub fn take(self, claim: &Claim) -> Result<Option<Held>, ClaimsError> {
        let Some(book) = self.book else { return Ok(None) };
        self.at.settle(book.claim(claim))
    }
}
