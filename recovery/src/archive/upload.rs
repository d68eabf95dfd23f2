//! An upload: chunks, each read back once by this leadership, then the manifest, then the pointer.

use std::collections::btree_map::Entry;
use std::collections::BTreeMap;

use bytes::Bytes;

use super::{hashes, Archive, ArchiveEvent, Kind};
use crate::entry::Position;
use crate::keeper::{Op, Stat};
use crate::planted;
use crate::reader::Ask;
use crate::record::{self, ChunkName, Manifest, Pointer, SnapshotName, FORMAT};

/// Chunks a manifest may name, so that it stays one znode: 12,000 of at most 512 KiB.
pub const CHUNKS_MAX: usize = 12_000;

#[derive(Debug)]
pub(super) struct Upload {
    base: Position,
    voters: Vec<u64>,
    names: Vec<ChunkName>,
    bytes: u64,
    pending: BTreeMap<[u8; 32], Bytes>,
    ended: bool,
    sealing: bool,
}

impl Archive {
    /// Begins to upload a snapshot of the state at `base`.
    ///
    /// # Panics
    /// Unless the archive is idle.
    pub fn begin(&mut self, base: Position, voters: Vec<u64>) {
        assert!(self.idle(), "upload begun while something else is under way");
        self.upload = Some(Upload {
            base,
            voters,
            names: Vec::new(),
            bytes: 0,
            pending: BTreeMap::new(),
            ended: false,
            sealing: false,
        });
    }

    /// Takes the next chunk.
    pub fn chunk(&mut self, chunk: Bytes) -> (Vec<Ask>, Vec<ArchiveEvent>) {
        let Some(upload) = &mut self.upload else { return self.flush() };
        let hash = *blake3::hash(&chunk).as_bytes();
        upload.names.push(ChunkName { hash: Bytes::copy_from_slice(&hash), length: chunk.len() as u32 });
        upload.bytes += chunk.len() as u64;
        if upload.names.len() > CHUNKS_MAX {
            self.give_up(format!("snapshot too large: chunks > {CHUNKS_MAX}; make the state smaller"));
            return self.flush();
        }
        let there = self.chunks.as_ref().is_some_and(|chunks| chunks.contains(&hash));
        match upload.pending.entry(hash) {
            Entry::Occupied(_) => self.events.push(ArchiveEvent::Credit(1)),
            Entry::Vacant(_) if there && self.sound.contains(&hash) => self.events.push(ArchiveEvent::Credit(1)),
            Entry::Vacant(place) if there => {
                // Made by another leadership: a snapshot must not rest on it unseen.
                place.insert(chunk);
                let path = self.paths.chunk(&hash);
                self.get(Kind::ReadChunk(hash), path);
            }
            Entry::Vacant(place) => {
                place.insert(chunk.clone());
                let create = Op::Create { path: self.paths.chunk(&hash), data: chunk, ephemeral: false };
                self.fenced(Kind::CreateChunk(hash), vec![create]);
            }
        }
        self.flush()
    }

    /// All chunks were given.
    pub fn end(&mut self) -> (Vec<Ask>, Vec<ArchiveEvent>) {
        if let Some(upload) = &mut self.upload {
            upload.ended = true;
        }
        self.seal_manifest();
        self.flush()
    }

    /// The state machine could not go on.
    pub fn abandon(&mut self, why: String) -> (Vec<Ask>, Vec<ArchiveEvent>) {
        self.give_up(why);
        self.flush()
    }

    /// A chunk was read back, or for the first time.
    pub(super) fn verified(&mut self, hash: [u8; 32], found: Option<Bytes>) {
        let Some(upload) = &mut self.upload else { return };
        let Some(bytes) = upload.pending.get(&hash).cloned() else { return };
        match found {
            Some(found) if found == bytes => {
                upload.pending.remove(&hash);
                if let Some(chunks) = &mut self.chunks {
                    chunks.insert(hash);
                }
                self.sound.insert(hash);
                self.events.push(ArchiveEvent::Credit(1));
                self.seal_manifest();
            }
            // Damaged by another hand, under a name that says what it should be: put the right bytes there.
            Some(_) => {
                let path = self.paths.chunk(&hash);
                let delete = Op::Delete { path: path.clone(), version: None };
                let create = Op::Create { path, data: bytes, ephemeral: false };
                self.fenced(Kind::CreateChunk(hash), vec![delete, create]);
            }
            // Deleted by another hand, or read on another session, which lags: creating it tells, and is looked at again.
            None => {
                let create = Op::Create { path: self.paths.chunk(&hash), data: bytes, ephemeral: false };
                self.fenced(Kind::CreateChunk(hash), vec![create]);
            }
        }
    }

