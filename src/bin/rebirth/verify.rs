//! Compares what the nodes hold with what clients were told.

use std::time::{Duration, Instant};

use anyhow::{bail, Result};

use bequest_harness::kv::{Failure, Kv, Listing};

use super::ledger::{Ledger, Page, Source, PREFIXES};
use super::value::FILLERS;
use super::world::Address;

/// Keys asked for at once. Fillers are large.
const PAGE_KEYS: usize = 1000;
const PAGE_FILLERS: usize = 64;
const POLL: Duration = Duration::from_millis(10);

/// Asks nodes for everything they hold.
#[derive(Debug)]
pub(crate) struct Verifier {
    kv: Kv,
    patience: Duration,
}

impl Verifier {
    /// A verifier that gives up when something is refused for longer than `patience`.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { kv: Kv::new(Duration::from_secs(10)), patience }
    }

    /// Checks every acknowledged write by linearizable listings, asked of `node` first and then of whoever leads;
    /// returns how many keys were found as they must be.
    pub(crate) async fn leader(&self, ledger: &Ledger, node: Address) -> Result<u64> {
        self.all(ledger, node, Source::Leader).await
    }

    /// Waits until `node` has applied everything that was acknowledged so far, then checks its own state.
    pub(crate) async fn own_state(&self, ledger: &Ledger, node: Address) -> Result<u64> {
        let as_of = ledger.clock().now();
        let index = ledger.index_max();
        let started = Instant::now();
        loop {
            let status = self.kv.status(node.http).await;
            match status {
                Ok(status) if status.applied >= index => break,
                _ if started.elapsed() < self.patience => tokio::time::sleep(POLL).await,
                Ok(status) => bail!(
                    "node {} did not catch up within {:?}: applied={} wanted={index} mode={} reason={}",
                    node.id,
                    self.patience,
                    status.applied,
                    status.mode,
                    status.reason
                ),
                Err(failure) => bail!("node {} did not catch up within {:?}: {failure:?}", node.id, self.patience),
            }
        }
        self.all(ledger, node, Source::Own { node: node.id, as_of }).await
    }

    async fn all(&self, ledger: &Ledger, node: Address, source: Source) -> Result<u64> {
        let mut present = 0;
        for prefix in PREFIXES {
            let limit = if prefix == FILLERS { PAGE_FILLERS } else { PAGE_KEYS };
            let mut after = String::new();
            loop {
                let (page, more) = self.page(ledger, node, prefix, &after, limit, source).await?;
                present += ledger.page_read(prefix, &page, source);
                match page.to {
                    Some(to) if more => after = to,
                    _ => break,
                }
            }
        }
        Ok(present)
    }

    async fn page(
        &self,
        ledger: &Ledger,
        node: Address,
        prefix: &str,
        after: &str,
        limit: usize,
        source: Source,
    ) -> Result<(Page, bool)> {
        let started = Instant::now();
        let mut http = node.http;
        loop {
            let start = ledger.clock().now();
            match self.kv.list(http, prefix, after, limit, source != Source::Leader).await {
                Ok(listing) => return page(after, listing, start),
                Err(failure) if started.elapsed() > self.patience => {
                    bail!("node {} did not list its keys within {:?}: {failure:?}", node.id, self.patience)
                }
                Err(Failure::Elsewhere(leader)) if source == Source::Leader => http = leader,
                Err(_) => {
                    http = node.http;
                    tokio::time::sleep(POLL).await;
                }
            }
        }
    }
}

fn page(after: &str, listing: Listing, start: super::clock::Moment) -> Result<(Page, bool)> {
    let last = listing.entries.last().map(|item| item.key.clone());
    if listing.more && last.as_deref().is_none_or(|last| last <= after) {
        bail!("a listing after {after:?} says there is more, and does not get on");
    }
    let to = if listing.more { last } else { None };
    let entries = listing.entries.into_iter().map(|item| (item.key, item.value.unwrap_or_default())).collect();
    Ok((Page { after: after.to_owned(), to, entries, start }, listing.more))
}
