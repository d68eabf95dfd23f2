//! Creates a cluster and its groups in ZooKeeper: the one explicit act, done once. Nothing else ever creates them.
//!
//! Every step is one transaction, so a group is there whole or not at all, and every step may be repeated: a crash or a
//! lost answer in between is mended by calling again.

use std::sync::Arc;
use std::time::Duration;

use bequest_recovery::address::{Address, AddressError};
use bequest_recovery::genesis::{cluster_parents, cluster_record, found_group};
use bequest_recovery::keeper::{Op, Outcome, Reason, Refusal, Reply, Request};
use bequest_recovery::path::{valid_group_name, GroupPaths};
use bequest_recovery::record::{open, Cluster, Genesis, Limits, Record, RecordError, Uuid};
use bequest_recovery::zookeeper::{self, ZooKeeper};
use bytes::Bytes;
use tokio::runtime::Handle;

use crate::config::valid_node_id;
use crate::driver::requester::{Requester, Waiting};

/// Voting nodes a group may have: with seven witnesses beside them, one node and ZooKeeper are a majority.
pub const VOTERS_MAX: usize = 7;

// How long the whole act may take while ZooKeeper does not answer.
const BOOTSTRAP_LIMIT: Duration = Duration::from_secs(30);

/// What [`bootstrap`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bootstrapped {
    /// The group was created.
    Created,
    /// The very same group was there already. Nothing was changed.
    AlreadyThere,
}

/// Why a group was not created. It is there whole or not at all; calling again is always safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The address is not one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The name cannot name a group.
    #[error("bad group name: name={name}; 1 to 64 letters, digits, _ - . and no dot first")]
    Name {
        /// The name.
        name: String,
    },
    /// These nodes cannot be a group.
    #[error("bad voters: voters={voters:?}; 1 to {VOTERS_MAX} different node ids, each 1 or above with the highest bit clear")]
    Voters {
        /// The nodes.
        voters: Vec<u64>,
    },
    /// The group is there, with other voters.
    #[error(
        "group has other voters: name={name} given={given:?} found={found:?}; choose another name, or join it as it is"
    )]
    OtherVoters {
        /// The name.
        name: String,
        /// The voters asked for.
        given: Vec<u64>,
        /// The voters it has.
        found: Vec<u64>,
    },
    /// The group is there, with other limits.
    #[error("group has other limits: name={name} given={given:?} found={found:?}; they are set once")]
    OtherLimits {
        /// The name.
        name: String,
        /// The limits asked for.
        given: Limits,
        /// The limits it has.
        found: Option<Limits>,
    },
    /// The path holds something that is not a cluster of ours.
    #[error("path is in use: path={path} {error}; choose another path")]
    Foreign {
        /// The znode.
        path: String,
        /// What is wrong with its content.
        error: RecordError,
    },
    /// ZooKeeper refuses.
    #[error("refused by zookeeper: path={path} reason={reason:?}; check the ACL and the credentials in the address")]
    Refused {
        /// The znode.
        path: String,
        /// Why.
        reason: Reason,
    },
    /// ZooKeeper did not answer in time. The group may be there or not: call again.
    #[error("no answer from zookeeper: address={address} last={last}; check that it runs, then try again")]
    NoAnswer {
        /// Where it was looked for, without credentials.
        address: String,
        /// What was heard last.
        last: String,
    },
}

