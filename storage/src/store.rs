//! One node's store: opening it, whose it is, and which groups it holds.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rocksdb::WriteBatch;

use crate::database::{Database, META};
use crate::directory::{Directory, Moved};
use crate::error::StorageError;
use crate::kv;
use crate::log::{self, Cursor};
use crate::options::{Options, Tuning};
use crate::record::{self, hex};
use crate::space::Space;

/// The uuid of a group, as its genesis has it.
pub type GroupUuid = [u8; 16];

/// What is durable on one node. Clones share one open store; the directory is free again when the last one, and
/// everything made from it, is dropped.
///
/// Every call may block on the disk. A failed write or sync ends the store: all later calls return
/// [`StorageError::Poisoned`] until it is dropped and opened again.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) database: Database,
    /// Where each group's log begins and ends. Held while the log is written: the next index is decided here.
    cursors: Mutex<HashMap<GroupUuid, Cursor>>,
}

/// What [`Store::open`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Opened {
    /// The directory was new or empty.
    Created,
    /// The directory held a store.
    Existing,
    /// The directory held a damaged store. It was moved aside, and an empty one created: the node replays everything.
    Quarantined {
        /// Where the damaged files are now. The program never deletes them.
        moved_to: PathBuf,
        /// What was found.
        reason: String,
    },
}

/// Whose directory this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's uuid.
    pub cluster: [u8; 16],
    /// The node's id.
    pub node: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", hex(&self.cluster), self.node)
    }
}

/// What is kept of a group's genesis, to notice a ZooKeeper that lost it or has another one by that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMeta {
    /// The group's uuid.
    pub uuid: GroupUuid,
    /// The group's name.
    pub name: String,
    /// The zxid that created the genesis znode.
    pub genesis_czxid: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct IdentityRecord {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(uint64, tag = "2")]
    node: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GroupRecord {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, tag = "2")]
    genesis_czxid: i64,
}

const IDENTITY_KEY: &[u8] = b"identity";
const GROUP_PREFIX: u8 = b'g';

/// The records of a group in `meta`: `g`, the uuid, and one of these.
#[derive(Clone, Copy)]
pub(crate) enum GroupKey {
    Genesis = b'g' as isize,
    Base = b'b' as isize,
    HardState = b'h' as isize,
    Known = b'k' as isize,
    Generation = b's' as isize,
}

impl GroupKey {
    pub(crate) const ALL: [Self; 5] = [Self::Genesis, Self::Base, Self::HardState, Self::Known, Self::Generation];

    pub(crate) fn of(self, group: &GroupUuid) -> Vec<u8> {
        [&[GROUP_PREFIX], group.as_slice(), &[self as u8]].concat()
    }
}

