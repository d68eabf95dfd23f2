//! One request as the client library takes it, and what its answer means.

use super::watches::Watched;
use crate::keeper::{Op, Outcome, Reason, Refusal, Reply, Request, Stat};
use crate::segment::REQUEST_BYTES_MAX;
use std::sync::Arc;
use zookeeper_client::{
    Acls, Client, CreateMode, Error, MultiWriteError, MultiWriteResult, MultiWriter, OneshotWatcher,
};

/// The largest request a server with default settings takes (`jute.maxbuffer`). To a larger one it does not answer
/// but hangs up, which looks like a broken connection.
pub const FRAME_BYTES_MAX: usize = REQUEST_BYTES_MAX;

/// What came of a request: its outcome, and a watch that was left.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    pub(super) watcher: Option<(Watched, OneshotWatcher)>,
    /// The library itself is at fault: nothing more is to be expected of this client.
    pub(super) broken: bool,
    /// The operations of a transaction, back.
    pub(super) ops: Vec<Op>,
}

impl Answer {
    fn of(outcome: Outcome) -> Self {
        Self { outcome, watcher: None, broken: false, ops: Vec::new() }
    }

    fn refused(op: usize, reason: Reason) -> Self {
        Self::of(Outcome::Refused(Refusal { op, reason }))
    }

    fn unknown(error: &Error) -> Self {
        // A request the library lost, or a server it does not understand: it never recovers from some of these.
        let broken = matches!(error, Error::UnexpectedError(_) | Error::UnmarshalError { .. });
        Self { broken, ..Self::of(Outcome::Unknown(error.to_string())) }
    }

    fn panicked() -> Self {
        Self { broken: true, ..Self::of(Outcome::Unknown("the client library panicked".to_owned())) }
    }
}

/// Hands a request to the client when first polled, and waits for the answer.
pub(super) async fn carry(client: Arc<Client>, acls: Acls<'static>, request: Request) -> Answer {
    let watched = Watched::by(&request);
    match request {
        Request::Multi(ops) => {
            let answer = multi(&client, acls, &ops).await;
            Answer { ops, ..answer }
        }
        Request::Get { path, watch: false } => {
            let found = client.get_data(&path).await.map(|(data, stat)| (data, stat, None));
            content(found, watched)
        }
        Request::Get { path, watch: true } => {
            let found = client.get_and_watch_data(&path).await;
            content(found.map(|(data, stat, watcher)| (data, stat, Some(watcher))), watched)
        }
        Request::Exists { path, watch: false } => read(client.check_stat(&path).await.map(existence)),
        Request::Exists { path, watch: true } => match client.check_and_watch_stat(&path).await {
            Ok((stat, watcher)) => with_watch(existence(stat), watched, Some(watcher)),
            Err(error) => read(Err(error)),
        },
        Request::Children { path, watch: false } => {
            listing(client.list_children(&path).await.map(|names| (names, None)), watched)
        }
        Request::Children { path, watch: true } => {
            let found = client.list_and_watch_children(&path).await;
            listing(found.map(|(names, watcher)| (names, Some(watcher))), watched)
        }
    }
}

/// Polls [`carry`] so that a panic in the library costs one request and the client, not the keeper.
pub(super) fn poll_guarded(
    future: &mut std::pin::Pin<Box<dyn std::future::Future<Output = Answer> + Send>>,
    context: &mut std::task::Context<'_>,
) -> std::task::Poll<Answer> {
    let poll = std::panic::AssertUnwindSafe(|| future.as_mut().poll(context));
    std::panic::catch_unwind(poll).unwrap_or_else(|_| std::task::Poll::Ready(Answer::panicked()))
}

async fn multi(client: &Client, acls: Acls<'static>, ops: &[Op]) -> Answer {
    let mut writer = client.new_multi_writer();
    // What is refused here is never sent.
    if let Err((op, reason)) = check_limits(client.path(), ops) {
        return Answer::refused(op, reason);
    }
    for (index, op) in ops.iter().enumerate() {
        if let Err(error) = add(&mut writer, acls, op) {
            return reason(&error).map_or_else(|| Answer::unknown(&error), |reason| Answer::refused(index, reason));
        }
    }
    match writer.commit().await {
        Ok(results) if results.len() == ops.len() => Answer::of(Outcome::Ok(Reply::Done)),
        Ok(results) => Answer::of(Outcome::Unknown(short_results(&results, ops.len()))),
        Err(MultiWriteError::OperationFailed { index, source }) => match reason(&source) {
            Some(reason) if index < ops.len() => Answer::refused(index, reason),
            _ => Answer::unknown(&source),
        },
        Err(MultiWriteError::RequestFailed { source }) => Answer::unknown(&source),
    }
}

fn short_results(results: &[MultiWriteResult], ops: usize) -> String {
    format!("the server answered {} of {ops} operations", results.len())
}

fn add(writer: &mut MultiWriter<'_>, acls: Acls<'static>, op: &Op) -> Result<(), Error> {
    match op {
        Op::Check { path, version } => writer.add_check_version(path, *version),
        Op::Create { path, data, ephemeral } => {
            let mode = if *ephemeral { CreateMode::Ephemeral } else { CreateMode::Persistent };
            writer.add_create(path, data, &mode.with_acls(acls))
        }
        Op::Set { path, data, version } => writer.add_set_data(path, data, Some(*version)),
        Op::Delete { path, version } => writer.add_delete(path, *version),
    }
}

