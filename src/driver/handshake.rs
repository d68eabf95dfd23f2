//! Hello and welcome over a connection.

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frame::read_frame;
use crate::wire::frame::{put_frame, FrameError, HEADER_BYTES};
use crate::wire::handshake::{HandshakeError, Hello, Welcome, HANDSHAKE_BYTES_MAX};

pub(crate) async fn read_hello(stream: &mut TcpStream) -> Result<Hello, HandshakeError> {
    Hello::decode_checked(read(stream).await?)
}

/// Sends `hello` and reads the answer.
pub(crate) async fn greet(stream: &mut TcpStream, hello: &Hello) -> Result<Welcome, HandshakeError> {
    write(stream, hello).await?;
    Welcome::decode_checked(read(stream).await?)
}

pub(crate) async fn write(stream: &mut TcpStream, message: &impl Message) -> Result<(), HandshakeError> {
    let mut frame = BytesMut::new();
    put_frame(&mut frame, &message.encode_to_vec());
    stream.write_all(&frame).await.map_err(FrameError::Ended)?;
    Ok(())
}

async fn read(stream: &mut TcpStream) -> Result<Bytes, HandshakeError> {
    // Nothing follows a handshake before it is answered, so reading exactly its bytes leaves none behind.
    let limit = (HANDSHAKE_BYTES_MAX + HEADER_BYTES) as u64;
    Ok(read_frame(&mut stream.take(limit), HANDSHAKE_BYTES_MAX).await?)
}
