//! One established connection to a peer: what is queued goes out, what comes in is delivered, until it ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, OwnedSemaphorePermit, Semaphore};

use super::frame::read_frame;
use crate::wire::frame::{put_frame, FrameError, FRAME_BYTES_MAX};

// What waits for a peer that does not read. Raft sends again what it misses, so more would only be older.
const QUEUE_MESSAGES_MAX: usize = 4096;
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
const _: () = assert!(QUEUE_BYTES_MAX > FRAME_BYTES_MAX);

// What one peer may have delivered and the raft thread not yet taken; beyond it the peer's bytes stay in its socket.
const DELIVERED_UNITS_MAX: usize = 16 * 1024;
const DELIVERED_UNIT_BYTES: usize = 1024;
const _: () = assert!(DELIVERED_UNITS_MAX * DELIVERED_UNIT_BYTES > FRAME_BYTES_MAX);

// An empty frame when there is nothing to say, so that silence means that the connection is gone. Without it a
// connection that lost its network would wait for the kernel's next retransmission, up to two minutes after the
// network is back.
const KEEPALIVE: Duration = Duration::from_millis(500);
const SILENCE_MAX: Duration = Duration::from_secs(3);

const WRITE_BYTES_MAX: usize = 256 * 1024;

/// The way to a peer's writer: bounded in messages and bytes, never waits.
#[derive(Debug)]
pub(crate) struct SendQueue {
    sender: mpsc::Sender<Bytes>,
    bytes: Arc<AtomicUsize>,
}

/// What [`run`] takes messages from.
#[derive(Debug)]
pub(crate) struct Queued {
    receiver: mpsc::Receiver<Bytes>,
    bytes: Arc<AtomicUsize>,
}

pub(crate) fn queue() -> (SendQueue, Queued) {
    let (sender, receiver) = mpsc::channel(QUEUE_MESSAGES_MAX);
    let bytes = Arc::<AtomicUsize>::default();
    (SendQueue { sender, bytes: bytes.clone() }, Queued { receiver, bytes })
}

impl SendQueue {
    /// Queues a message unless the queue is full; says whether it did.
    pub(crate) fn push(&self, message: Bytes) -> bool {
        let length = message.len();
        if self.bytes.load(Ordering::Relaxed) + length > QUEUE_BYTES_MAX {
            return false;
        }
        // Added first: the writer may take the message, and subtract, before this returns.
        self.bytes.fetch_add(length, Ordering::Relaxed);
        let queued = self.sender.try_send(message).is_ok();
        if !queued {
            self.bytes.fetch_sub(length, Ordering::Relaxed);
        }
        queued
    }
}

/// Runs the connection until it ends; returns why. `deliver` says whether it wants more.
pub(crate) async fn run(
    stream: TcpStream,
    queued: Queued,
    deliver: impl FnMut(Bytes, OwnedSemaphorePermit) -> bool + Send,
) -> FrameError {
    let (reader, writer) = stream.into_split();
    tokio::select! {
        error = read(reader, deliver) => error,
        error = write(writer, queued) => error,
    }
}

async fn read(
    reader: OwnedReadHalf,
    mut deliver: impl FnMut(Bytes, OwnedSemaphorePermit) -> bool + Send,
) -> FrameError {
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    let units = Arc::new(Semaphore::new(DELIVERED_UNITS_MAX));
    loop {
        let message = match tokio::time::timeout(SILENCE_MAX, read_frame(&mut reader, FRAME_BYTES_MAX)).await {
            Ok(Ok(message)) => message,
            Ok(Err(error)) => return error,
            Err(_) => return FrameError::Ended(std::io::ErrorKind::TimedOut.into()),
        };
        if message.is_empty() {
            continue;
        }
        let wanted = u32::try_from(message.len() / DELIVERED_UNIT_BYTES + 1).expect("bounded by FRAME_BYTES_MAX");
        let permit = units.clone().acquire_many_owned(wanted).await.expect("never closed");
        if !deliver(message, permit) {
            return FrameError::Ended(std::io::ErrorKind::ConnectionAborted.into());
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, mut queued: Queued) -> FrameError {
    let mut buffer = BytesMut::with_capacity(WRITE_BYTES_MAX);
    loop {
        match tokio::time::timeout(KEEPALIVE, queued.receiver.recv()).await {
            Ok(Some(message)) => queued.put(&mut buffer, &message),
            Ok(None) => return FrameError::Ended(std::io::ErrorKind::ConnectionAborted.into()),
            Err(_) => put_frame(&mut buffer, b""),
        }
        while buffer.len() < WRITE_BYTES_MAX {
            match queued.receiver.try_recv() {
                Ok(message) => queued.put(&mut buffer, &message),
                Err(_) => break,
            }
        }
        if let Err(error) = writer.write_all(&buffer).await {
            return FrameError::Ended(error);
        }
        buffer.clear();
    }
}

impl Queued {
    fn put(&self, buffer: &mut BytesMut, message: &Bytes) {
        self.bytes.fetch_sub(message.len(), Ordering::Relaxed);
        put_frame(buffer, message);
    }
}
