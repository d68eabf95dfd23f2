//! Hints: znodes with one writer each that tell others something. No safety rests on them, so they carry no fence.

use bequest_recovery::keeper::{Op, Request};
use bytes::Bytes;

/// Puts a hint in place. `replace` says whether one is there already; if that is wrong, the first operation is refused,
/// and the other way is to be tried.
pub(super) fn put(path: String, data: Bytes, replace: bool) -> Request {
    let mut ops = Vec::new();
    if replace {
        ops.push(Op::Delete { path: path.clone(), version: None });
    }
    ops.push(Op::Create { path, data, ephemeral: false });
    Request::Multi(ops)
}
