//! Reads frames from a connection.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::wire::frame::{FrameError, Header, HEADER_BYTES};

/// Reads one frame of at most `limit` bytes of payload.
pub(crate) async fn read_frame(reader: &mut (impl AsyncRead + Unpin), limit: usize) -> Result<Bytes, FrameError> {
    let mut header = [0; HEADER_BYTES];
    reader.read_exact(&mut header).await?;
    let header = Header::parse(header, limit)?;
    let mut payload = vec![0; header.payload_bytes()];
    reader.read_exact(&mut payload).await?;
    header.check(&payload)?;
    Ok(payload.into())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::wire::frame::{put_frame, FRAME_BYTES_MAX};

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
