//! The events worth reporting: one type per event, which emits its log line and its metrics
//! together.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{counter, gauge, histogram};

use crate::admin_requests::TopicId;
use crate::{InputRecord, Rejection, source_time};

/// Names of the metrics, all under `unprompt_`.
pub(crate) mod names {
    pub const RECORDS_IN: &str = "unprompt_records_in_total";
    pub const BYTES_IN: &str = "unprompt_bytes_in_total";
    pub const RECORDS_OUT: &str = "unprompt_records_out_total";
    pub const BYTES_OUT: &str = "unprompt_bytes_out_total";
    pub const DEAD_LETTERS: &str = "unprompt_dead_letters_total";
    pub const BATCH_RECORDS: &str = "unprompt_batch_records";
    pub const STAGE_SECONDS: &str = "unprompt_stage_seconds";
    pub const LATENCY_SECONDS: &str = "unprompt_latency_seconds";
    pub const RETRIES: &str = "unprompt_batch_retries_total";
    pub const TRANSACTIONS: &str = "unprompt_transactions_total";
    pub const TRANSACTION_SECONDS: &str = "unprompt_transaction_seconds";
    pub const COMMITS: &str = "unprompt_commits_total";
    pub const REBALANCES: &str = "unprompt_rebalances_total";
    pub const RESTARTS: &str = "unprompt_session_restarts_total";
    pub const TOPICS_CHANGED: &str = "unprompt_topics_changed_total";
    pub const LAST_PROGRESS: &str = "unprompt_last_progress_timestamp_seconds";
    pub const CONSUMER_LAG: &str = "unprompt_consumer_lag_records";
    pub const BYTES_IN_FLIGHT: &str = "unprompt_bytes_in_flight";
    pub const BATCHES_IN_FLIGHT: &str = "unprompt_batches_in_flight";
    pub const RECORDS_EXPIRED: &str = "unprompt_records_expired_total";
    pub const STAGE_LOADED: &str = "unprompt_stage_loaded";
}

/// A record came from a topic.
pub(crate) struct RecordReceived {
    pub service: &'static str,
    pub bytes: usize,
}

impl RecordReceived {
    pub fn emit(self) {
        counter!(names::RECORDS_IN, "service" => self.service).increment(1);
        counter!(names::BYTES_IN, "service" => self.service).increment(self.bytes as u64);
    }
}

/// A service's current load: records fetched, with the stage, or on their way out.
pub(crate) struct InHand {
    pub service: &'static str,
    pub bytes: usize,
    /// With the stage, or awaiting acknowledgement.
    pub batches: usize,
}

impl InHand {
    pub fn emit(self) {
        gauge!(names::BYTES_IN_FLIGHT, "service" => self.service).set(self.bytes as f64);
        gauge!(names::BATCHES_IN_FLIGHT, "service" => self.service).set(self.batches as f64);
    }
}

/// The number of records of a partition that are not done yet.
pub(crate) struct Lag {
    pub service: &'static str,
    pub topic: String,
    pub partition: i32,
    pub records: i64,
}

impl Lag {
    pub fn emit(self) {
        let partition = self.partition.to_string();
        gauge!(names::CONSUMER_LAG, "service" => self.service, "topic" => self.topic, "partition" => partition)
            .set(self.records as f64);
    }
}

/// Retention has removed records before they were read.
pub(crate) struct RecordsExpired {
    pub service: &'static str,
    pub topic: String,
    pub partition: i32,
    /// Offsets, which include transaction markers.
    pub records: i64,
}

impl RecordsExpired {
    pub fn emit(self) {
        let Self { service, topic, partition, records } = self;
        let count = records.unsigned_abs();
        counter!(names::RECORDS_EXPIRED, "service" => service, "topic" => topic.clone()).increment(count);
        tracing::error!(
            service,
            topic,
            partition,
            records,
            "the broker has deleted records before they were read: they are lost. Raise the topic's retention, or add members to the group"
        );
    }
}

/// The stage, with its models, was loaded or dropped.
pub(crate) struct StageLoaded {
    pub service: &'static str,
    pub loaded: bool,
}

impl StageLoaded {
    pub fn emit(self) {
        gauge!(names::STAGE_LOADED, "service" => self.service).set(f64::from(u8::from(self.loaded)));
        if self.loaded {
            tracing::info!(service = self.service, "stage is loaded");
        }
    }
}

/// The stage returned a batch's outcomes.
pub(crate) struct BatchProcessed {
    pub service: &'static str,
    pub records: usize,
    pub took: Duration,
}

impl BatchProcessed {
    pub fn emit(self) {
        histogram!(names::BATCH_RECORDS, "service" => self.service).record(self.records as f64);
        histogram!(names::STAGE_SECONDS, "service" => self.service).record(self.took.as_secs_f64());
        tracing::debug!(
            service = self.service,
            records = self.records,
            took_ms = self.took.as_millis() as u64,
            "batch processed"
        );
    }
}

/// A batch failed with a transient error and is retried.
pub(crate) struct BatchRetried {
    pub service: &'static str,
    pub tries: u32,
    pub delay: Duration,
    pub reason: String,
}

