//! Renders a report as tables, for a terminal or a file.

use std::time::Duration;

use comfy_table::Table;
use unprompt_stream::health::ServiceState;

use super::report::{DeadLetters, Endpoint, ServiceReport, StatusReport};
use crate::output;

/// Shown for an unknown value.
const UNKNOWN: &str = "–";

/// Returns the report without a final line break. It is as wide as the terminal unless a width is
/// given.
pub fn rendered(report: &StatusReport, width: Option<u16>) -> String {
    let mut lines = vec![endpoint("Kafka", &report.kafka)];
    lines.extend(report.http.iter().map(|http| endpoint("health and metrics", http)));
    if !report.topics.is_empty() {
        lines.push(within(topics(report), width));
    }
    lines.push(within(services(report), width));
    lines.extend(report.services.iter().flat_map(failures));
    lines.push(dead_letters(&report.dead_letters));
    lines.join("\n")
}

/// Returns the time of the report, the interval, and how to end the watch.
pub fn footer(report: &StatusReport, interval: Duration) -> String {
    let seconds = report.at_ms / 1_000;
    let (hours, minutes, seconds) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02} UTC, every {} s; Ctrl-C ends it", interval.as_secs_f64())
}

fn endpoint(what: &str, endpoint: &Endpoint) -> String {
    match &endpoint.error {
        None => format!("{what}: {}", endpoint.address),
        Some(error) => format!("{what}: {} is unreachable ({error})", endpoint.address),
    }
}

fn within(mut table: Table, width: Option<u16>) -> String {
    if let Some(width) = width {
        table.set_width(width);
    }
    table.to_string()
}

fn topics(report: &StatusReport) -> Table {
    let mut table = output::table(["topic", "partitions", "offsets", "offsets/s"]);
    for topic in &report.topics {
        table.add_row([
            topic.topic.clone(),
            topic.partitions.to_string(),
            topic.offsets.to_string(),
            per_s(topic.offsets_per_s),
        ]);
    }
    table
}

fn services(report: &StatusReport) -> Table {
    let header = ["service", "ready", "members", "lag", "in/s", "out/s", "rejected", "in flight"];
    let mut table = output::table(header);
    for service in &report.services {
        table.add_row([
            service.service.clone(),
            ready(service),
            shown(service.members),
            lag(service),
            per_s(service.in_per_s),
            per_s(service.out_per_s),
            shown(service.dead_letters),
            in_flight(service),
        ]);
    }
    table
}

fn ready(service: &ServiceReport) -> String {
    match (service.ready, service.health.as_slice()) {
        (None, _) => UNKNOWN.to_owned(),
        (Some(true), [_]) => "yes".to_owned(),
        (_, [one]) => format!("no: {}", lacks(one)),
        (_, all) => format!("{} of {}", all.iter().filter(|one| one.is_ready()).count(), all.len()),
    }
}

/// Returns what the service waits for.
fn lacks(state: &ServiceState) -> &'static str {
    match state {
        ServiceState { failure: Some(_), .. } => "failed",
        ServiceState { topics: false, .. } => "its topics",
        ServiceState { stage: false, .. } => "its models",
        _ => "its partitions",
    }
}

fn failures(service: &ServiceReport) -> impl Iterator<Item = String> {
    let failed = service.health.iter().filter_map(|state| state.failure.as_deref());
    failed.map(|failure| format!("{} failed: {failure}", service.service))
}

fn lag(service: &ServiceReport) -> String {
    let by_topic: Vec<_> =
        service.lag_by_topic.iter().map(|(topic, lag)| format!("{lag} in {topic}")).collect();
    let expired = service.expired.filter(|expired| *expired > 0);
    let expired = expired.map(|expired| format!("{expired} deleted unread"));
    let all: Vec<_> = by_topic.into_iter().chain(expired).collect();
    if all.is_empty() { UNKNOWN.to_owned() } else { all.join(", ") }
}

