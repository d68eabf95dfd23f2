//! A node's life: open, join, serve, hand over, end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bequest::{DiskSync, Node};
use bequest_recovery::address::Address;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::http::{self, Service};
use super::listener::Bounded;
use super::options::Serve;

/// How long a clean end may take in sum; what is not done then ends as by a crash, which loses nothing.
const END_LIMIT: Duration = Duration::from_secs(6);
/// How long answers that are under way may take to leave when the node has ended.
const ANSWERS_LIMIT: Duration = Duration::from_millis(500);

/// Runs a node until it is told to end, or cannot go on. Clients may hold so many connections open.
///
/// # Errors
/// If it cannot start, or ended for another reason than being told to.
pub(crate) async fn serve(options: Serve, connections: usize) -> Result<()> {
    let mut told = Box::pin(told_to_end()?);
    let listener = TcpListener::bind(options.http).await.with_context(|| {
        format!("cannot listen for HTTP: address={}; stop what uses it, or choose another by --http", options.http)
    })?;
    let listener = Bounded::new(listener, connections);
    let http = options.http_advertise.clone().unwrap_or_else(|| options.http.to_string());
    let keeper = without_credentials(&options.place.zk);
    let service = Arc::new(Service::new(options.node, options.place.group.clone(), keeper));
    let (end, mut ended) = watch::channel(false);
    let router = http::router(Arc::clone(&service));
    // Listens before the node is ready, and says so: a supervisor sees a node that waits for ZooKeeper as alive.
    let server = tokio::spawn(async move {
        let over = async move { drop(ended.wait_for(|ended| *ended).await) };
        axum::serve(listener, router).with_graceful_shutdown(over).await
    });

    let node = tokio::select! {
        started = start(&options, &http, &service) => started?,
        // Whatever was begun ends with the future.
        () = &mut told => {
            tracing::info!("told to end before it served");
            return Ok(());
        }
    };
    tracing::info!(node = options.node, group = options.place.group, %http, "serving");
    let outcome = tokio::select! {
        () = &mut told => {
            tracing::info!("told to end, handing over");
            tokio::time::timeout(END_LIMIT, node.shutdown()).await.unwrap_or_else(|_| {
                tracing::warn!(limit = ?END_LIMIT, "a clean end is taking too long, ending at once");
                Ok(())
            })
        }
        ended = node.ended() => ended,
    };
    end.send_replace(true);
    if tokio::time::timeout(ANSWERS_LIMIT, server).await.is_err() {
        tracing::debug!("connections are still open, closing them");
    }
    outcome.context("the node has ended")?;
    tracing::info!("ended");
    Ok(())
}

async fn start(options: &Serve, http: &str, service: &Service) -> Result<Node> {
    let Serve { place, node, listen, advertise, data_dir, election_timeout, beat, session_timeout, sync_disk, .. } =
        options;
    let mut builder = Node::builder(*node).keeper(&place.zk).listen(listen).client_address(http).data_dir(data_dir);
    if let Some(advertise) = advertise {
        builder = builder.advertise(advertise);
    }
    let node = builder
        .configure(|config| {
            config.election_timeout = *election_timeout;
            config.beat = *beat;
            config.session_timeout = *session_timeout;
            if *sync_disk {
                config.disk_sync = DiskSync::BeforeAcknowledging;
            }
        })
        .open()
        .await?;
    service.connected();
    let joined = node.join_key_value(&place.group).await;
    let refused = || format!("cannot join group={} at {}", place.group, without_credentials(&place.zk));
    service.joined(joined.with_context(refused)?);
    Ok(node)
}

fn without_credentials(zk: &str) -> String {
    zk.parse::<Address>().map_or_else(|_| String::new(), |address| address.to_string())
}

/// Ends when the process is told to, by SIGTERM or SIGINT.
fn told_to_end() -> Result<impl std::future::Future<Output = ()>> {
    use tokio::signal::unix::{signal, SignalKind};
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
