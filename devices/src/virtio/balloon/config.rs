//! The configuration of a balloon (virtio 1.3, 5.5.4): what the driver shall give, what it says it gave, and the number
//! of the round in which it shall hint what is free.

/// `num_pages`, `actual` and `free_page_hint_cmd_id`; what is behind them belongs to features that are not offered.
const CONFIG_BYTES: usize = 12;
const ACTUAL: usize = 4;
const COMMAND: usize = 8;

/// A read from `offset` on has some of `num_pages`.
pub(super) fn has_target(offset: u64) -> bool {
    usize::try_from(offset).is_ok_and(|offset| offset < ACTUAL)
}

/// Reads; zeros past the end.
pub(super) fn read(asked: u32, actual: u32, command: u32, offset: u64, data: &mut [u8]) {
    let mut image = [0; CONFIG_BYTES];
    image[..ACTUAL].copy_from_slice(&asked.to_le_bytes());
    image[ACTUAL..COMMAND].copy_from_slice(&actual.to_le_bytes());
    image[COMMAND..].copy_from_slice(&command.to_le_bytes());
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    for (at, byte) in data.iter_mut().enumerate() {
        *byte = start.checked_add(at).and_then(|at| image.get(at)).copied().unwrap_or(0);
    }
}

/// `actual` after a write; `None` if the write was to anything else: `num_pages` is the device's alone.
pub(super) fn written(actual: u32, offset: u64, data: &[u8]) -> Option<u32> {
    let start = usize::try_from(offset).ok()?.checked_sub(ACTUAL)?;
    let mut bytes = actual.to_le_bytes();
    bytes.get_mut(start..start.checked_add(data.len())?)?.copy_from_slice(data);
    Some(u32::from_le_bytes(bytes))
}