/// Returns the number and the size of batches in flight.
fn in_flight(service: &ServiceReport) -> String {
    match (service.batches_in_flight, service.bytes_in_flight) {
        (Some(0), Some(0)) => "0".to_owned(),
        (Some(batches), Some(bytes)) => format!("{batches}, {:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        _ => UNKNOWN.to_owned(),
    }
}

fn dead_letters(dead: &DeadLetters) -> String {
    let codes: Vec<_> =
        dead.by_code.iter().map(|of| format!("{} {} by {}", of.count, of.code, of.service)).collect();
    let offsets = shown(dead.offsets);
    match codes.is_empty() {
        true => format!("offsets of dead letters: {offsets}"),
        false => format!("offsets of dead letters: {offsets} (since the start: {})", codes.join(", ")),
    }
}

fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| value.to_string())
}

fn per_s(rate: Option<f64>) -> String {
    shown(rate.map(|rate| format!("{rate:.1}")))
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{second_look, while_all_is_away};
    use super::*;

    const WIDE: Option<u16> = Some(200);

    #[test]
    fn a_second_report_shows_rates() {
        insta::assert_snapshot!(rendered(&second_look(), WIDE), @r"
        Kafka: a:9092
        health and metrics: http://a:1
        ┌─────────────────┬────────────┬─────────┬───────────┐
        │ topic           ┆ partitions ┆ offsets ┆ offsets/s │
        ╞═════════════════╪════════════╪═════════╪═══════════╡
        │ images.v1       ┆ 2          ┆ 50      ┆ 20.0      │
        │ dead-letters.v1 ┆ 2          ┆ 2       ┆ 0.0       │
        └─────────────────┴────────────┴─────────┴───────────┘
        ┌───────────────┬───────┬─────────┬────────────────┬──────┬───────┬──────────┬────────────┐
        │ service       ┆ ready ┆ members ┆ lag            ┆ in/s ┆ out/s ┆ rejected ┆ in flight  │
        ╞═══════════════╪═══════╪═════════╪════════════════╪══════╪═══════╪══════════╪════════════╡
        │ image-encoder ┆ yes   ┆ 1       ┆ 6 in images.v1 ┆ 22.0 ┆ 20.0  ┆ 2        ┆ 1, 3.0 MiB │
        └───────────────┴───────┴─────────┴────────────────┴──────┴───────┴──────────┴────────────┘
        offsets of dead letters: 2 (since the start: 2 truncated-image by image-encoder)
        ");
    }

    #[test]
    fn unreachable_endpoints_are_shown_with_their_errors() {
        insta::assert_snapshot!(rendered(&while_all_is_away(), WIDE), @r"
        Kafka: a:9092 is unreachable (stopped while asking Kafka for its topics)
        health and metrics: http://a:1 is unreachable (connection refused)
        ┌───────────────┬───────┬─────────┬─────┬──────┬───────┬──────────┬───────────┐
        │ service       ┆ ready ┆ members ┆ lag ┆ in/s ┆ out/s ┆ rejected ┆ in flight │
        ╞═══════════════╪═══════╪═════════╪═════╪══════╪═══════╪══════════╪═══════════╡
        │ image-encoder ┆ –     ┆ –       ┆ –   ┆ –    ┆ –     ┆ –        ┆ –         │
        └───────────────┴───────┴─────────┴─────┴──────┴───────┴──────────┴───────────┘
        offsets of dead letters: –
        ");
    }

    #[test]
    fn a_watch_shows_the_time_of_its_last_report() {
        let report = StatusReport { at_ms: 1_700_000_000_500, ..second_look() };
        assert_eq!(footer(&report, Duration::from_millis(500)), "22:13:20 UTC, every 0.5 s; Ctrl-C ends it");
    }

    #[test]
    fn a_service_that_is_not_ready_says_what_it_waits_for() {
        let mut report = second_look();
        report.services[0].ready = Some(false);
        report.services[0].health[0].stage = false;
        let shown = rendered(&report, WIDE);
        assert!(shown.contains("no: its models"), "{shown}");
        report.services[0].health[0].failure = Some("out of memory".into());
        let shown = rendered(&report, WIDE);
        assert!(shown.contains("image-encoder failed: out of memory"), "{shown}");
    }
}
