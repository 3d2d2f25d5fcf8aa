//! Exactly-once delivery: one short transaction writes the stage's outputs and commits the
//! offsets of their inputs.
//!
//! The stage finishes its work before a transaction begins, so that none outlives
//! `transaction.timeout.ms`. While one is in progress, the outputs of further batches gather,
//! and go into the next one together. The producer lives on its own thread, because
//! librdkafka's transaction calls block. The session decides which batches still count after
//! partitions have been revoked.
//!
//! After an error whose outcome is unknown, the producer is recreated under the same transactional
//! id, which settles what the old one left open; see KIP-98 and KIP-447. The same happens after an
//! abort with records still in flight: a record that arrives after the abort would otherwise become
//! part of the next transaction (KIP-890).

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::mpsc as blocking;
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use futures::future::join_all;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;
use unprompt_schemas::topics::Topic;

use super::Event;
use super::delivery::{FailedSend, Outgoing};
use super::stage_thread::panic_text;
use crate::admin_requests::{Described, Request};
use crate::config::{KafkaConfig, RunnerConfig};
use crate::offsets::BatchId;
use crate::producer::{Producer, SendError, Sending, is_permanent};
use crate::retry::Backoff;
use crate::topic_ids::{TopicChange, TopicIds};
use crate::{OutputRecord, StreamError};

/// The time that one call to librdkafka may block before it is repeated.
const CALL: Duration = Duration::from_secs(5);
/// The pause before a call is repeated: some are refused at once.
const PAUSE: Duration = Duration::from_millis(10);

/// Batches to make visible together, with the offsets after their inputs.
struct TransactionRequest {
    bundle: Vec<Outgoing>,
    offsets: TopicPartitionList,
    group: ConsumerGroupMetadata,
}

/// A transaction that has ended.
#[derive(Debug)]
pub(super) struct Transacted {
    pub bundle: Vec<Outgoing>,
    pub ended: Ended,
    pub took: Duration,
}

/// The end of a transaction.
#[derive(Debug)]
pub(super) enum Ended {
    Committed,
    /// Nothing of it ever becomes visible. It is tried again, with replacements for the
    /// records that failed.
    Aborted {
        failures: Vec<(BatchId, FailedSend)>,
        reason: String,
        /// True if it did not fit into its time.
        late: bool,
    },
    /// It is unknown whether it was committed, or the producer is unusable: start again from the
    /// committed offsets.
    Lost(String),
    /// Nothing of it ever becomes visible: it may hold outputs of records that were read at an
    /// offset of a topic that was deleted.
    TopicsChanged(Vec<TopicChange>),
    /// No retry can fix it.
    Fatal(StreamError),
}

/// The loop's side: the outputs that wait for a transaction, and whether one is in progress.
#[derive(Debug)]
pub(super) struct Transactions {
    ready: VecDeque<Outgoing>,
    work: blocking::Sender<TransactionRequest>,
    thread: JoinHandle<()>,
    under_way: bool,
    backoff: Backoff,
    not_before: Instant,
    max_records: usize,
}

impl Transactions {
    /// Makes a producer, and has the broker settle what an earlier one with the same
    /// transactional id left open.
    ///
    /// # Errors
    ///
    /// [`StreamError::NoTransactions`] if the broker refuses, [`StreamError::Client`] for settings
    /// that librdkafka refuses.
    pub async fn start(
        kafka: &KafkaConfig,
        config: &RunnerConfig,
        id: String,
        ids: &TopicIds,
        events: mpsc::UnboundedSender<Event>,
    ) -> Result<Self, StreamError> {
        let timeout = Duration::from_millis(config.transaction_timeout_ms);
        let producer = Producer::transactional(kafka, &id, timeout)?;
        let mut worker = Worker { producer, id, ids: ids.clone(), kafka: kafka.clone(), timeout };
        let (work, inbox) = blocking::channel();
        let (started, ready) = oneshot::channel();
        let runtime = Handle::current();
        let body = move || {
            let begun = worker.init(|| started.is_closed());
            let usable = begun.is_ok();
            // A session that has ended no longer needs the result.
            let _ = started.send(begun);
            if usable {
                worker.run(&inbox, &events, &runtime);
            }
        };
        let named = std::thread::Builder::new().name("transactions".into());
        let thread = named.spawn(body).map_err(StreamError::Thread)?;
        ready.await.map_err(|_| StreamError::Stopped("the transactional producer was starting"))??;
        let backoff = config.backoff();
        Ok(Self {
            ready: VecDeque::new(),
            work,
            thread,
            under_way: false,
            backoff,
            not_before: Instant::now(),
            max_records: config.transaction_records,
        })
    }

