//! Keys and values: every value is a function of its key and number, so that any byte that is wrong is noticed.

use super::register::Number;

/// Keys that one client overwrites.
pub(crate) const REGISTERS: &str = "r/";
/// Keys that are written once, and later deleted.
pub(crate) const UNIQUES: &str = "u/";
/// Keys that fill the state before the first fault and stay.
pub(crate) const FILLERS: &str = "f/";

const VALUE_BYTES: usize = 64;
/// Bytes of one filler's value.
pub(crate) const FILLER_BYTES: usize = 16 * 1024;

/// The key of a client's register.
pub(crate) fn register_key(client: u32, slot: u32) -> String {
    format!("{REGISTERS}{client:04}/{slot:02}")
}

/// The client and slot of a register's key.
pub(crate) fn register_of(key: &str) -> Option<(u32, u32)> {
    let (client, slot) = key.strip_prefix(REGISTERS)?.split_once('/')?;
    Some((client.parse().ok()?, slot.parse().ok()?))
}

/// The key a client writes once, as its `count`th.
pub(crate) fn unique_key(client: u32, count: u64) -> String {
    format!("{UNIQUES}{client:04}/{count:010}")
}

/// The key of a filler.
pub(crate) fn filler_key(count: u64) -> String {
    format!("{FILLERS}{count:010}")
}

/// The value of a register's write.
pub(crate) fn register_value(key: &str, number: Number) -> String {
    padded(format!("{number:010} {key} "), VALUE_BYTES)
}

/// The number a register's value claims. Whether the rest is right is for the caller to compare.
pub(crate) fn register_number(value: &str) -> Option<Number> {
    value.get(..10)?.parse().ok()
}

/// The value of a key that is written once.
pub(crate) fn lasting_value(key: &str) -> String {
    let bytes = if key.starts_with(FILLERS) { FILLER_BYTES } else { VALUE_BYTES };
    padded(format!("{key} "), bytes)
}

/// Lengthens `text` with letters that follow from it and do not compress well.
fn padded(mut text: String, bytes: usize) -> String {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    // FNV-1a for the start, xorshift from there on.
    let mut state = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
        | 1;
    while text.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push(char::from(LETTERS[(state >> 58) as usize]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_tell_their_key_and_number() {
        let key = register_key(3, 7);
        assert_eq!(register_of(&key), Some((3, 7)));
        let value = register_value(&key, 42);
        assert_eq!((value.len(), register_number(&value)), (VALUE_BYTES, Some(42)));
        assert_ne!(register_value(&key, 43), value);
        assert_eq!(lasting_value(&filler_key(1)).len(), FILLER_BYTES);
    }
}
