//! The health and metrics of one process, over HTTP.

use std::collections::BTreeMap;

use anyhow::Context as _;
use unprompt_schemas::topics::Prefix;
use unprompt_stream::health::ServiceState;

use super::prometheus::{self, Sample};

/// The response of a process over HTTP.
#[derive(Debug)]
pub struct Scrape {
    pub url: String,
    pub answer: Result<ProcessStatus, String>,
}

/// The health of the services in a process, by name, and its metrics.
#[derive(Debug, Default)]
pub struct ProcessStatus {
    pub health: BTreeMap<String, ServiceState>,
    pub metrics: Vec<Sample>,
}

/// Asks the process at `url` for its health and metrics.
pub async fn scrape(http: &reqwest::Client, url: &str, prefix: &Prefix) -> Scrape {
    let answer = answer(http, url, prefix).await.map_err(|error| format!("{error:#}"));
    Scrape { url: url.to_owned(), answer }
}

async fn answer(http: &reqwest::Client, url: &str, prefix: &Prefix) -> anyhow::Result<ProcessStatus> {
    // A service that is not ready answers with another status.
    let ready = http.get(format!("{url}/readyz")).send().await?.text().await?;
    let health: BTreeMap<String, ServiceState> =
        serde_json::from_str(&ready).context("/readyz is not that of a service")?;
    let metrics = http.get(format!("{url}/metrics")).send().await?.error_for_status()?.text().await?;
    // Services under another prefix belong to another installation.
    let ours = health.into_iter().filter_map(|(name, state)| {
        let name = name.strip_prefix(prefix.as_str())?.to_owned();
        Some((name, state))
    });
    Ok(ProcessStatus { health: ours.collect(), metrics: prometheus::samples(&metrics) })
}
