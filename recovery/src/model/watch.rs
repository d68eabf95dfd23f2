//! One-shot watches of one session, as its server keeps them.

use std::collections::BTreeSet;

use super::tree::{parent, Kind, Touched};

/// Paths watched, by what is watched about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Watches {
    // Left by a get, or by an exists, on a znode that is there or not: the server keeps one list for both.
    data: BTreeSet<String>,
    children: BTreeSet<String>,
}

impl Watches {
    pub(super) fn watch_data(&mut self, path: &str) {
        self.data.insert(path.to_owned());
    }

    pub(super) fn watch_children(&mut self, path: &str) {
        self.children.insert(path.to_owned());
    }

    /// Removes the watches a change fires; answers the paths to be reported, each at most once.
    pub(super) fn fire(&mut self, touched: &Touched) -> Vec<String> {
        let mut fired = Vec::new();
        let mut on_itself = self.data.remove(&touched.path);
        if touched.kind == Kind::Deleted {
            on_itself |= self.children.remove(&touched.path);
        }
        if on_itself {
            fired.push(touched.path.clone());
        }
        if touched.kind != Kind::Changed {
            if let Some(parent) = parent(&touched.path).filter(|parent| self.children.remove(*parent)) {
                fired.push(parent.to_owned());
            }
        }
        fired
    }

    /// Removes all of them; answers the paths they were left on.
    pub(super) fn drain(&mut self) -> BTreeSet<String> {
        let mut paths = std::mem::take(&mut self.data);
        paths.append(&mut self.children);
        paths
    }
}
