//! Byte formats of the small records: protobuf behind a CRC32C that also covers the key.
//!
//! Covering the key finds a value that was written, or ended up, under another one.

use prost::Message;

use crate::error::StorageError;

const CRC_BYTES: usize = 4;

/// The bytes to store under `key` for `record`.
pub(crate) fn seal(key: &[u8], record: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CRC_BYTES + record.encoded_len());
    bytes.extend_from_slice(&[0; CRC_BYTES]);
    // A Vec grows as needed: encoding into it cannot fail.
    record.encode(&mut bytes).expect("a Vec has room for every record");
    seal_in_place(key, &mut bytes);
    bytes
}

/// Writes the CRC of `key` and the rest of `bytes` to the first four of `bytes`.
pub(crate) fn seal_in_place(key: &[u8], bytes: &mut [u8]) {
    let crc = checksum(key, &bytes[CRC_BYTES..]);
    bytes[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// What [`seal`] stored.
pub(crate) fn open<R: Message + Default>(what: &str, key: &[u8], bytes: &[u8]) -> Result<R, StorageError> {
    let body = unseal(what, key, bytes)?;
    R::decode(body).map_err(|_| damaged(what, "undecodable", key))
}

/// What lies behind the CRC, once that was found right.
pub(crate) fn unseal<'a>(what: &str, key: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], StorageError> {
    let Some((stored, body)) = bytes.split_first_chunk::<CRC_BYTES>() else {
        return Err(damaged(what, "too short", key));
    };
    if u32::from_le_bytes(*stored) != checksum(key, body) {
        return Err(damaged(what, "checksum differs", key));
    }
    Ok(body)
}

pub(crate) fn damaged(what: &str, finding: &str, key: &[u8]) -> StorageError {
    StorageError::Damaged { what: format!("{what}: {finding}"), key: hex(key) }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), body)
}