/// Creates the cluster at the address' path, if it is not there, and in it the group `name` with these voters.
///
/// Missing parents of the path are created too. Returns when the group is durable in ZooKeeper. Must be called within a
/// tokio runtime. If the future is dropped the group may be there or not; calling again is safe.
///
/// # Errors
/// See [`BootstrapError`]; it never leaves a part of a group.
pub async fn bootstrap(
    address: &str,
    name: &str,
    voters: &[u64],
    limits: Limits,
) -> Result<Bootstrapped, BootstrapError> {
    let address: Address = address.parse()?;
    if !valid_group_name(name) {
        return Err(BootstrapError::Name { name: name.to_owned() });
    }
    let voters = check_voters(voters)?;
    // The parents of the path are created too, so this session sees the whole tree.
    let whole = Address { chroot: "/".to_owned(), ..address.clone() };
    let waiting = Arc::<Waiting>::default();
    let sifting = waiting.clone();
    let config = zookeeper::Config::new(whole);
    let keeper = Arc::new(ZooKeeper::start(config, move |event| drop(sifting.sift(event)), &Handle::current()));
    let act = Act {
        requester: Requester::new(keeper, waiting),
        root: if address.chroot == "/" { String::new() } else { address.chroot.clone() },
        last: std::sync::Mutex::default(),
    };
    match tokio::time::timeout(BOOTSTRAP_LIMIT, act.run(name, &voters, limits)).await {
        Ok(result) => result,
        Err(_) => {
            let last = act.last.lock().map_or_else(|_| String::new(), |last| last.clone());
            Err(BootstrapError::NoAnswer { address: address.to_string(), last })
        }
    }
}

fn check_voters(voters: &[u64]) -> Result<Vec<u64>, BootstrapError> {
    let mut sorted = voters.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let valid = sorted.len() == voters.len()
        && (1..=VOTERS_MAX).contains(&sorted.len())
        && sorted.iter().all(|voter| valid_node_id(*voter));
    if valid {
        Ok(sorted)
    } else {
        Err(BootstrapError::Voters { voters: voters.to_vec() })
    }
}

struct Act {
    requester: Requester,
    // What all paths begin with.
    root: String,
    // What made the last request unknown, for the error.
    last: std::sync::Mutex<String>,
}

impl Act {
    async fn run(&self, name: &str, voters: &[u64], limits: Limits) -> Result<Bootstrapped, BootstrapError> {
        self.create_parents().await?;
        self.create_cluster().await?;
        self.create_group(name, voters, limits).await
    }

    async fn create_parents(&self) -> Result<(), BootstrapError> {
        for (end, _) in self.root.match_indices('/').skip(1) {
            let path = &self.root[..end];
            match self.multi(vec![create(path.to_owned(), Bytes::new())]).await {
                Ok(()) | Err(Refusal { reason: Reason::NodeExists, .. }) => {}
                // Who may not create here may still be allowed to use what is there.
                Err(_) if self.get(path).await?.is_some() => {}
                Err(refusal) => return Err(refused(path, refusal)),
            }
        }
        Ok(())
    }

    async fn create_cluster(&self) -> Result<(), BootstrapError> {
        let record = cluster_record(random_uuid());
        let path = if self.root.is_empty() { "/" } else { &self.root };
        loop {
            let found = self.get(path).await?;
            let first = match found {
                None => create(path.to_owned(), record.clone()),
                // Made by an operator, for instance to set its ACL.
                Some((data, version)) if data.is_empty() => {
                    Op::Set { path: path.to_owned(), data: record.clone(), version }
                }
                Some((data, _)) => return open_record::<Cluster>(path, &data, None).map(drop),
            };
            let ops = std::iter::once(first).chain(self.below_root(cluster_parents())).collect();
            match self.multi(ops).await {
                Ok(()) => return Ok(()),
                // Somebody else did it at the same time, or an attempt of this one whose answer was lost.
                Err(Refusal { reason: Reason::NodeExists | Reason::BadVersion | Reason::NoNode, .. }) => {
                    tokio::task::yield_now().await;
                }
                Err(refusal) => return Err(refused(path, refusal)),
            }
        }
    }