/// Finds what must not be sent: nothing at all, which would prove nothing; a version that ZooKeeper takes for *any*;
/// and what the server would hang up on.
fn check_limits(chroot: &str, ops: &[Op]) -> Result<(), (usize, Reason)> {
    const ANY_VERSION: i32 = -1;
    if ops.is_empty() {
        return Err((0, Reason::BadArguments));
    }
    let unchecked = |op: &Op| match op {
        Op::Check { version, .. } | Op::Set { version, .. } => *version == ANY_VERSION,
        Op::Delete { version, .. } => *version == Some(ANY_VERSION),
        Op::Create { .. } => false,
    };
    if let Some(index) = ops.iter().position(unchecked) {
        return Err((index, Reason::BadArguments));
    }
    let chroot = chroot_bytes(chroot);
    if frame_bytes(chroot, ops) > FRAME_BYTES_MAX {
        let fitting =
            (1..=ops.len()).take_while(|count| frame_bytes(chroot, &ops[..*count]) <= FRAME_BYTES_MAX).count();
        return Err((fitting, Reason::BadArguments));
    }
    Ok(())
}

/// Bytes that a chroot adds to every path.
pub(super) fn chroot_bytes(chroot: &str) -> usize {
    if chroot == "/" {
        0
    } else {
        chroot.len()
    }
}

/// Bytes of the request that carries these operations, below a chroot whose path has `chroot` bytes (0 for none).
pub fn frame_bytes(chroot: usize, ops: &[Op]) -> usize {
    // Request number and type; then type, end mark and error of each operation and of the end.
    const HEADER: usize = 4 + 4;
    const OP_HEADER: usize = 4 + 1 + 4;
    const LENGTH: usize = 4;
    const VERSION_OR_FLAGS: usize = 4;
    // One entry: count, permissions, scheme "world" and id "anyone"; the other one we use is shorter.
    const ACL: usize = 4 + 4 + (LENGTH + 5) + (LENGTH + 6);
    let op_bytes = |op: &Op| {
        let content = match op {
            Op::Create { data, .. } => LENGTH + data.len() + ACL,
            Op::Set { data, .. } => LENGTH + data.len(),
            Op::Check { .. } | Op::Delete { .. } => 0,
        };
        OP_HEADER + LENGTH + chroot + op.path().len() + content + VERSION_OR_FLAGS
    };
    HEADER + ops.iter().map(op_bytes).sum::<usize>() + OP_HEADER
}

fn content(
    found: Result<(Vec<u8>, zookeeper_client::Stat, Option<OneshotWatcher>), Error>,
    watched: Option<Watched>,
) -> Answer {
    match found {
        Ok((data, stat, watcher)) => with_watch(Reply::Data(Some((data.into(), stat_of(&stat)))), watched, watcher),
        Err(Error::NoNode) => Answer::of(Outcome::Ok(Reply::Data(None))),
        Err(error) => read(Err(error)),
    }
}

fn listing(found: Result<(Vec<String>, Option<OneshotWatcher>), Error>, watched: Option<Watched>) -> Answer {
    match found {
        Ok((names, watcher)) => with_watch(Reply::Children(Some(names)), watched, watcher),
        Err(Error::NoNode) => Answer::of(Outcome::Ok(Reply::Children(None))),
        Err(error) => read(Err(error)),
    }
}

fn existence(stat: Option<zookeeper_client::Stat>) -> Reply {
    Reply::Stat(stat.as_ref().map(stat_of))
}

fn with_watch(reply: Reply, watched: Option<Watched>, watcher: Option<OneshotWatcher>) -> Answer {
    Answer { watcher: watched.zip(watcher), ..Answer::of(Outcome::Ok(reply)) }
}

fn read(result: Result<Reply, Error>) -> Answer {
    match result {
        Ok(reply) => Answer::of(Outcome::Ok(reply)),
        Err(error) => reason(&error).map_or_else(|| Answer::unknown(&error), |reason| Answer::refused(0, reason)),
    }
}

/// What is definitely a refusal. Everything else, of whatever type, is unknown: also what the library believes to have
/// changed nothing, like an expired session.
fn reason(error: &Error) -> Option<Reason> {
    match error {
        Error::NoNode => Some(Reason::NoNode),
        Error::NodeExists => Some(Reason::NodeExists),
        Error::BadVersion => Some(Reason::BadVersion),
        Error::NotEmpty => Some(Reason::NotEmpty),
        Error::NoAuth => Some(Reason::NoAuth),
        Error::InvalidAcl => Some(Reason::InvalidAcl),
        Error::NoChildrenForEphemerals => Some(Reason::NoChildrenForEphemerals),
        Error::QuotaExceeded => Some(Reason::QuotaExceeded),
        Error::NotReadOnly => Some(Reason::NotReadOnly),
        Error::BadArguments(_) => Some(Reason::BadArguments),
        _ => None,
    }
}

fn stat_of(stat: &zookeeper_client::Stat) -> Stat {
    Stat {
        czxid: stat.czxid,
        mzxid: stat.mzxid,
        version: stat.version,
        data_length: stat.data_length,
        num_children: stat.num_children,
    }
}
