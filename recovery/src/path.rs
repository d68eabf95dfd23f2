//! Names of the znodes, all of them deterministic.

/// Segments and marks one bucket holds at most.
pub const BUCKET_SEGMENTS: u64 = 256;

/// Parent of the nodes' registrations.
pub const NODES: &str = "/nodes";
/// Parent of the groups.
pub const GROUPS: &str = "/groups";

/// A node's registration.
pub fn node(node: u64) -> String {
    format!("{NODES}/{node:020}")
}

/// A node's ephemeral hint of life.
pub fn live(node: u64) -> String {
    format!("{NODES}/{node:020}/live")
}

/// Parent of the challenges to a node.
pub fn challenges(node: u64) -> String {
    format!("{NODES}/{node:020}/challenge")
}

/// The challenge to `node` by `challenger`.
pub fn challenge(node: u64, challenger: u64) -> String {
    format!("{NODES}/{node:020}/challenge/{challenger:020}")
}

/// Parent of a node's answers.
pub fn answers(node: u64) -> String {
    format!("{NODES}/{node:020}/answer")
}

/// The answer of `node` to `challenger`.
pub fn answer(node: u64, challenger: u64) -> String {
    format!("{NODES}/{node:020}/answer/{challenger:020}")
}

/// A WAL: which leadership wrote it. Ordered by term, then node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalName {
    /// Term of the leadership.
    pub term: u64,
    /// Its node; 0 for the root WAL that genesis makes.
    pub node: u64,
}

impl WalName {
    /// The empty WAL every group begins with.
    pub const ROOT: Self = Self { term: 0, node: 0 };

    /// Reads a name as [`GroupPaths::wal`] writes its last part.
    pub fn parse(name: &str) -> Option<Self> {
        let (term, node) = name.split_once('-')?;
        Some(Self { term: number(term, 20)?, node: number(node, 20)? })
    }
}

impl std::fmt::Display for WalName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:020}-{:020}", self.term, self.node)
    }
}

/// Reads a number written with exactly `digits` digits.
pub fn number(text: &str, digits: usize) -> Option<u64> {
    (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Reads the name of a chunk: its hash.
pub fn chunk_hash(name: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    // Exactly as chunks are named: a sign or a capital would be another name of the same chunk.
    if name.len() != 64 || !name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&name[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(hash)
}

/// The znodes of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPaths {
    root: String,
}

impl GroupPaths {
    /// The znodes of the group called `name`; see [`valid_group_name`].
    pub fn new(name: &str) -> Self {
        Self { root: format!("{GROUPS}/{name}") }
    }

    /// Genesis.
    pub fn genesis(&self) -> &str {
        &self.root
    }

    /// The ballot.
    pub fn ballot(&self) -> String {
        format!("{}/ballot", self.root)
    }

    /// Parent of the WALs.
    pub fn wals(&self) -> String {
        format!("{}/wal", self.root)
    }

    /// A WAL's header, the parent of its buckets.
    pub fn wal(&self, wal: WalName) -> String {
        format!("{}/wal/{wal}", self.root)
    }

    /// The bucket that holds the segment of this ordinal.
    pub fn bucket(&self, wal: WalName, ordinal: u64) -> String {
        format!("{}/wal/{wal}/{:010}", self.root, ordinal / BUCKET_SEGMENTS)
    }

    /// A segment or mark.
    pub fn segment(&self, wal: WalName, ordinal: u64, first_index: u64) -> String {
        format!("{}/wal/{wal}/{:010}/{first_index:020}", self.root, ordinal / BUCKET_SEGMENTS)
    }

    /// Parent of the chunks.
    pub fn chunks(&self) -> String {
        format!("{}/chunks", self.root)
    }

    /// A chunk, named by its hash.
    pub fn chunk(&self, hash: &[u8]) -> String {
        use std::fmt::Write;
        let mut path = format!("{}/chunks/", self.root);
        for byte in hash {
            // Writing to a string cannot fail.
            let _ = write!(path, "{byte:02x}");
        }
        path
    }

    /// Parent of the manifests.
    pub fn manifests(&self) -> String {
        format!("{}/snapshots", self.root)
    }

    /// A manifest.
    pub fn manifest(&self, index: u64, term: u64) -> String {
        format!("{}/snapshots/{index:020}-{term:020}", self.root)
    }

    /// The pointer to the newest and the previous snapshot.
    pub fn pointer(&self) -> String {
        format!("{}/snapshot", self.root)
    }

    /// Parent of the pins.
    pub fn pins(&self) -> String {
        format!("{}/pins", self.root)
    }

    /// A node's pin.
    pub fn pin(&self, node: u64) -> String {
        format!("{}/pins/{node:020}", self.root)
    }
}

/// Whether `name` may name a group: 1 to 64 of `a-z A-Z 0-9 _ - .`, not beginning with a dot.
pub fn valid_group_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_one_name() {
        let hash = [0x0f; 32];
        let path = GroupPaths::new("g").chunk(&hash);
        let name = path.rsplit('/').next().unwrap_or_default();
        assert_eq!(chunk_hash(name), Some(hash));
        assert_eq!(chunk_hash(&name.replacen("0f", "+f", 1)), None);
        assert_eq!(chunk_hash(&name.to_uppercase()), None);
        assert_eq!(chunk_hash(&name[1..]), None);
    }
}
