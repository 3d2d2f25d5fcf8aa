//! Collects one report: Kafka's topics and groups, and the services' health and metrics over HTTP.

use std::time::Duration;

use anyhow::Context as _;
use futures::future::join_all;
use unprompt_stream::{Observer, Reads};

use super::report::StatusReport;
use super::scrape::scrape;
use crate::context::Context;
use crate::service_table::ALL;

/// A process that does not answer within this time counts as away.
const PATIENCE: Duration = Duration::from_secs(3);

/// Collects reports repeatedly with the same clients.
#[derive(Debug)]
pub struct Probe<'a> {
    context: &'a Context,
    urls: Vec<String>,
    http: reqwest::Client,
    observer: Observer,
}

impl<'a> Probe<'a> {
    pub fn new(context: &'a Context, urls: &[String]) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(PATIENCE).build().context("no HTTP client")?;
        let urls = urls.iter().map(|url| base_of(url)).collect::<Result<_, _>>()?;
        Ok(Self { context, urls, http, observer: Observer::new(&context.kafka()) })
    }

    /// Returns the current report. An unreachable endpoint is part of it and not an error.
    pub async fn report(&mut self) -> StatusReport {
        let kafka = self.context.kafka();
        // A restarted embedded broker may listen on another port.
        if kafka.brokers != self.observer.brokers() {
            self.observer = Observer::new(&kafka);
        }
        let urls = if self.urls.is_empty() {
            self.context.http_url().into_iter().collect()
        } else {
            self.urls.clone()
        };
        let services: Vec<Reads> =
            ALL.map(|service| service.describe()).map(|service| (service.name, service.inputs)).to_vec();
        // Asks Kafka first, so that the counters of the services include everything that is
        // committed.
        let observed = self.observer.look(&services).await;
        let scrapes = join_all(urls.iter().map(|url| scrape(&self.http, url, &kafka.prefix))).await;
        StatusReport::new(&kafka, &services, observed, &scrapes)
    }
}

/// Returns the address without the path of the metrics.
fn base_of(url: &str) -> anyhow::Result<String> {
    anyhow::ensure!(
        url.starts_with("http://") || url.starts_with("https://"),
        "--metrics-url {url} is not a URL; write http://{url}"
    );
    let base = url.trim_end_matches('/');
    Ok(base.strip_suffix("/metrics").unwrap_or(base).to_owned())
}
