//! The tree of znodes as one server holds it, and what one operation does to it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::SessionId;
use crate::keeper::{Op, Reason, Refusal, Stat};

/// One znode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Znode {
    /// Its content.
    pub data: Bytes,
    /// Data version.
    pub version: i32,
    /// Transaction that created it.
    pub czxid: i64,
    /// Transaction that changed its content last.
    pub mzxid: i64,
    /// Names of its children.
    pub children: BTreeSet<String>,
    /// The session it lives with, if it is ephemeral.
    pub owner: Option<SessionId>,
}

impl Znode {
    /// What ZooKeeper says about it beside its content.
    pub fn stat(&self) -> Stat {
        Stat {
            czxid: self.czxid,
            mzxid: self.mzxid,
            version: self.version,
            data_length: i32::try_from(self.data.len()).unwrap_or(i32::MAX),
            num_children: i32::try_from(self.children.len()).unwrap_or(i32::MAX),
        }
    }
}

/// What an applied operation did to a znode, for the watches on it and on its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Created,
    Changed,
    Deleted,
}

/// A change for the watches to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Touched {
    pub(super) path: String,
    pub(super) kind: Kind,
}

/// All znodes, by path. `/` is the chroot and exists only once somebody created it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<String, Znode>,
    denied: BTreeSet<String>,
    quota: Option<String>,
}

