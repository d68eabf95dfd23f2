//! Fewer messages of raft-rs that say the same.
//!
//! raft-rs builds a message to every peer for each proposal and each time something is committed, and answers each. What
//! one turn of the core has for a peer is put together here: to a peer it looks as if the leader had been given the
//! proposals all at once, and as if the network had lost all answers but the last.

use raft::eraftpb::{Entry, Message, MessageType};

use super::engine::MESSAGE_BYTES;
use super::log::ENTRY_OVERHEAD;

/// Puts together what can be, for each peer in order.
pub(super) fn merged(messages: Vec<Message>) -> Vec<Message> {
    let mut list: Vec<(Message, u64)> = Vec::with_capacity(messages.len());
    for mut message in messages {
        let size = |entry: &Entry| (entry.data.len() + entry.context.len()) as u64 + ENTRY_OVERHEAD;
        let bytes = message.entries.iter().map(size).sum();
        // Only with the last one to the same peer: between two of them nothing may change places.
        let last = list.iter_mut().rev().find(|(before, _)| before.to == message.to);
        if !last.is_some_and(|last| absorb(last, &mut message, bytes)) {
            list.push((message, bytes));
        }
    }
    list.into_iter().map(|(message, _)| message).collect()
}

/// Makes the last one say what the next one does as well, if one message can.
fn absorb((last, last_bytes): &mut (Message, u64), next: &mut Message, next_bytes: u64) -> bool {
    let kind = last.get_msg_type();
    if kind != next.get_msg_type() || last.term != next.term || last.from != next.from {
        return false;
    }
    match kind {
        MessageType::MsgAppend => {
            let end = last.entries.last().map_or((last.index, last.log_term), |entry| (entry.index, entry.term));
            if end != (next.index, next.log_term) || *last_bytes + next_bytes > MESSAGE_BYTES {
                return false;
            }
            last.entries.extend(next.take_entries());
            *last_bytes += next_bytes;
        }
        // They speak for everything before as well.
        MessageType::MsgAppendResponse if !last.reject && !next.reject => last.index = last.index.max(next.index),
        MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse
            if last.context.is_empty() && next.context.is_empty() => {}
        _ => return false,
    }
    last.commit = last.commit.max(next.commit);
    true
}

#[cfg(test)]
mod tests {
    use protobuf::Message as _;

    use super::*;

    fn message(kind: MessageType, to: u64, index: u64, commit: u64) -> Message {
        let mut message = Message { to, from: 1, term: 3, index, commit, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    /// An append of entries of term 3 behind `index`, each of `bytes`.
    fn append(to: u64, index: u64, entries: u64, bytes: usize) -> Message {
        let mut message = message(MessageType::MsgAppend, to, index, index);
        message.log_term = 3;
        let entry = |index| Entry { index, term: 3, data: vec![7; bytes].into(), ..Entry::default() };
        message.set_entries((index + 1..=index + entries).map(entry).collect());
        message
    }

    /// Receiver, index before, last index and commit of each.
    fn shapes(messages: Vec<Message>) -> Vec<(u64, u64, u64, u64)> {
        let shape = |message: Message| {
            (
                message.to,
                message.index,
                message.entries.last().map_or(message.index, |entry| entry.index),
                message.commit,
            )
        };
        merged(messages).into_iter().map(shape).collect()
    }

    #[test]
    fn appends_that_follow_each_other_are_one_for_each_peer() {
        let list =
            vec![append(2, 5, 1, 9), append(3, 5, 1, 9), append(2, 6, 2, 9), append(3, 6, 2, 9), append(2, 8, 0, 9)];
        assert_eq!(shapes(list), [(2, 5, 8, 8), (3, 5, 8, 6)]);
    }

    #[test]
    fn appends_with_a_gap_between_or_of_other_terms_stay_apart_and_in_order() {
        let mut other_term = append(2, 6, 1, 9);
        other_term.term = 4;
        let mut other_log = append(2, 7, 1, 9);
        other_log.log_term = 2;
        let list = vec![append(2, 5, 1, 9), append(2, 4, 1, 9), append(2, 5, 1, 9), other_term, other_log];
        assert_eq!(shapes(list), [(2, 5, 6, 5), (2, 4, 6, 5), (2, 6, 7, 6), (2, 7, 8, 7)]);
    }

    #[test]
    fn one_message_has_no_more_bytes_than_raft_puts_into_one() {
        let half = (MESSAGE_BYTES / 2 - ENTRY_OVERHEAD) as usize;
        let list = vec![append(2, 5, 1, half), append(2, 6, 1, half), append(2, 7, 1, 1)];
        assert_eq!(shapes(list), [(2, 5, 7, 6), (2, 7, 8, 7)]);
        // Entries that are nearly nothing but what they take beside their data.
        let many = (0..4_000).map(|message| append(2, (1 << 60) + message * 100, 100, 2)).collect();
        let sizes: Vec<_> = merged(many).iter().map(|message| u64::from(message.compute_size())).collect();
        assert!(sizes.len() > 10 && sizes.iter().all(|size| *size <= MESSAGE_BYTES + 100), "{sizes:?}");
    }

    #[test]
    fn of_answers_the_farthest_stands_for_those_before_but_a_rejection_is_kept() {
        let answer = |index, commit| message(MessageType::MsgAppendResponse, 2, index, commit);
        let mut rejection = answer(9, 0);
        rejection.reject = true;
        let list = vec![answer(7, 5), answer(6, 6), rejection, answer(8, 6)];
        assert_eq!(shapes(list), [(2, 7, 7, 6), (2, 9, 9, 0), (2, 8, 8, 6)]);
        let beats = vec![message(MessageType::MsgHeartbeat, 2, 0, 5), message(MessageType::MsgHeartbeat, 2, 0, 6)];
        assert_eq!(shapes(beats), [(2, 0, 0, 6)]);
    }
}
