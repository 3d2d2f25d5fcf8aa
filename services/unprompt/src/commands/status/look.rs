//! One look: Kafka's topics and groups, and what the services tell of themselves over HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::join_all;
use unprompt_schemas::topics::Prefix;
use unprompt_stream::health::ServiceState;
use unprompt_stream::{Observer, Reads};

use super::prometheus::{self, Sample};
use super::report::Report;
use crate::context::Context;
use crate::services;

/// A process that does not answer for so long is away.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a process tells over HTTP.
#[derive(Debug)]
pub struct Told {
    pub url: String,
    pub answer: Result<Answer, String>,
}

/// The health of the services of a process, by name, and its metrics.
#[derive(Debug, Default)]
pub struct Answer {
    pub health: BTreeMap<String, ServiceState>,
    pub metrics: Vec<Sample>,
}

/// Looks again and again, with the same clients.
#[derive(Debug)]
pub struct Look<'a> {
    context: &'a Context,
    urls: Vec<String>,
    http: reqwest::Client,
    observer: Observer,
}

impl<'a> Look<'a> {
    pub fn new(context: &'a Context, urls: &[String]) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(PATIENCE).build().context("no HTTP client")?;
        let urls = urls.iter().map(|url| base_of(url)).collect::<Result<_, _>>()?;
        Ok(Self { context, urls, http, observer: Observer::new(&context.kafka()) })
    }

    /// What there is to see now; nothing that is away is an error.
    pub async fn report(&mut self) -> Report {
        let kafka = self.context.kafka();
        // The embedded broker comes back on another port.
        if kafka.brokers != self.observer.brokers() {
            self.observer = Observer::new(&kafka);
        }
        let urls = if self.urls.is_empty() {
            self.context.http_url().into_iter().collect()
        } else {
            self.urls.clone()
        };
        let services: Vec<Reads> = services::ALL
            .map(|service| service.describe())
            .map(|service| (service.name, service.inputs))
            .to_vec();
        // Kafka first: what is committed by then is counted when the services are asked.
        let observed = self.observer.look(&services).await;
        let told = join_all(urls.iter().map(|url| ask(&self.http, url, &kafka.prefix))).await;
        Report::new(&kafka, &services, observed, &told)
    }
}

/// The address without the path of what is asked there.
fn base_of(url: &str) -> anyhow::Result<String> {
    anyhow::ensure!(
        url.starts_with("http://") || url.starts_with("https://"),
        "--metrics-url {url} is no URL; write http://{url}"
    );
    let base = url.trim_end_matches('/');
    Ok(base.strip_suffix("/metrics").unwrap_or(base).to_owned())
}

async fn ask(http: &reqwest::Client, url: &str, prefix: &Prefix) -> Told {
    let answer = answer(http, url, prefix).await.map_err(|error| format!("{error:#}"));
    Told { url: url.to_owned(), answer }
}

async fn answer(http: &reqwest::Client, url: &str, prefix: &Prefix) -> anyhow::Result<Answer> {
    // Not ready is an answer too, with another status.
    let ready = http.get(format!("{url}/readyz")).send().await?.text().await?;
    let health: BTreeMap<String, ServiceState> =
        serde_json::from_str(&ready).context("/readyz is not that of a service")?;
    let metrics = http.get(format!("{url}/metrics")).send().await?.error_for_status()?.text().await?;
    // Runs under another prefix are somebody else's.
    let ours = health.into_iter().filter_map(|(name, state)| {
        let name = name.strip_prefix(prefix.as_str())?.to_owned();
        Some((name, state))
    });
    Ok(Answer { health: ours.collect(), metrics: prometheus::samples(&metrics) })
}