/// The znode above `path`; `None` for the chroot, whose parent is none of ours.
pub(super) fn parent(path: &str) -> Option<&str> {
    match path.rfind('/') {
        Some(0) if path.len() > 1 => Some("/"),
        Some(slash) if slash > 0 => Some(&path[..slash]),
        _ => None,
    }
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Whether ZooKeeper takes this for a path.
pub(super) fn valid(path: &str) -> bool {
    path == "/"
        || (path.starts_with('/')
            && path[1..].split('/').all(|part| !part.is_empty() && part != "." && part != "..")
            && !path.contains('\0'))
}

impl Tree {
    /// A znode.
    pub fn get(&self, path: &str) -> Option<&Znode> {
        self.nodes.get(path)
    }

    /// All znodes in the order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Znode)> {
        self.nodes.iter().map(|(path, znode)| (path.as_str(), znode))
    }

    /// All znodes whose path begins with `prefix`, in the order of their paths.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Znode)> {
        self.nodes
            .range(prefix.to_owned()..)
            .take_while(move |(path, _)| path.starts_with(prefix))
            .map(|(path, znode)| (path.as_str(), znode))
    }

    /// Whether an ACL denies everything at this znode.
    pub fn denied(&self, path: &str) -> bool {
        self.denied.contains(path)
    }

    pub(super) fn limit(&mut self, prefix: Option<&str>) {
        self.quota = prefix.map(str::to_owned);
    }

    fn exhausted(&self, path: &str) -> bool {
        self.quota.as_ref().is_some_and(|prefix| path.starts_with(prefix.as_str()))
    }

    pub(super) fn deny(&mut self, path: &str, denied: bool) {
        if denied {
            self.denied.insert(path.to_owned());
        } else {
            self.denied.remove(path);
        }
    }

    /// Overwrites or removes a znode behind everybody's back, children included: what an operator's hand does.
    pub(super) fn force(&mut self, path: &str, data: Option<Bytes>, zxid: i64) {
        match (self.nodes.get_mut(path), data) {
            (Some(znode), Some(data)) => {
                znode.data = data;
                znode.version += 1;
                znode.mzxid = zxid;
            }
            (None, Some(data)) => self.insert(path, data, None, zxid),
            (_, None) => {
                let below = format!("{}/", path.trim_end_matches('/'));
                self.nodes.retain(|other, _| other != path && !other.starts_with(&below));
                if let Some(parent) = parent(path).and_then(|parent| self.nodes.get_mut(parent)) {
                    parent.children.remove(name(path));
                }
            }
        }
    }

    /// Applies all operations, or none and says which one is refused.
    ///
    /// Operations are judged one after the other, each in the tree its predecessors made, in the order in which the
    /// server's request processor asks its questions: parent, ACL, existence, version, children.
    pub(super) fn apply(&mut self, session: SessionId, ops: &[Op], zxid: i64) -> Result<Vec<Touched>, Refusal> {
        let mut undo = Vec::new();
        let mut touched = Vec::new();
        for (index, op) in ops.iter().enumerate() {
            if let Err(reason) = self.judge(op) {
                for (path, before) in undo.into_iter().rev() {
                    self.put_back(path, before);
                }
                return Err(Refusal { op: index, reason });
            }
            undo.push((op.path(), self.nodes.get(op.path()).cloned()));
            touched.extend(self.carry_out(session, op, zxid));
        }
        Ok(touched)
    }

    /// Applies what was committed. It is not judged again: the ACLs may have changed since.
    pub(super) fn replay(&mut self, session: SessionId, ops: &[Op], zxid: i64) -> Vec<Touched> {
        ops.iter().filter_map(|op| self.carry_out(session, op, zxid)).collect()
    }

    /// Deletes everything that lived with a session.
    pub(super) fn close(&mut self, session: SessionId) -> Vec<Touched> {
        let paths: Vec<String> =
            self.nodes.iter().filter(|(_, znode)| znode.owner == Some(session)).map(|(path, _)| path.clone()).collect();
        paths.into_iter().map(|path| self.remove(&path)).collect()
    }

    fn judge(&self, op: &Op) -> Result<(), Reason> {
        let path = op.path();
        if !valid(path) {
            return Err(Reason::BadArguments);
        }
        match op {
            Op::Check { version, .. } => {
                let znode = self.nodes.get(path).ok_or(Reason::NoNode)?;
                self.allowed(path)?;
                same_version(znode, Some(*version))
            }
            Op::Create { .. } => {
                if let Some(parent) = parent(path) {
                    let znode = self.nodes.get(parent).ok_or(Reason::NoNode)?;
                    self.allowed(parent)?;
                    if self.nodes.contains_key(path) {
                        return Err(Reason::NodeExists);
                    }
                    if znode.owner.is_some() {
                        return Err(Reason::NoChildrenForEphemerals);
                    }
                }
                if self.nodes.contains_key(path) {
                    return Err(Reason::NodeExists);
                }
                if self.exhausted(path) {
                    return Err(Reason::QuotaExceeded);
                }
                Ok(())
            }
            Op::Set { version, .. } => {
                let znode = self.nodes.get(path).ok_or(Reason::NoNode)?;
                self.allowed(path)?;
                same_version(znode, Some(*version))
            }
            Op::Delete { version, .. } => {
                if let Some(parent) = parent(path) {
                    if !self.nodes.contains_key(parent) {
                        return Err(Reason::NoNode);
                    }
                    self.allowed(parent)?;
                }
                let znode = self.nodes.get(path).ok_or(Reason::NoNode)?;
                same_version(znode, *version)?;
                if znode.children.is_empty() {
                    Ok(())
                } else {
                    Err(Reason::NotEmpty)
                }
            }
        }
    }

    fn allowed(&self, path: &str) -> Result<(), Reason> {
        if self.denied(path) {
            Err(Reason::NoAuth)
        } else {
            Ok(())
        }
    }

    fn carry_out(&mut self, session: SessionId, op: &Op, zxid: i64) -> Option<Touched> {
        match op {
            Op::Check { .. } => None,
            Op::Create { path, data, ephemeral } => {
                self.insert(path, data.clone(), ephemeral.then_some(session), zxid);
                Some(Touched { path: path.clone(), kind: Kind::Created })
            }
            Op::Set { path, data, .. } => {
                let znode = self.nodes.get_mut(path)?;
                znode.data = data.clone();
                znode.version = znode.version.wrapping_add(1);
                znode.mzxid = zxid;
                Some(Touched { path: path.clone(), kind: Kind::Changed })
            }
            Op::Delete { path, .. } => Some(self.remove(path)),
        }
    }

    fn put_back(&mut self, path: &str, before: Option<Znode>) {
        let Some(znode) = before else {
            self.remove(path);
            return;
        };
        self.nodes.insert(path.to_owned(), znode);
        if let Some(parent) = parent(path).and_then(|parent| self.nodes.get_mut(parent)) {
            parent.children.insert(name(path).to_owned());
        }
    }

    fn insert(&mut self, path: &str, data: Bytes, owner: Option<SessionId>, zxid: i64) {
        let znode = Znode { data, version: 0, czxid: zxid, mzxid: zxid, children: BTreeSet::new(), owner };
        self.nodes.insert(path.to_owned(), znode);
        if let Some(parent) = parent(path).and_then(|parent| self.nodes.get_mut(parent)) {
            parent.children.insert(name(path).to_owned());
        }
    }

    fn remove(&mut self, path: &str) -> Touched {
        self.nodes.remove(path);
        if let Some(parent) = parent(path).and_then(|parent| self.nodes.get_mut(parent)) {
            parent.children.remove(name(path));
        }
        Touched { path: path.to_owned(), kind: Kind::Deleted }
    }
}

fn same_version(znode: &Znode, version: Option<i32>) -> Result<(), Reason> {
    match version {
        // The server takes -1 for "any version", in checks too.
        None | Some(-1) => Ok(()),
        Some(version) if version == znode.version => Ok(()),
        Some(_) => Err(Reason::BadVersion),
    }
}
