//! A short run of `make chaos`: instances killed, stopped and frozen, broker and index unavailable,
//! under load and with poison.

use std::path::{Path, PathBuf};
use std::time::Duration;

use unprompt_chaos::{Broker, ChaosReport, Counts, Durations, Options, run};

async fn short(broker: Broker, seed: u64) -> ChaosReport {
    let python = std::env::var_os("UNPROMPT_TEST_PYTHON");
    let counts = Counts {
        kills: 3,
        terms: 1,
        freezes: 1,
        broker_restarts: 1,
        index_outages: 1,
        // These need rights or a library that not every machine has; `make chaos` has them.
        clock_jumps: 0,
        full_disks: 0,
        quotas: 0,
    };
    let durations = Durations {
        index_away: Duration::from_secs(5),
        clock_wrong: Duration::ZERO,
        disk_full: Duration::ZERO,
        quota: Duration::ZERO,
    };
    let options = Options {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_unprompt")),
        python: python.expect("`make test` sets up a Python and names it in UNPROMPT_TEST_PYTHON").into(),
        broker,
        seed,
        pictures: 4_000,
        instances: 2,
        counts,
        durations,
        logs: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{broker:?}"))),
    };
    let report = run(options).await.expect("the run can be carried out");
    let events = (report.kills, report.terms, report.freezes, report.broker_restarts, report.index_outages);
    assert_eq!(events, (3, 1, 1, 1, 1));
    assert!(report.events.iter().all(|struck| struck.lag > 0 && struck.batches_in_flight > 0), "{report:?}");
    assert!(report.poison >= 40, "{report:?}");
    assert!(report.unexpected.is_empty(), "{:?}", report.unexpected);
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_on_apache_kafka_loses_and_duplicates_nothing() {
    let report = short(Broker::Apache, 11).await;
    report.verdict().expect("exactly once");
    assert_eq!(report.predicted_distinct + report.dead_letters, report.published);
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_on_the_embedded_broker_loses_nothing_and_duplicates_are_equal() {
    short(Broker::Embedded, 12).await.verdict().expect("at least once, of equal content");
}
