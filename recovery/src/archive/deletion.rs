//! A sweep: what no snapshot and no reader needs is deleted, batch by batch, and the names that may come back are closed.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Archive, Kind};
use crate::keeper::Op;
use crate::sweep;

impl Archive {
    pub(super) fn begin_sweep(&mut self) {
        self.sweep_due = false;
        let mut batches = match self.pointer.0.previous {
            _ if self.swept_out => Vec::new(),
            Some(previous) => self.inventory.trim(&self.paths, previous),
            None => Vec::new(),
        };
        let kept = self.kept();
        self.contents.retain(|name, _| kept.contains(name));
        if let (Some(manifests), Some(chunks), false) = (&mut self.manifests, &mut self.chunks, self.swept_out) {
            let superfluous = sweep::collect(&self.paths, manifests, chunks, &self.contents);
            self.collected = !superfluous.is_empty();
            batches.extend(superfluous);
            self.sound.retain(|hash| chunks.contains(hash));
        }
        self.sweep = Some(batches.into());
        self.delete_next();
    }

    pub(super) fn delete_next(&mut self) {
        match self.sweep.as_mut().and_then(VecDeque::pop_front) {
            Some(ops) => {
                let mut all = vec![Op::Check { path: self.paths.chunks(), version: self.epoch }];
                all.extend(ops);
                self.fenced(Kind::Delete, all);
            }
            // Nothing was collected that could come back.
            None if !self.collected => self.sweep = None,
            None => {
                self.collected = false;
                let close = Op::Set { path: self.paths.chunks(), data: Bytes::new(), version: self.epoch };
                self.fenced(Kind::Close, vec![close]);
            }
        }
    }
}
