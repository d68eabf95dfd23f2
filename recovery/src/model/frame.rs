//! How many bytes a request takes on the wire, as the server counts them.

use crate::keeper::{Op, Request};

/// ZooKeeper's default `jute.maxbuffer`: a request of more bytes makes the server drop the connection.
pub const JUTE_MAX_BUFFER: usize = 0xf_ffff;

// Transaction id and request type.
const HEADER: usize = 8;
// Type, done, error: before every operation of a multi and after the last.
const OP_HEADER: usize = 9;
// One world:anyone entry: count, permissions, scheme, id.
const ACL: usize = 4 + 4 + (4 + 5) + (4 + 6);
const INT: usize = 4;
const BOOL: usize = 1;

fn buffer(length: usize) -> usize {
    INT + length
}

/// Bytes of the frame that carries this request, below a chroot of `chroot` bytes.
pub fn frame_bytes(request: &Request, chroot: usize) -> usize {
    let path = |path: &str| buffer(chroot + path.len());
    let op = |op: &Op| {
        OP_HEADER
            + match op {
                Op::Create { path: at, data, .. } => path(at) + buffer(data.len()) + ACL + INT,
                Op::Set { path: at, data, .. } => path(at) + buffer(data.len()) + INT,
                Op::Check { path: at, .. } | Op::Delete { path: at, .. } => path(at) + INT,
            }
    };
    HEADER
        + match request {
            Request::Multi(ops) => ops.iter().map(op).sum::<usize>() + OP_HEADER,
            Request::Get { path: at, .. } | Request::Exists { path: at, .. } | Request::Children { path: at, .. } => {
                path(at) + BOOL
            }
        }
}
