//! Reports whether the process is live and its services are ready, over HTTP: /livez,
//! /readyz, /metrics.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{StreamError, telemetry};

const UPKEEP: Duration = Duration::from_secs(5);

/// A condition that a service must meet to be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Its topics exist.
    Topics,
    /// Its stage is built, its models loaded.
    Stage,
    /// It is a member of its group and knows its partitions.
    Partitions,
}

/// The state of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    pub topics: bool,
    pub stage: bool,
    pub partitions: bool,
    /// Why it ended, if it ended by itself.
    pub failure: Option<String>,
}

impl ServiceState {
    /// Returns whether all conditions are met and the service still runs.
    pub fn is_ready(&self) -> bool {
        self.topics && self.stage && self.partitions && self.failure.is_none()
    }
}

type States = BTreeMap<String, ServiceState>;

/// The health of a process. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<States>>);

impl Health {
    /// Adds a service, which is not ready yet.
    pub fn service(&self, name: &str) -> ServiceHealth {
        self.states().entry(name.to_owned()).or_default();
        ServiceHealth { health: self.clone(), name: name.to_owned() }
    }

    /// Returns whether there is a service, and all are ready.
    pub fn is_ready(&self) -> bool {
        let states = self.states();
        !states.is_empty() && states.values().all(ServiceState::is_ready)
    }

    /// Returns whether no service ended by itself.
    pub fn is_live(&self) -> bool {
        self.states().values().all(|state| state.failure.is_none())
    }

    /// Returns every service's state, by name.
    pub fn report(&self) -> States {
        self.states().clone()
    }

    /// Locks the states. They are plain values, so a panic elsewhere does not spoil them.
    fn states(&self) -> MutexGuard<'_, States> {
        self.0.lock()
    }
}

/// One service's part of a process's health.
#[derive(Clone, Debug)]
pub struct ServiceHealth {
    health: Health,
    name: String,
}

impl ServiceHealth {
    /// Notes whether a condition holds.
    pub fn set(&self, condition: Condition, holds: bool) {
        let mut states = self.health.states();
        let state = states.entry(self.name.clone()).or_default();
        match condition {
            Condition::Topics => state.topics = holds,
            Condition::Stage => state.stage = holds,
            Condition::Partitions => state.partitions = holds,
        }
    }

    /// Notes that the service ended by itself.
    pub fn fail(&self, reason: &impl Display) {
        let mut states = self.health.states();
        states.entry(self.name.clone()).or_default().failure = Some(reason.to_string());
    }

    /// Returns whether the service is ready.
    pub fn is_ready(&self) -> bool {
        self.health.states().get(&self.name).is_some_and(ServiceState::is_ready)
    }
}

/// The HTTP listener.
#[derive(Debug)]
pub struct HealthServer {
    address: SocketAddr,
    ended: CancellationToken,
}

impl HealthServer {
    /// Returns the address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it no longer answers.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// Listens on `address` until `stop`; port 0 takes any free port. Installs the process's metrics.
///
/// # Errors
///
/// [`StreamError::Listen`], [`StreamError::Telemetry`].
pub async fn serve(
    address: SocketAddr,
    health: Health,
    stop: CancellationToken,
) -> Result<HealthServer, StreamError> {
    let metrics = telemetry::metrics()?;
    let failed = |source| StreamError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let ended = CancellationToken::new();
    let ends = ended.clone().drop_guard();
    tokio::spawn(async move {
        let _ends = ends;
        answer(listener, health, metrics, stop).await;
    });
    tracing::info!(%address, "health and metrics over http");
    Ok(HealthServer { address, ended })
}

async fn answer(listener: TcpListener, health: Health, metrics: PrometheusHandle, stop: CancellationToken) {
    let upkeep = tokio::spawn(upkeep(metrics.clone(), stop.clone()));
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(health)
        .route("/metrics", get(metrics_text).with_state(metrics));
    let served = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
    if let Err(error) = served.await {
        tracing::error!(%error, "the http listener ended");
    }
    upkeep.abort();
}

/// Drains the histograms regularly, because they gather samples until then.
async fn upkeep(metrics: PrometheusHandle, stop: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::time::sleep(UPKEEP).await;
        metrics.run_upkeep();
    }
}

async fn livez(State(health): State<Health>) -> Response {
    report(&health, health.is_live())
}

async fn readyz(State(health): State<Health>) -> Response {
    report(&health, health.is_ready())
}

async fn metrics_text(State(metrics): State<PrometheusHandle>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render()).into_response()
}

fn report(health: &Health, good: bool) -> Response {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_string(&health.report()).unwrap_or_else(|error| error.to_string());
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
