//! `make soak`: an hour of steady load on both brokers, at the same time, and the report.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use unprompt_chaos::Broker;
use unprompt_chaos::soak::{SoakOptions, SoakReport, run};

/// Publishes at a steady rate on the embedded broker and on Apache Kafka, and measures the memory
/// of each process and the bytes on disk.
#[derive(Debug, Parser)]
struct Cli {
    /// The binary under test; by default the one beside this one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// The first minutes, which the trends leave out
    #[arg(long, default_value_t = 10.0)]
    warm_up_minutes: f64,
    /// Records per second on each broker
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The growth of a process or folder that is tolerated, in MiB an hour
    #[arg(long, default_value_t = 64.0)]
    most_mib: f64,
    /// The folder of the logs
    #[arg(long, value_name = "DIR")]
    logs: PathBuf,
    /// The file to write the report to (JSON)
    #[arg(long, value_name = "FILE")]
    report: PathBuf,
}

impl Cli {
    fn options(&self, broker: Broker) -> anyhow::Result<SoakOptions> {
        let beside = std::env::current_exe()?.with_file_name("unprompt");
        let binary = self.binary.clone().unwrap_or(beside);
        ensure!(binary.is_file(), "{} is not there; build it, or name one with --binary", binary.display());
        ensure!(self.warm_up_minutes < self.minutes, "the warm-up is longer than the run");
        Ok(SoakOptions {
            binary,
            broker,
            duration: Duration::from_secs_f64(self.minutes * 60.0),
            warm_up: Duration::from_secs_f64(self.warm_up_minutes * 60.0),
            rate: self.rate,
            seed: self.seed,
            logs: self.logs.join(format!("{broker:?}").to_lowercase()),
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::ERROR).init();
    let cli = Cli::parse();
    let (embedded, apache) = (cli.options(Broker::Embedded)?, cli.options(Broker::Apache)?);
    let both = async { tokio::join!(run(embedded), run(apache)) };
    let (embedded, apache) = tokio::select! {
        both = both => both,
        _ = tokio::signal::ctrl_c() => bail!("stopped; no report was written"),
    };
    // A run that failed does not take the other one's report with it.
    let (mut reports, mut failures) = (Vec::new(), Vec::new());
    for ran in [embedded, apache] {
        match ran {
            Ok(report) => reports.push(report),
            Err(error) => failures.push(error),
        }
    }
    let text = serde_json::to_string_pretty(&reports)? + "\n";
    std::fs::write(&cli.report, text).with_context(|| format!("{} can be written", cli.report.display()))?;
    reports.iter().for_each(tell);
    if let Some(error) = failures.into_iter().next() {
        return Err(error.context("a run could not be carried out"));
    }
    reports.iter().try_for_each(|report| report.verdict(cli.most_mib))
}

fn tell(report: &SoakReport) {
    eprintln!(
        "{:?}: {} published, {} predicted, {} lost, {} dead letters of {} poison",
        report.broker, report.published, report.predicted, report.lost, report.dead_letters, report.poison
    );
    for usage in report.memory.iter().chain(&report.disk) {
        let trend = usage.trend_mib.map_or_else(String::new, |trend| {
            let [low, high] = trend.interval;
            format!(", {:+.1} MiB an hour ({low:+.1} to {high:+.1})", trend.per_hour)
        });
        eprintln!("  {}: {:.0} MiB, at most {:.0}{trend}", usage.name, usage.last_mib, usage.max_mib);
    }
}
