//! The configuration of a balloon (virtio 1.3, 5.5.4): what the driver shall give, what it says it gave, the number of the
//! round in which it shall hint what is free, and what it fills its free pages with.

/// `num_pages`, `actual`, `free_page_hint_cmd_id` and `poison_val`.
const CONFIG_BYTES: usize = 16;
const ACTUAL: usize = 4;
const COMMAND: usize = 8;
const POISON: usize = 12;

/// What the driver wrote.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// `actual`, as it is now.
    Actual(u32),
    /// `poison_val`, as it is now.
    Poison(u32),
}

/// A read from `offset` on has some of `num_pages`.
pub(super) fn has_target(offset: u64) -> bool {
    usize::try_from(offset).is_ok_and(|offset| offset < ACTUAL)
}

/// The fields in their order, as the driver reads them.
pub(super) fn image(fields: [u32; CONFIG_BYTES / 4]) -> Vec<u8> {
    fields.map(u32::to_le_bytes).as_flattened().to_vec()
}

/// What a write makes of `actual` or `poison`; `None` if it was to anything else: the other fields are the device's alone.
pub(super) fn written(actual: u32, poison: u32, offset: u64, data: &[u8]) -> Option<Written> {
    let offset = usize::try_from(offset).ok()?;
    match offset {
        ACTUAL..COMMAND => Some(Written::Actual(patched(actual, offset - ACTUAL, data)?)),
        POISON..CONFIG_BYTES => Some(Written::Poison(patched(poison, offset - POISON, data)?)),
        _ => None,
    }
}

/// `value` with some of its bytes replaced; `None` if they are not all its own.
fn patched(value: u32, start: usize, data: &[u8]) -> Option<u32> {
    let mut bytes = value.to_le_bytes();
    bytes.get_mut(start..start.checked_add(data.len())?)?.copy_from_slice(data);
    Some(u32::from_le_bytes(bytes))
}
