//! Frames: how bytes are cut and checked on a connection between nodes.
//!
//! Length (4, little endian, of the payload alone), CRC32C of the payload (4, little endian), payload. The length is
//! checked before a byte is allocated for it, so what a stranger sends costs nothing.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of payload between nodes that know each other. The largest message carries Raft's 1 MiB of entries and one
/// more entry, which is smaller than what ZooKeeper takes.
pub(crate) const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;

const HEADER_BYTES: usize = 8;
const _: () = assert!(FRAME_BYTES_MAX < u32::MAX as usize);

/// Why no frame could be read. The connection is of no further use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The connection ended, within a frame or between two.
    #[error("connection ended: {0}")]
    Ended(#[from] std::io::Error),
    /// No node of this kind sends as much.
    #[error("frame too large: bytes={bytes} limit={limit}")]
    TooLarge {
        /// Length announced.
        bytes: usize,
        /// Length accepted.
        limit: usize,
    },
    /// The payload is not what its checksum says.
    #[error("frame damaged: crc found={found:08x} computed={computed:08x}")]
    Damaged {
        /// The checksum sent.
        found: u32,
        /// The checksum of the payload.
        computed: u32,
    },
}

impl FrameError {
    /// Whether the other side sent what no healthy node sends.
    pub(crate) fn is_bad_frame(&self) -> bool {
        match self {
            Self::Ended(_) => false,
            Self::TooLarge { .. } | Self::Damaged { .. } => true,
        }
    }
}

/// Appends the frame of `payload` to `buffer`.
///
/// # Panics
/// If the payload is larger than [`FRAME_BYTES_MAX`].
pub(crate) fn put_frame(buffer: &mut BytesMut, payload: &[u8]) {
    assert!(payload.len() <= FRAME_BYTES_MAX, "a frame is checked before it is queued: {}", payload.len());
    buffer.reserve(HEADER_BYTES + payload.len());
    buffer.put_u32_le(u32::try_from(payload.len()).expect("bounded by the assertion above"));
    buffer.put_u32_le(crc32c::crc32c(payload));
    buffer.put_slice(payload);
}

/// Reads one frame of at most `limit` bytes of payload.
pub(crate) async fn read_frame(reader: &mut (impl AsyncRead + Unpin), limit: usize) -> Result<Bytes, FrameError> {
    let bytes = reader.read_u32_le().await? as usize;
    let found = reader.read_u32_le().await?;
    if bytes > limit {
        return Err(FrameError::TooLarge { bytes, limit });
    }
    let mut payload = vec![0; bytes];
    reader.read_exact(&mut payload).await?;
    let computed = crc32c::crc32c(&payload);
    if found != computed {
        return Err(FrameError::Damaged { found, computed });
    }
    Ok(payload.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_out_as_they_went_in() {
        let mut buffer = BytesMut::new();
        let large = vec![9; 1 << 20];
        for payload in [b"".as_slice(), b"a", &large] {
            put_frame(&mut buffer, payload);
        }
        let mut reader = buffer.as_ref();
        for payload in [b"".as_slice(), b"a", &large] {
            let read = read_frame(&mut reader, FRAME_BYTES_MAX).await.expect("own frame");
            assert_eq!(read, payload);
        }
        let end = read_frame(&mut reader, FRAME_BYTES_MAX).await.expect_err("nothing is left");
        assert!(matches!(end, FrameError::Ended(_)), "{end}");
    }

    #[tokio::test]
    async fn a_request_of_another_protocol_is_an_impossible_length() {
        let mut request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice();
        let error = read_frame(&mut request, FRAME_BYTES_MAX).await.expect_err("not a frame");
        assert!(matches!(error, FrameError::TooLarge { bytes: 0x2054_4547, .. }), "{error}");
        assert!(error.is_bad_frame());
    }

    #[tokio::test]
    async fn a_flipped_bit_is_found() {
        let mut buffer = BytesMut::new();
        put_frame(&mut buffer, b"payload");
        for bit in 0..buffer.len() * 8 {
            let mut damaged = buffer.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read_frame(&mut damaged.as_ref(), FRAME_BYTES_MAX).await.is_err(), "bit {bit}");
        }
    }
}
