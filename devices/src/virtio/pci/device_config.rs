//! A device's configuration space as its driver reads it, piece by piece, and the count by which the driver sees that two
//! pieces do not belong together (virtio 1.3, 2.5.1). What is in it, is the device's.

/// What the driver was shown.
#[derive(Debug, Default)]
pub(super) struct DeviceConfig {
    /// The whole space at the last read; `None` before the first.
    pub last: Option<Vec<u8>>,
    pub generation: u8,
}

impl DeviceConfig {
    /// Reads from `now`, the space as it is; what lies past its end reads as zero. Another count if it was different at
    /// the last read: so changes between two reads count once, and no number of them comes round to the same count.
    pub fn read(&mut self, now: Vec<u8>, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let rest = usize::try_from(offset).ok().and_then(|start| now.get(start..)).unwrap_or_default();
        for (to, from) in data.iter_mut().zip(rest) {
            *to = *from;
        }
        if self.last.as_ref().is_some_and(|last| *last != now) {
            self.generation = self.generation.wrapping_add(1);
        }
        self.last = Some(now);
    }

    pub fn generation(&self) -> u8 {
        self.generation
    }

    /// What of `data`, written from `offset` on, lies in the space; `None` if nothing does.
    pub fn written<'a>(space: &[u8], offset: u64, data: &'a [u8]) -> Option<&'a [u8]> {
        let room = space.len().checked_sub(usize::try_from(offset).ok()?).filter(|room| *room > 0)?;
        data.get(..room.min(data.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::DeviceConfig;

    #[test]
    fn what_lies_past_the_end_is_zero() {
        let mut config = DeviceConfig::default();
        let mut data = [0xFF; 4];
        config.read(vec![1, 2, 3], 1, &mut data);
        assert_eq!(data, [2, 3, 0, 0]);
        for offset in [3, u64::MAX] {
            data = [0xFF; 4];
            config.read(vec![1, 2, 3], offset, &mut data);
            assert_eq!(data, [0; 4]);
        }
        assert_eq!(config.generation(), 0);
    }

    #[test]
    fn of_a_write_only_what_lies_in_the_space_is_the_devices() {
        let written = |offset| DeviceConfig::written(&[0; 4], offset, &[1, 2, 3]);
        assert_eq!([0, 1].map(written), [Some(&[1, 2, 3][..]); 2]);
        assert_eq!([2, 3].map(written), [Some(&[1, 2][..]), Some(&[1])]);
        assert_eq!([4, 5, u64::MAX].map(written), [None; 3]);
        assert_eq!(DeviceConfig::written(&[], 0, &[1]), None);
    }

    /// Wherever in the driver's sequence a change comes, and however many there are, the driver takes no torn value.
    #[test]
    fn no_change_among_the_reads_of_a_value_goes_unseen() {
        for width in [1, 2, 4] {
            for change_before in 0..=8 / width {
                for changes in [1_u64, 255, 256, 257] {
                    let (old, mut config) = (0xFFFF_FFFF_u64, DeviceConfig::default());
                    let (mut now, mut value) = (old, [0; 8]);
                    let before = config.generation();
                    for (step, piece) in value.chunks_mut(width).enumerate() {
                        if step == change_before {
                            now = old + changes;
                        }
                        config.read(now.to_le_bytes().to_vec(), (step * width) as u64, piece);
                    }
                    let value = u64::from_le_bytes(value);
                    let same = config.generation() == before;
                    assert!(!same || value == old || value == old + changes, "{value:#x}");
                    // It is not told of changes that it did not read amid.
                    let whole = change_before == 0 || change_before >= 8 / width;
                    assert_eq!(same, whole, "width {width}, before read {change_before}");
                }
            }
        }
    }
}