    async fn create_group(&self, name: &str, voters: &[u64], limits: Limits) -> Result<Bootstrapped, BootstrapError> {
        let uuid = random_uuid();
        let path = self.path(GroupPaths::new(name).genesis());
        loop {
            if let Some((data, _)) = self.get(&path).await? {
                let genesis: Genesis = open_record(&path, &data, None)?;
                // By this very act, if an attempt's answer was lost.
                let mine = Uuid::from_slice(&genesis.uuid) == Some(uuid);
                return check_genesis(name, genesis, voters, limits).map(|()| {
                    if mine {
                        Bootstrapped::Created
                    } else {
                        Bootstrapped::AlreadyThere
                    }
                });
            }
            let Request::Multi(ops) = found_group(name, uuid, voters, limits.clone()) else {
                unreachable!("a group is founded by one transaction");
            };
            match self.multi(self.below_root(ops)).await {
                Ok(()) => return Ok(Bootstrapped::Created),
                Err(Refusal { reason: Reason::NodeExists, .. }) => tokio::task::yield_now().await,
                Err(refusal) => return Err(refused(&path, refusal)),
            }
        }
    }

    fn path(&self, path: &str) -> String {
        format!("{}{path}", self.root)
    }

    /// The same operations, below the cluster's path.
    fn below_root(&self, ops: Vec<Op>) -> Vec<Op> {
        let moved = ops.into_iter().map(|op| match op {
            Op::Create { path, data, ephemeral } => Op::Create { path: self.path(&path), data, ephemeral },
            other => unreachable!("founding only creates: {other:?}"),
        });
        moved.collect()
    }

    /// A transaction, issued again until its outcome is definite.
    async fn multi(&self, ops: Vec<Op>) -> Result<(), Refusal> {
        loop {
            match self.requester.request(Request::Multi(ops.clone())).await {
                Outcome::Ok(_) => return Ok(()),
                Outcome::Refused(refusal) => return Err(refusal),
                Outcome::Unknown(cause) => self.wait(cause).await,
            }
        }
    }

    /// Content and version of a znode.
    async fn get(&self, path: &str) -> Result<Option<(Bytes, i32)>, BootstrapError> {
        loop {
            match self.requester.request(Request::Get { path: path.to_owned(), watch: false }).await {
                Outcome::Ok(Reply::Data(found)) => return Ok(found.map(|(data, stat)| (data, stat.version))),
                Outcome::Ok(other) => unreachable!("a get is answered with data: {other:?}"),
                Outcome::Refused(refusal) => return Err(refused(path, refusal)),
                Outcome::Unknown(cause) => self.wait(cause).await,
            }
        }
    }

    async fn wait(&self, cause: String) {
        const PAUSE: Duration = Duration::from_millis(100);
        tracing::debug!(cause, "zookeeper did not answer, trying again");
        if let Ok(mut last) = self.last.lock() {
            *last = cause;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn check_genesis(name: &str, genesis: Genesis, voters: &[u64], limits: Limits) -> Result<(), BootstrapError> {
    let name = name.to_owned();
    if genesis.voters != voters {
        return Err(BootstrapError::OtherVoters { name, given: voters.to_vec(), found: genesis.voters });
    }
    if genesis.limits.as_ref() != Some(&limits) {
        return Err(BootstrapError::OtherLimits { name, given: limits, found: genesis.limits });
    }
    Ok(())
}

fn open_record<R: Record>(path: &str, data: &Bytes, uuid: Option<Uuid>) -> Result<R, BootstrapError> {
    open(data, uuid).map_err(|error| BootstrapError::Foreign { path: path.to_owned(), error })
}

fn create(path: String, data: Bytes) -> Op {
    Op::Create { path, data, ephemeral: false }
}

fn refused(path: &str, refusal: Refusal) -> BootstrapError {
    BootstrapError::Refused { path: path.to_owned(), reason: refusal.reason }
}

fn random_uuid() -> Uuid {
    Uuid(rand::random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_are_one_to_seven_different_node_ids() {
        assert_eq!(check_voters(&[2, 1]), Ok(vec![1, 2]));
        for bad in [&[][..], &[1, 1], &[0], &[1 << 63], &[1, 2, 3, 4, 5, 6, 7, 8]] {
            assert_eq!(check_voters(bad), Err(BootstrapError::Voters { voters: bad.to_vec() }));
        }
    }
}
