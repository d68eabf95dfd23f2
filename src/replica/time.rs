//! What time brings: ticks, beats, and when to be woken for them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::context::context;
use super::event::{Effect, GroupNumber, Now};
use super::message::{Beat, Body};
use super::{peers, Core};

/// How long a node that goes away waits for its heirs to serve.
const FAREWELL: Duration = Duration::from_millis(300);

impl Core {
    pub(super) fn time(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.registry.tick(context!(self, now, out));
        for group in self.agenda.due(now, &self.touched) {
            self.with(now, group, out, |r, cx| r.tick(cx));
        }
        for peer in self.roster.take_voters() {
            if peer != self.config.node {
                self.registry.watch_peer(context!(self, now, out), peer);
            }
        }
        self.doubts(now, out);
        self.challenges.tick(context!(self, now, out));
        if now.since(self.beaten) >= self.config.beat {
            self.beaten = now;
            self.beat(now, out);
        }
    }

    fn beat(&mut self, now: Now, out: &mut Vec<Effect>) {
        let cx = context!(self, now, out);
        let mut ballots = Vec::new();
        for group in self.roster.restless() {
            ballots.extend(self.replicas.get_mut(group).and_then(|replica| replica.standing(cx)));
        }
        let linked: Vec<_> =
            self.facts.peers.iter().filter(|(_, peer)| peer.link.is_some()).map(|(peer, _)| *peer).collect();
        for peer in linked {
            let body = Body::Beat(Beat { ballots: ballots.clone() });
            peers::send(context!(self, now, out), peer, body);
        }
    }

    /// Plans when to tick those that this step concerned; the others' plans stand.
    pub(super) fn plan(&mut self, now: Now, mut touched: BTreeSet<GroupNumber>) {
        let patience = self.facts.patience(&self.config);
        if patience != std::mem::replace(&mut self.patience, patience) {
            touched.extend(self.replicas.keys());
        }
        let mut nothing = Vec::new();
        let cx = context!(self, now, &mut nothing);
        for group in touched {
            if let Some(replica) = self.replicas.get(&group) {
                self.agenda.set(group, replica.plan(cx, self.agenda.from(group)));
            }
        }
        self.agenda.set_stepped(now);
    }

    pub(super) fn wake_at(&self) -> Option<Now> {
        let (registry, challenges) =
            (self.registry.wake_at(self.config.poll), self.challenges.wake_at(self.config.poll));
        let beat = Some(self.beaten + self.config.beat);
        let farewell = self.left.filter(|_| !self.told_shut_down).map(|left| left + FAREWELL);
        [registry, challenges, beat, farewell, self.agenda.wake_at()].into_iter().flatten().min()
    }

    /// Once everything is handed over or given up, the process may end.
    ///
    /// To end takes disk and processor, which its heirs may share and need more: it waits a moment until they serve.
    pub(super) fn shut_down(&mut self, now: Now, out: &mut Vec<Effect>) {
        if !self.facts.shutting_down || self.told_shut_down || !self.roster.restless().is_empty() {
            return;
        }
        let left = *self.left.get_or_insert(now);
        let node = self.config.node;
        if now.since(left) >= FAREWELL || !self.replicas.values().any(|replica| replica.awaits_leader(node)) {
            self.told_shut_down = true;
            out.push(Effect::ShutDown);
        }
    }
}
