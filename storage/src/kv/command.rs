//! The messages of the key-value machine, as protobuf: what is proposed, asked, and answered.
//!
//! A command that an older version does not know is `Invalid` to it: nodes of a group must run versions that know the
//! same commands before a new one is proposed.

use bytes::Bytes;

/// A change to the state.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KvCommand {
    /// Which one.
    #[prost(oneof = "kv_command::Command", tags = "1, 2, 3")]
    pub command: Option<kv_command::Command>,
}

/// The kinds of [`KvCommand`].
pub mod kv_command {
    use bytes::Bytes;

    /// One command.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Command {
        /// Sets a value.
        #[prost(message, tag = "1")]
        Put(Put),
        /// Removes a key; no error if it is absent.
        #[prost(message, tag = "2")]
        Delete(Delete),
        /// Sets or removes, if the value is as expected.
        #[prost(message, tag = "3")]
        CompareAndSet(CompareAndSet),
    }

    /// Sets `key` to `value`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Put {
        /// 1 byte to [`KEY_BYTES_MAX`](crate::KEY_BYTES_MAX).
        #[prost(bytes = "bytes", tag = "1")]
        pub key: Bytes,
        /// At most [`VALUE_BYTES_MAX`](crate::VALUE_BYTES_MAX).
        #[prost(bytes = "bytes", tag = "2")]
        pub value: Bytes,
    }

    /// Removes `key`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Delete {
        /// The key.
        #[prost(bytes = "bytes", tag = "1")]
        pub key: Bytes,
    }

    /// Sets `key` to `value`, or removes it, if its value is `expected`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct CompareAndSet {
        /// The key.
        #[prost(bytes = "bytes", tag = "1")]
        pub key: Bytes,
        /// `None`: the key must be absent.
        #[prost(bytes = "bytes", optional, tag = "2")]
        pub expected: Option<Bytes>,
        /// `None`: the key is removed.
        #[prost(bytes = "bytes", optional, tag = "3")]
        pub value: Option<Bytes>,
    }
}

/// What a command did.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KvResponse {
    /// Which outcome.
    #[prost(oneof = "kv_response::Response", tags = "1, 2, 3, 4")]
    pub response: Option<kv_response::Response>,
}

/// The kinds of [`KvResponse`].
pub mod kv_response {
    use bytes::Bytes;

    /// One outcome. Only `Done` changed the state.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Response {
        /// It took effect.
        #[prost(message, tag = "1")]
        Done(Done),
        /// The value was not as expected.
        #[prost(message, tag = "2")]
        Conflict(Conflict),
        /// The state may not grow.
        #[prost(message, tag = "3")]
        StateFull(StateFull),
        /// The bytes were no valid command.
        #[prost(message, tag = "4")]
        Invalid(Invalid),
    }

    /// The command took effect.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Done {
        /// Index of its entry.
        #[prost(uint64, tag = "1")]
        pub index: u64,
    }

    /// The value was not as expected.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Conflict {
        /// The value; `None` if the key is absent.
        #[prost(bytes = "bytes", optional, tag = "1")]
        pub current: Option<Bytes>,
    }

    /// The state may not grow. Deletes, and puts that shrink it, still pass.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct StateFull {
        /// Bytes of all keys and values.
        #[prost(uint64, tag = "1")]
        pub bytes: u64,
        /// The limit.
        #[prost(uint64, tag = "2")]
        pub limit: u64,
    }

    /// The bytes were no valid command.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Invalid {
        /// What is wrong.
        #[prost(string, tag = "1")]
        pub reason: String,
    }
}

/// A question about the state.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KvQuery {
    /// Which one.
    #[prost(oneof = "kv_query::Query", tags = "1, 2")]
    pub query: Option<kv_query::Query>,
}

/// The kinds of [`KvQuery`].
pub mod kv_query {
    use bytes::Bytes;

