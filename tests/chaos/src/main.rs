//! `make chaos`: the whole run and its report.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Parser, ValueEnum};
use unprompt_chaos::{Broker, Counts, Durations, Options, run, write};

/// Kills, stops and freezes services, broker and index under load, and counts the results.
#[derive(Debug, Parser)]
struct Cli {
    /// The binary under test; by default the one beside this one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// A Python with kafka-python
    #[arg(long, value_name = "FILE", env = "UNPROMPT_TEST_PYTHON")]
    python: PathBuf,
    #[arg(long, value_enum, default_value_t = On::Apache)]
    broker: On,
    /// Determines the schedule, the pictures and the poison
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Records published before the first instance starts; more follow during the chaos
    #[arg(long, default_value_t = 20_000)]
    pictures: usize,
    /// Instances of each service
    #[arg(long, default_value_t = 3)]
    instances: usize,
    #[arg(long, default_value_t = 15)]
    kills: usize,
    #[arg(long, default_value_t = 5)]
    terms: usize,
    #[arg(long, default_value_t = 3)]
    freezes: usize,
    #[arg(long, default_value_t = 2)]
    broker_restarts: usize,
    #[arg(long, default_value_t = 2)]
    index_outages: usize,
    /// Jumps of one instance's clock by a day and back (needs libfaketime)
    #[arg(long, default_value_t = 2)]
    clock_jumps: usize,
    /// Times that the disk of broker and index is full (needs the right to mount a tmpfs)
    #[arg(long, default_value_t = 1)]
    full_disks: usize,
    /// Times that the broker limits the services to 500 kB/s; by default once on Apache Kafka
    #[arg(long)]
    quotas: Option<usize>,
    /// The time that the index stays unavailable, in seconds
    #[arg(long, default_value_t = 20)]
    index_away_s: u64,
    /// The time that a clock is a day ahead, and then a day behind, in seconds
    #[arg(long, default_value_t = 10)]
    clock_wrong_s: u64,
    /// The time that the disk is full, in seconds
    #[arg(long, default_value_t = 20)]
    disk_full_s: u64,
    /// The time that a quota lasts, in seconds
    #[arg(long, default_value_t = 60)]
    quota_s: u64,
    /// The folder to keep the instances' logs in
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// The file to write the report to (JSON)
    #[arg(long, value_name = "FILE")]
    report: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum On {
    Apache,
    Embedded,
}

fn options(cli: &Cli) -> anyhow::Result<Options> {
    let beside = std::env::current_exe()?.with_file_name("unprompt");
    let binary = cli.binary.clone().unwrap_or(beside);
    anyhow::ensure!(
        binary.is_file(),
        "{} is not there; build it, or name one with --binary",
        binary.display()
    );
    let broker = match cli.broker {
        On::Apache => Broker::Apache,
        On::Embedded => Broker::Embedded,
    };
    let counts = Counts {
        kills: cli.kills,
        terms: cli.terms,
        freezes: cli.freezes,
        broker_restarts: cli.broker_restarts,
        index_outages: cli.index_outages,
        clock_jumps: cli.clock_jumps,
        full_disks: cli.full_disks,
        quotas: cli.quotas.unwrap_or((broker == Broker::Apache).into()),
    };
    let durations = Durations {
        index_away: Duration::from_secs(cli.index_away_s),
        clock_wrong: Duration::from_secs(cli.clock_wrong_s),
        disk_full: Duration::from_secs(cli.disk_full_s),
        quota: Duration::from_secs(cli.quota_s),
    };
    Ok(Options {
        binary,
        python: cli.python.clone(),
        broker,
        seed: cli.seed,
        pictures: cli.pictures,
        instances: cli.instances,
        counts,
        durations,
        logs: cli.logs.clone(),
    })
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::ERROR).init();
    let cli = Cli::parse();
    let ran = tokio::select! {
        ran = run(options(&cli)?) => ran,
        _ = tokio::signal::ctrl_c() => bail!("stopped; nothing was counted"),
    };
    let report = ran.context("the run could not be carried out")?;
    write(&report, &cli.report)?;
    eprintln!(
        "{} published, {} predicted, {} lost, {} duplicated, {} dead letters of {} poison, in {:.0} s; {}",
        report.published,
        report.predicted_distinct,
        report.lost,
        report.duplicated,
        report.dead_letters,
        report.poison,
        report.seconds,
        cli.report.display()
    );
    report.verdict()
}