impl BatchRetried {
    pub fn emit(self) {
        counter!(names::RETRIES, "service" => self.service).increment(1);
        tracing::warn!(
            service = self.service,
            tries = self.tries,
            delay_ms = self.delay.as_millis() as u64,
            reason = self.reason,
            "batch failed for now; trying again"
        );
    }
}

/// A record went to the dead letters.
pub(crate) struct RecordRejected<'a> {
    pub service: &'static str,
    pub input: &'a InputRecord,
    pub rejection: &'a Rejection,
}

impl RecordRejected<'_> {
    pub fn emit(self) {
        counter!(names::DEAD_LETTERS, "service" => self.service, "code" => self.rejection.code).increment(1);
        tracing::warn!(
            service = self.service,
            topic = self.input.topic_name,
            partition = self.input.partition,
            offset = self.input.offset,
            code = self.rejection.code,
            reason = self.rejection.reason,
            "record rejected"
        );
    }
}

/// All records of a batch are acknowledged.
pub(crate) struct BatchDelivered<'a> {
    pub service: &'static str,
    pub records_in: &'a [InputRecord],
    pub records_out: usize,
    pub bytes_out: usize,
    pub dead_letters: usize,
}

impl BatchDelivered<'_> {
    pub fn emit(self) {
        counter!(names::RECORDS_OUT, "service" => self.service).increment(self.records_out as u64);
        counter!(names::BYTES_OUT, "service" => self.service).increment(self.bytes_out as u64);
        let now_ms = now_ms();
        gauge!(names::LAST_PROGRESS, "service" => self.service).set(now_ms as f64 / 1e3);
        let latency = histogram!(names::LATENCY_SECONDS, "service" => self.service);
        for record in self.records_in {
            if let Some(time) = source_time::of(record) {
                latency.record(now_ms.saturating_sub(time).max(0) as f64 / 1e3);
            }
        }
        tracing::debug!(
            service = self.service,
            records_in = self.records_in.len(),
            records_out = self.records_out,
            dead_letters = self.dead_letters,
            "batch delivered"
        );
    }
}

/// A commit was answered.
pub(crate) struct CommitEnded {
    pub service: &'static str,
    pub result: Result<(), String>,
}

impl CommitEnded {
    pub fn emit(self) {
        let outcome = if self.result.is_ok() { "ok" } else { "failed" };
        counter!(names::COMMITS, "service" => self.service, "outcome" => outcome).increment(1);
        match self.result {
            Ok(()) => tracing::debug!(service = self.service, "offsets committed"),
            Err(error) => {
                tracing::warn!(service = self.service, error, "offsets not committed; it is tried again");
            }
        }
    }
}

/// A transaction has ended.
pub(crate) struct TransactionEnded<'a> {
    pub service: &'static str,
    pub outcome: &'static str,
    pub records: usize,
    pub took: Duration,
    pub reason: &'a str,
}

impl TransactionEnded<'_> {
    pub fn emit(self) {
        counter!(names::TRANSACTIONS, "service" => self.service, "outcome" => self.outcome).increment(1);
        histogram!(names::TRANSACTION_SECONDS, "service" => self.service).record(self.took.as_secs_f64());
        let (service, outcome, records, took_ms) =
            (self.service, self.outcome, self.records, self.took.as_millis() as u64);
        match self.outcome {
            "committed" => tracing::debug!(service, records, took_ms, "transaction committed"),
            _ => tracing::warn!(
                service,
                outcome,
                records,
                took_ms,
                reason = self.reason,
                "transaction not committed"
            ),
        }
    }
}

/// Partitions were assigned, revoked or lost.
pub(crate) struct PartitionsChanged {
    pub service: &'static str,
    pub kind: &'static str,
    pub partitions: usize,
}

impl PartitionsChanged {
    pub fn emit(self) {
        counter!(names::REBALANCES, "service" => self.service, "kind" => self.kind).increment(1);
        tracing::info!(
            service = self.service,
            kind = self.kind,
            partitions = self.partitions,
            "partitions changed"
        );
    }
}

/// A session leaves the group, and the next one joins it again.
pub(crate) struct SessionRestarted {
    pub service: &'static str,
    pub reason: String,
}

impl SessionRestarted {
    pub fn emit(self) {
        counter!(names::RESTARTS, "service" => self.service).increment(1);
        tracing::warn!(
            service = self.service,
            reason = self.reason,
            "starting again from the committed offsets"
        );
    }
}

/// A topic of the service was deleted, and created again if it has an id now.
pub(crate) struct TopicChanged<'a> {
    pub service: &'static str,
    pub topic: String,
    pub was: Option<&'a TopicId>,
    pub now: Option<&'a TopicId>,
}

impl TopicChanged<'_> {
    pub fn emit(self) {
        let Self { service, topic, .. } = self;
        let [was, now] = [self.was, self.now].map(|id| id.map(tracing::field::display));
        counter!(names::TOPICS_CHANGED, "service" => service, "topic" => topic.clone()).increment(1);
        match self.now {
            Some(_) => tracing::warn!(
                service,
                topic,
                was,
                now,
                "the topic was deleted and created again: its id is another one; an input is read from its first record"
            ),
            None => tracing::warn!(service, topic, was, "the topic was deleted; it is created again"),
        }
    }
}

/// The time in milliseconds since the epoch, by the clock of this machine.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
