//! Events and effects in a line each, for a trace that a person reads.

use bequest::replica::event::{Effect, Event, LinkEvent, MachineEvent};
use bequest_recovery::keeper::{KeeperEvent, Op, Request};

const WIDTH: usize = 260;

fn short(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(WIDTH) {
        text.truncate(end);
        text.push_str(" ...");
    }
    text
}

fn request(request: &Request) -> String {
    match request {
        Request::Multi(ops) => {
            let words: Vec<String> = ops
                .iter()
                .map(|op| match op {
                    Op::Check { path, version } => format!("check {path}@{version}"),
                    Op::Create { path, data, .. } => format!("create {path} ({} bytes)", data.len()),
                    Op::Set { path, version, .. } => format!("set {path}@{version}"),
                    Op::Delete { path, .. } => format!("delete {path}"),
                })
                .collect();
            format!("multi [{}]", words.join(", "))
        }
        other => format!("{other:?}"),
    }
}

/// What a core is told.
pub fn event(event: &Event) -> String {
    match event {
        Event::Keeper(KeeperEvent::Outcome { id, session, outcome }) => {
            short(format!("{id:?} on {session:?}: {outcome:?}"))
        }
        Event::Link(peer, LinkEvent::Message(bytes)) => format!("message from {peer:?}, {} bytes", bytes.len()),
        Event::Join { local, applied, .. } => format!("join, applied={applied}, with a log: {}", local.is_some()),
        Event::Machine(_, MachineEvent::SnapshotChunk { upload, chunk }) => {
            format!("chunk of upload {upload}, {} bytes", chunk.len())
        }
        Event::Propose { token, data, .. } => format!("propose {token:?}, {} bytes", data.len()),
        Event::LogFetched { entries, .. } => {
            format!("log fetched, {} entries from {:?}", entries.len(), entries.first().map(|entry| entry.index))
        }
        other => short(format!("{other:?}")),
    }
}

/// What a core wants done.
pub fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Keeper { id, urgency, request: asked } => short(format!("{id:?} {urgency:?} {}", request(asked))),
        Effect::Send { peer, message } => format!("send to {peer:?}, {} bytes", message.len()),
        Effect::Persist(_, persist) => {
            let entries: Vec<(u64, u64)> = persist.entries.iter().map(|(entry, _)| (entry.index, entry.term)).collect();
            short(format!(
                "persist #{} reset={:?} truncate={:?} entries={entries:?} hard_state={:?} compact={:?} known={:?}",
                persist.number,
                persist.reset.map(|at| at.index),
                persist.truncate_from,
                persist.hard_state,
                persist.compact.map(|at| at.index),
                persist.known.map(|known| (known.term, known.position.index)),
            ))
        }
        Effect::Apply(_, entries) => {
            let entries: Vec<_> =
                entries.iter().map(|apply| (apply.entry.index, apply.token.map(|token| token.0))).collect();
            short(format!("apply {entries:?}"))
        }
        Effect::RestoreChunk { restore, chunk, .. } => format!("restore {restore} chunk, {} bytes", chunk.len()),
        other => short(format!("{other:?}")),
    }
}