impl Store {
    /// Opens the store in `dir`, or creates it there.
    ///
    /// Damage that is found is moved aside within `dir`, and told by [`Opened::Quarantined`].
    ///
    /// # Errors
    /// [`StorageError::InUse`], [`StorageError::ForeignDirectory`], [`StorageError::UnsupportedFormat`]: nothing was
    /// changed. [`StorageError::DiskFull`], [`StorageError::Io`], [`StorageError::Database`]: the system refused.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<(Self, Opened), StorageError> {
        let (mut directory, mut moved) = Directory::open(dir.as_ref())?;
        let mut tuning = Tuning::new(options);
        loop {
            let created = directory.is_new();
            let failure;
            (directory, tuning, failure) = match open_in(directory, tuning) {
                Ok(shared) => {
                    let opened = match moved {
                        Some(Moved { to, reason }) => Opened::Quarantined { moved_to: to, reason },
                        None if created => Opened::Created,
                        None => Opened::Existing,
                    };
                    return Ok((Self { shared: Arc::new(shared) }, opened));
                }
                Err(failed) => *failed,
            };
            match failure {
                // Damage in a database that was just created is a failing disk: a further attempt would hide it.
                StorageError::Damaged { what, key } if !created => {
                    moved = directory.move_aside(&format!("{what}, key={key}"))?.or(moved);
                }
                failure => return Err(failure),
            }
        }
    }

    /// The directory the store lies in.
    pub fn path(&self) -> &Path {
        self.shared.database.path()
    }

    /// Whose directory this is; `None` until [`Store::set_identity`].
    ///
    /// # Errors
    /// [`StorageError::Damaged`], or the store is stopped.
    pub fn identity(&self) -> Result<Option<Identity>, StorageError> {
        read_identity(&self.shared.database)
    }

    /// Makes the directory that of `identity`, durably. Doing it again with the same one changes nothing.
    ///
    /// # Errors
    /// [`StorageError::IdentityMismatch`] if it is another's: start nothing on it.
    pub fn set_identity(&self, identity: Identity) -> Result<(), StorageError> {
        match self.identity()? {
            Some(found) if found == identity => return Ok(()),
            Some(found) => return Err(StorageError::IdentityMismatch { found, given: identity }),
            None => {}
        }
        let record = IdentityRecord { cluster: identity.cluster.to_vec(), node: identity.node };
        let mut batch = WriteBatch::default();
        let meta = self.shared.database.family(META)?;
        batch.put_cf(&meta, IDENTITY_KEY, record::seal(IDENTITY_KEY, &record));
        self.shared.database.write(batch, true)
    }

    /// The groups of which something is stored, in the order of their uuids.
    ///
    /// # Errors
    /// [`StorageError::Damaged`], or the store is stopped.
    pub fn groups(&self) -> Result<Vec<GroupMeta>, StorageError> {
        read_groups(&self.shared.database)
    }

    /// Removes all that is stored of `group`: log, hard state, what was known, and key-value state, durably.
    /// A group that is not there is no error. The key-value machine of the group must have been dropped.
    ///
    /// # Errors
    /// The disk failed; the group may be there or gone.
    pub fn forget(&self, group: GroupUuid) -> Result<(), StorageError> {
        let mut cursors = self.shared.cursors();
        let database = &self.shared.database;
        let mut batch = WriteBatch::default();
        let meta = database.family(META)?;
        for key in GroupKey::ALL {
            batch.delete_cf(&meta, key.of(&group));
        }
        log::delete_all(database, &mut batch, &group)?;
        // A crash behind this leaves a state of no group: the next open deletes it.
        database.write(batch, true)?;
        cursors.remove(&group);
        let mut spaces = Space::all(database)?.into_iter().filter(|space| space.group == group);
        spaces.try_for_each(|space| space.remove(database))
    }

    /// Declares the local data damaged, for a reason only the caller can know. The store stops; the next
    /// [`Store::open`] moves everything aside. For [`StorageError::Damaged`] this keeps the evidence, where
    /// [`Store::forget`] removes it.
    pub fn condemn(&self, reason: &str) {
        self.shared.database.condemn(reason);
    }

    /// Makes everything that [`Store::write`] wrote so far survive the death of the machine, of all groups alike. Not what
    /// [`KvMachine::commit`](crate::KvMachine::commit) put in force: that is durable once RocksDB has flushed it, which
    /// each compaction of a log begins and an orderly close waits for. What a death takes of it is applied again.
    ///
    /// # Errors
    /// Any error stops the store: what is on disk is not known, and a second sync may wrongly succeed. Also
    /// [`StorageError::Vanished`] if the directory was removed under the running node.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.shared.database.sync()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Store").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn cursors(&self) -> MutexGuard<'_, HashMap<GroupUuid, Cursor>> {
        // A cursor is replaced whole, after the write it describes: a panic elsewhere leaves none half changed.
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type OpenFailed = Box<(Directory, Tuning, StorageError)>;

fn open_in(directory: Directory, tuning: Tuning) -> Result<Shared, OpenFailed> {
    let created = directory.is_new();
    let mut database = Database::open(directory, tuning).map_err(|(directory, tuning, failure)| {
        let error = failure.into_error(directory.path().to_owned());
        Box::new((directory, tuning, error))
    })?;
    let prepared = if created { database.adopt() } else { Ok(()) };
    match prepared.and_then(|()| read_cursors(&database)) {
        Ok(cursors) => Ok(Shared { database, cursors: Mutex::new(cursors) }),
        Err(error) => {
            let (directory, tuning) = database.close();
            Err(Box::new((directory, tuning, error)))
        }
    }
}

