//! The table of interrupt routes: what is wanted, and what KVM has. Giving it to KVM is left to the caller.

use devices::MsiMessage;
use std::io;

/// Interrupts a VM may have: KVM's own bound (`KVM_MAX_IRQ_ROUTES`).
const MAX_GSIS: usize = 4096;

/// By number, where each interrupt goes.
pub struct RouteTable {
    wanted: Vec<Option<MsiMessage>>,
    installed: Vec<Option<MsiMessage>>,
}

impl RouteTable {
    /// So many interrupts that go nowhere.
    pub fn new(count: usize) -> Self {
        Self { wanted: vec![None; count], installed: vec![None; count] }
    }

    /// One more; `None` if that is too many.
    pub fn add(&mut self) -> Option<u32> {
        let number = Some(self.wanted.len()).filter(|number| *number < MAX_GSIS)?;
        self.wanted.push(None);
        self.installed.push(None);
        u32::try_from(number).ok()
    }

    /// Where an interrupt is to go from the next [`install`](Self::install) on.
    pub fn want(&mut self, gsi: u32, message: Option<MsiMessage>) {
        if let Some(slot) = self.wanted.get_mut(gsi as usize) {
            *slot = message;
        }
    }

    /// Has `set` take the whole table, with all that is wanted; only if interrupt `gsi` does not go where it is wanted to. If
    /// the table is refused, it is tried without what is wanted of others, so that these do no harm.
    pub fn install(
        &mut self,
        gsi: u32,
        set: impl Fn(&[Option<MsiMessage>]) -> io::Result<()>,
    ) -> io::Result<()> {
        let gsi = gsi as usize;
        if self.wanted.get(gsi) == self.installed.get(gsi) {
            return Ok(());
        }
        if set(&self.wanted).is_ok() {
            self.installed.clone_from(&self.wanted);
            return Ok(());
        }
        let before = std::mem::replace(&mut self.installed[gsi], self.wanted[gsi]);
        set(&self.installed).inspect_err(|_| self.installed[gsi] = before)
    }
}

#[cfg(test)]
mod tests {
    use super::RouteTable;
    use devices::MsiMessage;
    use std::cell::RefCell;
    use std::io;

    fn message(data: u32) -> Option<MsiMessage> {
        Some(MsiMessage { address: 0xFEE0_0000, data })
    }

    #[test]
    fn what_was_set_up_together_is_installed_with_the_first_that_is_used() {
        let installs = RefCell::new(Vec::new());
        let set = |messages: &[Option<MsiMessage>]| -> io::Result<()> {
            installs.borrow_mut().push(messages.to_vec());
            Ok(())
        };
        let mut table = RouteTable::new(24);
        let gsis: Vec<_> = (0..1500).map(|_| table.add().unwrap()).collect();
        gsis.iter().for_each(|gsi| table.want(*gsi, message(*gsi)));
        for _ in 0..2 {
            gsis.iter().for_each(|gsi| table.install(*gsi, set).unwrap());
        }
        table.want(30, message(7));
        table.want(31, message(31));
        table.install(31, set).unwrap();
        assert_eq!(installs.borrow().len(), 1);
        table.install(30, set).unwrap();
        let installs = installs.into_inner();
        assert_eq!((installs.len(), installs[1][30], installs[1][31]), (2, message(7), message(31)));
    }

    #[test]
    fn a_route_that_is_refused_does_no_harm_to_others() {
        let set = |messages: &[Option<MsiMessage>]| match messages.contains(&message(13)) {
            true => Err(io::ErrorKind::InvalidInput.into()),
            false => Ok(()),
        };
        let mut table = RouteTable::new(3);
        table.want(0, message(13));
        table.want(1, message(1));
        assert!(table.install(0, set).is_err());
        table.install(1, set).unwrap();
        assert!(table.install(0, set).is_err());
        table.want(0, message(2));
        table.install(0, set).unwrap();
        assert_eq!(table.installed, [message(2), message(1), None]);
    }

    #[test]
    fn there_are_as_many_as_kvm_takes() {
        let mut table = RouteTable::new(24);
        assert_eq!(std::iter::from_fn(|| table.add()).count(), 4096 - 24);
    }
}
