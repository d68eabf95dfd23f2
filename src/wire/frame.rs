//! Frames: how bytes are cut and checked on a connection between nodes.
//!
//! Length (4, little endian, of the payload alone), CRC32C of the payload (4, little endian), payload. The length is
//! checked before a byte is allocated for it, so what a stranger sends costs nothing.

use bytes::{BufMut, BytesMut};

/// Bytes of payload between nodes that know each other. The largest message carries Raft's 1 MiB of entries and one
/// more entry, which is smaller than what ZooKeeper takes.
pub(crate) const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 8;
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

/// What stands before a payload, within its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    bytes: usize,
    crc: u32,
}

impl Header {
    /// Reads a header of a payload of at most `limit` bytes.
    pub(crate) fn parse(header: [u8; HEADER_BYTES], limit: usize) -> Result<Self, FrameError> {
        let [b0, b1, b2, b3, c0, c1, c2, c3] = header;
        let bytes = u32::from_le_bytes([b0, b1, b2, b3]) as usize;
        if bytes > limit {
            return Err(FrameError::TooLarge { bytes, limit });
        }
        Ok(Self { bytes, crc: u32::from_le_bytes([c0, c1, c2, c3]) })
    }

    /// How long the payload is.
    pub(crate) fn payload_bytes(self) -> usize {
        self.bytes
    }

    /// Whether this is the payload that was sent.
    pub(crate) fn check(self, payload: &[u8]) -> Result<(), FrameError> {
        let (found, computed) = (self.crc, crc32c::crc32c(payload));
        if found != computed {
            return Err(FrameError::Damaged { found, computed });
        }
        Ok(())
    }
}