/// Reads all small records, so that damage in them is met now, and removes what interrupted restores left.
fn read_cursors(database: &Database) -> Result<HashMap<GroupUuid, Cursor>, StorageError> {
    read_identity(database)?;
    let mut cursors = HashMap::new();
    let mut live = HashSet::new();
    for group in group_uuids(database)? {
        if read_meta(database, &group)?.is_some() {
            cursors.insert(group, Cursor::read(database, &group)?);
        }
        if let Some(space) = read_generation(database, group)? {
            // A state that is named but not there would otherwise be met only when its group starts.
            kv::read_mark(database, space)?;
            live.insert(space);
        }
    }
    for space in Space::all(database)?.into_iter().filter(|space| !live.contains(space)) {
        let Space { group, generation } = space;
        tracing::info!(group = hex(&group), generation, "removing the remains of an interrupted restore");
        space.remove(database)?;
    }
    Ok(cursors)
}

#[derive(Clone, PartialEq, prost::Message)]
struct GenerationRecord {
    #[prost(uint64, tag = "1")]
    generation: u64,
}

/// Which generation of the group's key-value state is the live one.
pub(crate) fn read_generation(database: &Database, group: GroupUuid) -> Result<Option<Space>, StorageError> {
    let key = GroupKey::Generation.of(&group);
    let Some(bytes) = database.get(META, &key)? else { return Ok(None) };
    let generation = record::open::<GenerationRecord>("state generation", &key, &bytes)?.generation;
    let space = Space::new(group, generation);
    space.map(Some).ok_or_else(|| record::damaged("state generation", "out of range", &key))
}

/// Adds to `batch` that this generation is the live one of its group.
pub(crate) fn put_generation(database: &Database, batch: &mut WriteBatch, space: Space) -> Result<(), StorageError> {
    let key = GroupKey::Generation.of(&space.group);
    let value = record::seal(&key, &GenerationRecord { generation: space.generation });
    batch.put_cf(&database.family(META)?, key, value);
    Ok(())
}

/// Adds to `batch` what is kept of the genesis.
pub(crate) fn put_meta(database: &Database, batch: &mut WriteBatch, meta: &GroupMeta) -> Result<(), StorageError> {
    let key = GroupKey::Genesis.of(&meta.uuid);
    let record = GroupRecord { name: meta.name.clone(), genesis_czxid: meta.genesis_czxid };
    let value = record::seal(&key, &record);
    batch.put_cf(&database.family(META)?, key, value);
    Ok(())
}

pub(crate) fn read_meta(database: &Database, group: &GroupUuid) -> Result<Option<GroupMeta>, StorageError> {
    let key = GroupKey::Genesis.of(group);
    let Some(bytes) = database.get(META, &key)? else { return Ok(None) };
    let record: GroupRecord = record::open("group", &key, &bytes)?;
    Ok(Some(GroupMeta { uuid: *group, name: record.name, genesis_czxid: record.genesis_czxid }))
}

fn read_identity(database: &Database) -> Result<Option<Identity>, StorageError> {
    let Some(bytes) = database.get(META, IDENTITY_KEY)? else { return Ok(None) };
    let record: IdentityRecord = record::open("identity", IDENTITY_KEY, &bytes)?;
    match record.cluster.try_into() {
        Ok(cluster) => Ok(Some(Identity { cluster, node: record.node })),
        Err(_) => Err(record::damaged("identity", "cluster uuid has not 16 bytes", IDENTITY_KEY)),
    }
}

fn read_groups(database: &Database) -> Result<Vec<GroupMeta>, StorageError> {
    let mut groups = Vec::new();
    for uuid in group_uuids(database)? {
        // A state machine may have been opened before the group's log was first written.
        groups.extend(read_meta(database, &uuid)?);
    }
    Ok(groups)
}

fn group_uuids(database: &Database) -> Result<Vec<GroupUuid>, StorageError> {
    let family = database.family(META)?;
    let mut iterator = database.rocks()?.raw_iterator_cf(&family);
    let mut uuids: Vec<GroupUuid> = Vec::new();
    iterator.seek([GROUP_PREFIX]);
    while let Some(key) = iterator.key().filter(|key| key[0] == GROUP_PREFIX) {
        let Some(uuid) = key.get(1..17).and_then(|uuid| GroupUuid::try_from(uuid).ok()) else {
            return Err(record::damaged("group", "unknown key", key));
        };
        if uuids.last() != Some(&uuid) {
            uuids.push(uuid);
        }
        iterator.next();
    }
    iterator.status().map_err(|error| database.latch(error))?;
    Ok(uuids)
}