    fn seal_manifest(&mut self) {
        let Some(upload) = &mut self.upload else { return };
        let complete = upload.pending.is_empty() || planted!(PointerBeforeChunks);
        if !upload.ended || !complete || upload.sealing {
            return;
        }
        upload.sealing = true;
        let manifest = Manifest {
            format: FORMAT,
            uuid: self.uuid.to_bytes(),
            index: upload.base.index,
            term: upload.base.term,
            hash: upload.base.hash.to_bytes(),
            voters: upload.voters.clone(),
            chunks: upload.names.clone(),
            bytes: upload.bytes,
        };
        let path = self.paths.manifest(upload.base.index, upload.base.term);
        let create = Op::Create { path, data: record::seal(&manifest), ephemeral: false };
        self.manifest(Kind::CreateManifest, vec![create]);
    }

    /// Once the pointer has moved, no late copy of what made its manifest may touch it.
    pub(super) fn manifest(&mut self, kind: Kind, ops: Vec<Op>) {
        let mut all = vec![Op::Check { path: self.paths.pointer(), version: self.pointer.1 }];
        all.extend(ops);
        self.fenced(kind, all);
    }

    fn moved(&self) -> Option<Pointer> {
        let base = self.upload.as_ref()?.base;
        Some(Pointer {
            format: FORMAT,
            uuid: self.uuid.to_bytes(),
            newest: Some(SnapshotName { index: base.index, term: base.term }),
            previous: self.pointer.0.newest,
        })
    }

    pub(super) fn move_pointer(&mut self) {
        let Some(pointer) = self.moved() else { return };
        if !self.attempts.contains(&pointer) {
            self.attempts.push(pointer.clone());
        }
        let set = Op::Set { path: self.paths.pointer(), data: record::seal(&pointer), version: self.pointer.1 };
        self.fenced(Kind::Pointer, vec![set]);
    }

    pub(super) fn published(&mut self) {
        let (Some(pointer), Some(upload)) = (self.moved(), self.upload.take()) else { return };
        self.pointer = (pointer.clone(), self.pointer.1 + 1);
        self.attempts.clear();
        let name = (upload.base.index, upload.base.term);
        self.contents.insert(name, hashes(&upload.names));
        if let Some(manifests) = &mut self.manifests {
            manifests.insert(name);
        }
        self.sweep_due = true;
        self.events.push(ArchiveEvent::Published(pointer));
    }

    /// The pointer had another version: an earlier attempt moved it, or another hand did.
    pub(super) fn pointer_read(&mut self, found: Option<(Pointer, i32)>) {
        match (found, self.moved()) {
            (Some((found, version)), Some(wanted)) if found == wanted => {
                self.pointer.1 = version - 1;
                self.published();
            }
            (Some((_, version)), Some(_)) if version <= self.pointer.1 => {
                // A session that lags: try again.
                self.move_pointer();
            }
            (found, _) => self.pointer_found(found),
        }
    }

    /// The pointer has another version than this leadership knows of: an upload that was given up moved it, or another hand
    /// did. What is found of the former holds, and is known again before anything is deleted or uploaded.
    pub(super) fn pointer_found(&mut self, found: Option<(Pointer, i32)>) {
        match found {
            Some((found, version)) if version > self.pointer.1 && self.attempts.contains(&found) => {
                self.give_up("an earlier upload moved the pointer".to_owned());
                self.pointer = (found.clone(), version);
                self.attempts.clear();
                self.sweep_due = true;
                self.events.push(ArchiveEvent::Published(found));
            }
            // A session that lags: another upload looks again.
            Some((_, version)) if version <= self.pointer.1 => self.give_up("the pointer is read as it was".to_owned()),
            found => self.give_up(format!("pointer changed by another hand: {found:?}")),
        }
    }

    /// What a read of the pointer's znode shows, and its version.
    pub(super) fn opened(&self, data: Option<(Bytes, Stat)>) -> Option<(Pointer, i32)> {
        let (bytes, stat) = data?;
        Some((record::open(&bytes, Some(self.uuid)).ok()?, stat.version))
    }
}