    /// Returns whether the thread has ended, although the session has not.
    pub fn is_dead(&self) -> bool {
        self.thread.is_finished()
    }

    /// Queues a batch's outputs for the next transaction.
    pub fn push(&mut self, outgoing: Outgoing) {
        self.ready.push_back(outgoing);
    }

    /// Returns whether a transaction may begin now.
    pub fn is_due(&self, now: Instant) -> bool {
        !self.under_way && !self.ready.is_empty() && self.not_before <= now
    }

    /// Returns when the next transaction may begin, if outputs wait and none is in progress.
    pub fn wake(&self) -> Option<Instant> {
        (!self.under_way && !self.ready.is_empty()).then_some(self.not_before)
    }

    /// Returns the oldest batch that waits.
    pub fn front(&mut self) -> Option<&mut Outgoing> {
        self.ready.front_mut()
    }

    /// Puts outputs before all others.
    pub fn push_front(&mut self, outgoing: Outgoing) {
        self.ready.push_front(outgoing);
    }

    /// Takes the oldest batches within `max_bytes` and the limit on records; at least one, however
    /// large.
    pub fn take(&mut self, max_bytes: usize) -> Vec<Outgoing> {
        let (mut records, mut bytes, mut bundle) = (0, 0, Vec::new());
        while let Some(next) = self.ready.front() {
            records += next.records.len();
            bytes += next.bytes();
            if !bundle.is_empty() && (records > self.max_records || bytes > max_bytes) {
                break;
            }
            bundle.extend(self.ready.pop_front());
        }
        bundle
    }

    /// Begins a transaction; its end arrives as an event.
    pub fn begin(
        &mut self,
        bundle: Vec<Outgoing>,
        offsets: TopicPartitionList,
        group: ConsumerGroupMetadata,
    ) {
        self.under_way = true;
        if self.work.send(TransactionRequest { bundle, offsets, group }).is_err() {
            tracing::error!("the transactions' thread is gone");
        }
    }

    pub fn committed(&mut self) {
        self.under_way = false;
        self.backoff.reset();
    }

    /// Puts an aborted bundle back for another attempt: at once if a record was to blame and is
    /// replaced, otherwise after a delay.
    pub fn again(&mut self, bundle: Vec<Outgoing>, at_once: bool) {
        self.under_way = false;
        for outgoing in bundle.into_iter().rev() {
            self.ready.push_front(outgoing);
        }
        let delay = if at_once { Duration::ZERO } else { self.backoff.next() };
        self.not_before = Instant::now() + delay;
    }
}

struct Worker {
    producer: Producer,
    id: String,
    ids: TopicIds,
    kafka: KafkaConfig,
    timeout: Duration,
}

/// A record handed to the producer: its batch, the index of its input, its topic and its delivery.
type UnderWay = (BatchId, usize, Topic, Sending);

impl Worker {
    /// Initialises transactions. Waits for an unavailable broker as long as the caller waits; only
    /// a refusal is an error.
    fn init(&self, abandoned: impl Fn() -> bool) -> Result<(), StreamError> {
        loop {
            match self.producer.init_transactions(CALL) {
                Ok(()) => return Ok(()),
                Err(error) if self.producer.is_refused() => {
                    return Err(self.producer.explain(&self.kafka.brokers, error));
                }
                Err(error) if is_retriable(&error) && !abandoned() => {
                    tracing::warn!(%error, "waiting for a transaction coordinator")
                }
                Err(source) => return Err(self.refused(source)),
            }
        }
    }

    fn run(
        &mut self,
        inbox: &blocking::Receiver<TransactionRequest>,
        events: &mpsc::UnboundedSender<Event>,
        runtime: &Handle,
    ) {
        while let Ok(TransactionRequest { bundle, offsets, group }) = inbox.recv() {
            let started = Instant::now();
            let transact = || self.transact(&bundle, &offsets, &group, runtime);
            let ended = catch_unwind(AssertUnwindSafe(transact))
                .unwrap_or_else(|panic| Ended::Lost(format!("it panicked: {}", panic_text(&*panic))));
            let done = Transacted { bundle, ended, took: started.elapsed() };
            if events.send(Event::Transacted(done)).is_err() {
                return;
            }
        }
    }

