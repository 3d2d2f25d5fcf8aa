//! `unprompt status`: shows the state of topics and services, once or refreshed in place.

mod probe;
mod prometheus;
mod report;
mod scrape;
mod screen;
mod view;

use std::io::IsTerminal as _;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cli::Status;
use crate::context::Context;
use crate::output;

use probe::Probe;
use report::StatusReport;
use screen::Screen;

pub async fn run(context: &Context, args: Status, stop: CancellationToken) -> anyhow::Result<()> {
    let mut look = Probe::new(context, &args.metrics_url)?;
    if args.watch && std::io::stdout().is_terminal() {
        return watch(context.json, &mut look, Duration::from_secs_f64(args.interval_s), stop).await;
    }
    let report = look.report().await;
    match context.json {
        true => output::json(&report)?,
        false => output::line(view::rendered(&report, None))?,
    }
    let error = report.kafka.error.as_deref();
    error.map_or(Ok(()), |error| anyhow::bail!("{error}"))
}

/// Reports at intervals. An unreachable endpoint is shown as such and may return.
async fn watch(
    json: bool,
    look: &mut Probe<'_>,
    interval: Duration,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut screen = if json { None } else { Some(Screen::open()?) };
    let mut last: Option<StatusReport> = None;
    while !stop.is_cancelled() {
        let next = Instant::now() + interval;
        let report = tokio::select! {
            report = look.report() => report,
            () = stop.cancelled() => break,
        };
        let report = match &last {
            Some(before) => report.with_rates_since(before),
            None => report,
        };
        match &mut screen {
            Some(screen) => screen.draw(&drawn(&report, interval))?,
            None => output::json(&report)?,
        }
        last = Some(report);
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = stop.cancelled() => {}
        }
    }
    // Restores the terminal and prints the last report on it.
    if let (Some(screen), Some(last)) = (screen.take(), last) {
        drop(screen);
        output::line(view::rendered(&last, None))?;
    }
    Ok(())
}

/// Renders the report at its full width. The screen cuts lines off, which is easier to read than
/// wrapped words.
fn drawn(report: &StatusReport, interval: Duration) -> String {
    format!("{}\n{}", view::rendered(report, Some(u16::MAX)), view::footer(report, interval))
}