    /// One question.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Query {
        /// A key's value.
        #[prost(message, tag = "1")]
        Get(Get),
        /// Pairs in the order of their keys.
        #[prost(message, tag = "2")]
        Scan(Scan),
    }

    /// Asks for a key's value.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Get {
        /// The key.
        #[prost(bytes = "bytes", tag = "1")]
        pub key: Bytes,
    }

    /// Asks for the pairs whose keys start with a prefix.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Scan {
        /// What the keys start with; empty for all.
        #[prost(bytes = "bytes", tag = "1")]
        pub prefix: Bytes,
        /// Only keys greater than this one: the last of the answer before.
        #[prost(bytes = "bytes", optional, tag = "2")]
        pub after: Option<Bytes>,
        /// How many at most; 0 for as many as [`SCAN_PAIRS_MAX`](crate::SCAN_PAIRS_MAX).
        #[prost(uint32, tag = "3")]
        pub limit: u32,
    }
}

/// The answer to a question.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KvAnswer {
    /// Which one.
    #[prost(oneof = "kv_answer::Answer", tags = "1, 2")]
    pub answer: Option<kv_answer::Answer>,
}

/// The kinds of [`KvAnswer`].
pub mod kv_answer {
    use bytes::Bytes;

    /// One answer.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Answer {
        /// To a get.
        #[prost(message, tag = "1")]
        Value(Value),
        /// To a scan.
        #[prost(message, tag = "2")]
        Pairs(Pairs),
    }

    /// A key's value.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Value {
        /// `None` if the key is absent.
        #[prost(bytes = "bytes", optional, tag = "1")]
        pub value: Option<Bytes>,
    }

    /// Pairs in the order of their keys.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Pairs {
        /// The pairs.
        #[prost(message, repeated, tag = "1")]
        pub pairs: Vec<super::KvPair>,
        /// Whether there are more: scan again after the last key.
        #[prost(bool, tag = "2")]
        pub more: bool,
    }
}

/// A key and its value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KvPair {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

impl KvCommand {
    /// Sets `key` to `value`.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        let put = kv_command::Put { key: key.into(), value: value.into() };
        Self { command: Some(kv_command::Command::Put(put)) }
    }

    /// Removes `key`.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self { command: Some(kv_command::Command::Delete(kv_command::Delete { key: key.into() })) }
    }

    /// Sets `key` to `value`, or removes it, if it is `expected`; `None` means absent.
    pub fn compare_and_set(key: impl Into<Bytes>, expected: Option<Bytes>, value: Option<Bytes>) -> Self {
        let set = kv_command::CompareAndSet { key: key.into(), expected, value };
        Self { command: Some(kv_command::Command::CompareAndSet(set)) }
    }
}

impl KvResponse {
    pub(super) fn done(index: u64) -> Self {
        Self { response: Some(kv_response::Response::Done(kv_response::Done { index })) }
    }

    pub(super) fn conflict(current: Option<Bytes>) -> Self {
        Self { response: Some(kv_response::Response::Conflict(kv_response::Conflict { current })) }
    }

    pub(super) fn state_full(bytes: u64, limit: u64) -> Self {
        Self { response: Some(kv_response::Response::StateFull(kv_response::StateFull { bytes, limit })) }
    }

    /// Our own words only: a decoder's could differ between versions, and with them the nodes' answers.
    pub(super) fn invalid(reason: &'static str) -> Self {
        Self { response: Some(kv_response::Response::Invalid(kv_response::Invalid { reason: reason.to_owned() })) }
    }
}

impl KvQuery {
    /// Asks for the value of `key`.
    pub fn get(key: impl Into<Bytes>) -> Self {
        Self { query: Some(kv_query::Query::Get(kv_query::Get { key: key.into() })) }
    }

    /// Asks for at most `limit` pairs whose keys start with `prefix` and are greater than `after`.
    pub fn scan(prefix: impl Into<Bytes>, after: Option<Bytes>, limit: u32) -> Self {
        Self { query: Some(kv_query::Query::Scan(kv_query::Scan { prefix: prefix.into(), after, limit })) }
    }
}

impl KvAnswer {
    pub(super) fn value(value: Option<Bytes>) -> Self {
        Self { answer: Some(kv_answer::Answer::Value(kv_answer::Value { value })) }
    }

    pub(super) fn pairs(pairs: Vec<KvPair>, more: bool) -> Self {
        Self { answer: Some(kv_answer::Answer::Pairs(kv_answer::Pairs { pairs, more })) }
    }
}