    fn transact(
        &mut self,
        bundle: &[Outgoing],
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
        runtime: &Handle,
    ) -> Ended {
        // Everything before the commit may take half of the broker's transaction timeout.
        let deadline = Instant::now() + self.timeout / 2;
        if let Err(error) = self.producer.begin_transaction() {
            return self.lost_or_fatal(error);
        }
        // Asked after the records were read, and answered while their outputs are written.
        let asked = self.producer.ask_topic_ids(&self.ids);
        let (mut under_way, mut failures): (Vec<UnderWay>, Vec<_>) = (Vec::new(), Vec::new());
        for (batch, input, record) in records_of(bundle) {
            match runtime.block_on(self.producer.send(record)) {
                Ok(sending) => under_way.push((batch, input, record.topic, sending)),
                Err(error) => failures.push((batch, FailedSend { input, topic: record.topic, error })),
            }
        }
        if let Some(ended) = self.if_changed(&asked, deadline) {
            return ended;
        }
        // The offsets come last, so that no record is in flight when they fail. This waits for the
        // deliveries, not for a flush: rdkafka's flush checks only every 100 ms, because the
        // producer's own thread receives the deliveries.
        let mut delivered = pin!(failed(under_way));
        match runtime.block_on(async { timeout_at(deadline.into(), &mut delivered).await }) {
            Ok(failed) => failures.extend(failed),
            Err(late) => {
                drop(asked);
                return self.abort_unclean(delivered, failures, late.to_string(), runtime);
            }
        }
        if let Some((_, failure)) = failures.first() {
            let reason = format!("a record for {}: {:?}", failure.topic.base_name(), failure.error);
            return self.abort(failures, reason);
        }
        if let Err(error) = again_until(deadline, || self.producer.send_offsets(offsets, group, CALL)) {
            return match is_fatal(&error) {
                true => self.lost_or_fatal(error),
                false => self.withdraw(bundle, error),
            };
        }
        self.commit(bundle)
    }

    /// Aborts the transaction if a topic was created again, or if that is not known: the consumer
    /// may have read a new topic from the offset that it had reached in the old one.
    fn if_changed(&self, asked: &KafkaResult<Request<'_, Described>>, deadline: Instant) -> Option<Ended> {
        match self.changed_topics(asked, deadline) {
            Ok(changes) if changes.is_empty() => None,
            Ok(changes) => Some(match self.abort(Vec::new(), String::new()) {
                Ended::Aborted { .. } => Ended::TopicsChanged(changes),
                ended => ended,
            }),
            Err(error) => {
                Some(self.abort(Vec::new(), format!("the ids of its topics are not known: {error}")))
            }
        }
    }

    /// Waits for the answer; asks again after an error until `deadline`.
    fn changed_topics(
        &self,
        asked: &KafkaResult<Request<'_, Described>>,
        deadline: Instant,
    ) -> KafkaResult<Vec<TopicChange>> {
        let late = || Err(KafkaError::Canceled);
        let answer = match asked {
            // Half of the time, so that another broker can be asked.
            Ok(asked) => asked.answer((deadline - Instant::now()) / 2).unwrap_or_else(late),
            Err(error) => Err(error.clone()),
        };
        let mut changes = self.ids.changes(answer);
        while changes.is_err() && Instant::now() < deadline {
            sleep(PAUSE);
            changes = self.producer.look_at_topics(&self.ids);
        }
        changes
    }

    /// Commits the transaction. From here on only the broker knows its outcome: the commit is
    /// requested again after a retriable error, and aborted only if librdkafka requires it.
    fn commit(&self, bundle: &[Outgoing]) -> Ended {
        match again_until(Instant::now() + self.timeout, || self.producer.commit_transaction(CALL)) {
            Ok(()) => Ended::Committed,
            Err(error) if is_fatal(&error) => self.lost_or_fatal(error),
            Err(error) if requires_abort(&error) => self.withdraw(bundle, error),
            Err(error) => Ended::Lost(error.to_string()),
        }
    }

    /// Aborts a transaction that an error has spoilt. A missing permission spoils it before any
    /// record is sent: librdkafka then purges the records and reports the permission here.
    fn withdraw(&self, bundle: &[Outgoing], error: KafkaError) -> Ended {
        if !is_permanent(&error) {
            return self.abort(Vec::new(), error.to_string());
        }
        // If no partition has joined the transaction, the broker knows of none to abort. A
        // transaction that it does know of ends by itself.
        if let Err(error) = self.take_back() {
            tracing::debug!(%error, "the refused transaction was not taken back");
        }
        let topics: BTreeSet<_> = records_of(bundle).map(|(_, _, record)| record.topic.base_name()).collect();
        let topic = topics.into_iter().collect::<Vec<_>>().join(" or ");
        Ended::Fatal(StreamError::Delivery { topic, source: error })
    }

