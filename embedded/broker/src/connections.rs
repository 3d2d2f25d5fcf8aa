//! The accept loop. Each connection is a task; all tasks end when the broker stops.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use nisshi_broker::Error;
use nisshi_broker::coordinator::group::administrator::{Controller, GroupCoordinatorConfig};
use rama::Service;
use rama::extensions::Extensions;
use rama::tcp::TcpStream;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::quick_storage::QuickStorage;
use crate::routes::{Groups, services};

/// Pause after an accept that failed for lack of resources.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves connections until `stop`, then aborts those that are left. A request in progress is
/// rolled back completely and not acknowledged, so its client sends it again.
pub(crate) async fn accept(listener: TcpListener, storage: QuickStorage, stop: &CancellationToken) {
    let groups = Controller::new(storage.clone(), group_coordinator());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection(stream, peer, groups.clone(), storage.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    connections.shutdown().await;
}

/// Coordinator timings for members that are all on this machine: a group forms without a long wait
/// for further members.
fn group_coordinator() -> GroupCoordinatorConfig {
    GroupCoordinatorConfig {
        initial_rebalance_delay: Duration::from_millis(100),
        poll_interval: Duration::from_millis(500),
    }
}

async fn connection(stream: tokio::net::TcpStream, peer: SocketAddr, groups: Groups, storage: QuickStorage) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "no TCP_NODELAY");
    }
    let served = match services(groups, storage) {
        Ok(service) => service.serve(TcpStream::from_tokio_tcp_stream(stream, Extensions::default())).await,
        Err(error) => Err(error),
    };
    match served {
        Ok(()) => {}
        Err(Error::Io(error)) if is_hang_up(error.kind()) => {}
        Err(error) => tracing::warn!(%peer, %error, "connection ended with an error"),
    }
}

fn is_hang_up(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::TimedOut
    )
}