    /// Aborts a transaction with no record in flight.
    fn abort(&self, failures: Vec<(BatchId, FailedSend)>, reason: String) -> Ended {
        if let Err(error) = self.take_back() {
            return self.lost_or_fatal(error);
        }
        let refused = failures.iter().find_map(|(_, failure)| match &failure.error {
            SendError::Kafka(source) if is_permanent(source) => Some((failure.topic, source.clone())),
            _ => None,
        });
        match refused {
            Some((topic, source)) => {
                Ended::Fatal(StreamError::Delivery { topic: topic.base_name().to_owned(), source })
            }
            None => Ended::Aborted { failures, reason, late: false },
        }
    }

    /// Aborts a transaction whose records may still be in flight, and continues with a
    /// producer of a new epoch.
    fn abort_unclean(
        &mut self,
        under_way: impl Future<Output = Vec<(BatchId, FailedSend)>>,
        mut failures: Vec<(BatchId, FailedSend)>,
        reason: String,
        runtime: &Handle,
    ) -> Ended {
        if let Err(error) = self.take_back() {
            return self.lost_or_fatal(error);
        }
        // The abort has purged the records in flight.
        failures.extend(runtime.block_on(under_way));
        let renewed = Producer::transactional(&self.kafka, &self.id, self.timeout).and_then(|producer| {
            self.producer = producer;
            let deadline = Instant::now() + self.timeout;
            again_until(deadline, || self.producer.init_transactions(CALL))
                .map_err(|error| self.refused(error))
        });
        match renewed {
            Ok(()) => Ended::Aborted { failures, reason, late: true },
            Err(error) => Ended::Lost(error.to_string()),
        }
    }

    fn take_back(&self) -> KafkaResult<()> {
        again_until(Instant::now() + self.timeout, || self.producer.abort_transaction(CALL))
    }

    /// Decides what a failed transaction call means. Under a random id, a fencing error only says
    /// that the broker aborted the transaction itself; under a configured instance name, it says
    /// that a second process uses that name.
    fn lost_or_fatal(&self, error: KafkaError) -> Ended {
        match error.rdkafka_error_code() {
            Some(code) if is_fenced(code) && self.kafka.instance.is_some() => {
                Ended::Fatal(StreamError::Fenced { id: self.id.clone(), source: error })
            }
            Some(
                RDKafkaErrorCode::TransactionalIdAuthorizationFailed | RDKafkaErrorCode::UnsupportedVersion,
            ) => Ended::Fatal(self.refused(error)),
            _ => Ended::Lost(error.to_string()),
        }
    }

    fn refused(&self, source: KafkaError) -> StreamError {
        let (brokers, id) = (self.kafka.brokers.clone(), self.id.clone());
        StreamError::NoTransactions { brokers, id, source: Box::new(source) }
    }
}

/// Iterates over all records, each with its batch and the index of its input.
fn records_of(bundle: &[Outgoing]) -> impl Iterator<Item = (BatchId, usize, &OutputRecord)> {
    bundle
        .iter()
        .flat_map(|outgoing| outgoing.records.iter().map(|(input, record)| (outgoing.batch, *input, record)))
}

/// Waits for all deliveries and returns those that failed, except those that an abort has purged.
async fn failed(under_way: Vec<UnderWay>) -> Vec<(BatchId, FailedSend)> {
    let ends = under_way.into_iter().map(|(batch, input, topic, sending)| async move {
        let error = sending.acknowledged().await.err()?;
        Some((batch, FailedSend { input, topic, error }))
    });
    let failed = join_all(ends).await.into_iter().flatten();
    failed.filter(|(_, failure)| !is_purged(&failure.error)).collect()
}

fn is_purged(error: &SendError) -> bool {
    let SendError::Kafka(error) = error else { return false };
    matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight))
}

/// Repeats a call until `deadline`, as long as librdkafka reports a retriable error.
fn again_until(deadline: Instant, mut call: impl FnMut() -> KafkaResult<()>) -> KafkaResult<()> {
    loop {
        match call() {
            Err(error) if is_retriable(&error) && Instant::now() < deadline => sleep(PAUSE),
            ended => return ended,
        }
    }
}

fn is_retriable(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.is_retriable())
}

fn is_fatal(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.is_fatal())
}

fn requires_abort(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.txn_requires_abort())
}

fn is_fenced(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced};
    matches!(code, Fenced | InvalidProducerEpoch | ProducerFenced)
}
