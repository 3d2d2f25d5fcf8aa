//! One membership of the consumer group, from joining to leaving: the state, and how
//! each event changes it.

mod ends;
mod exactly_once;
mod expired;
mod gauges;
mod stopping;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(super) use self::ends::SessionEnd;
use self::ends::undeliverable;
use self::expired::Expired;
use super::batch::Batch;
use super::delivery::{Delivered, DeliveryQueue, Outgoing};
use super::stage_thread::{QUEUE, StageBatch, StageDone, StageFailure, StageThread};
use super::transaction_size::TransactionSize;
use super::transactions::Transactions;
use super::{Event, RunSummary};
use crate::batcher::{Batcher, Limits};
use crate::clock_watch::ClockWatch;
use crate::config::{KafkaConfig, RunnerConfig};
use crate::consumer::{Bounds, ConsumerEvent, ConsumerHandle};
use crate::events::{BatchDelivered, CommitEnded, RecordReceived};
use crate::flood::Flood;
use crate::health::{Condition, ServiceHealth};
use crate::in_flight::InFlight;
use crate::offsets::{BatchId, Offsets, TopicPartition};
use crate::producer::Producer;
use crate::topic_ids::TopicIds;
use crate::traces::RecordSpans;
use crate::{InputRecord, Outcome, StreamError};

/// The number of batches with the stage or awaiting acknowledgement, at most, if each is
/// written by itself.
const MAX_BATCHES: usize = 16;
/// A commit without an answer counts as failed after this time.
const COMMIT_PATIENCE: Duration = Duration::from_secs(30);
/// The number of events taken from the channel in one turn of the loop, at most.
const EVENTS_AT_ONCE: usize = 256;
/// Outputs are retried until they are acknowledged: giving one up would lose it.
const NEVER: u32 = 0;
/// The loop wakes up at least this often.
const IDLE_TICK: Duration = Duration::from_secs(1);

/// Partitions being revoked, and the channel for the answer that the consumer's thread waits for.
#[derive(Debug)]
struct Revoking {
    topic_partitions: Vec<TopicPartition>,
    deadline: Instant,
    answer: blocking::Sender<Vec<(TopicPartition, i64)>>,
}

/// The writer of the stage's outputs.
enum OutputWriter {
    /// At once; the offsets follow when the outputs are acknowledged.
    AtLeastOnce(DeliveryQueue),
    /// Together with the offsets, in a transaction.
    ExactlyOnce(Transactions),
}

/// The state that outlives a session.
pub(super) struct AcrossSessions<'a> {
    pub flood: &'a mut Flood,
    pub size: &'a mut TransactionSize,
    pub ids: &'a TopicIds,
}

pub(super) struct Session<'a> {
    config: &'a RunnerConfig,
    stage: &'a StageThread,
    health: &'a ServiceHealth,
    flood: &'a mut Flood,
    transaction_size: &'a mut TransactionSize,
    group: String,
    consumer: ConsumerHandle,
    writer: OutputWriter,
    events: mpsc::UnboundedReceiver<Event>,
    replies: mpsc::UnboundedSender<Event>,
    batcher: Batcher,
    offsets: Offsets,
    expired: Expired,
    batches: BTreeMap<BatchId, Batch>,
    next_batch: BatchId,
    max_batches: usize,
    in_flight: Arc<InFlight>,
    revoking: Option<Revoking>,
    committing_since: Option<Instant>,
    last_commit: Instant,
    stop_deadline: Option<Instant>,
    interrupted: bool,
    clock: ClockWatch,
}

impl<'a> Session<'a> {
    /// Joins the group. With a transactional id, it waits first until the broker accepts
    /// transactions under it.
    pub async fn start(
        kafka: &KafkaConfig,
        config: &'a RunnerConfig,
        stage: &'a StageThread,
        health: &'a ServiceHealth,
        transactional_id: Option<String>,
        AcrossSessions { flood, size: transaction_size, ids }: AcrossSessions<'a>,
    ) -> Result<Self, StreamError> {
        let (replies, events) = mpsc::unbounded_channel();
        let writer = match transactional_id {
            None => {
                OutputWriter::AtLeastOnce(DeliveryQueue::start(Producer::new(kafka, NEVER)?, replies.clone()))
            }
            Some(id) => {
                OutputWriter::ExactlyOnce(Transactions::start(kafka, config, id, ids, replies.clone()).await?)
            }
        };
        let max_batches = match &writer {
            OutputWriter::AtLeastOnce(_) => MAX_BATCHES,
            // Enough to fill the transaction in progress and the next one, which gathers meanwhile.
            OutputWriter::ExactlyOnce(_) => {
                let of_one = config.transaction_records.div_ceil(config.batch_records.max(1));
                MAX_BATCHES.max(2 * of_one)
            }
        };
        let group = kafka.group(stage.service.name);
        let in_flight = InFlight::new(config.bytes_in_flight);
        let bounds = Bounds { in_flight: in_flight.clone(), revoke_drain: ms(config.revoke_drain_ms) };
        Ok(Self {
            writer,
            consumer: ConsumerHandle::start(
                kafka,
                &group,
                stage.service.inputs,
                replies.clone(),
                bounds,
                ids,
            )?,
            batcher: Batcher::new(Limits {
                records: config.batch_records,
                bytes: config.batch_bytes,
                time: ms(config.batch_time_ms),
            }),
            config,
            stage,
            health,
            flood,
            transaction_size,
            group,
            events,
            replies,
            offsets: Offsets::default(),
            expired: Expired::default(),
            batches: BTreeMap::new(),
            next_batch: 0,
            max_batches,
            in_flight,
            revoking: None,
            committing_since: None,
            last_commit: Instant::now(),
            stop_deadline: None,
            interrupted: false,
            clock: ClockWatch::new(SystemTime::now(), Instant::now()),
        })
    }

    /// Works until it is told to stop or cannot continue; then commits what is done
    /// and leaves the group.
    pub async fn run(mut self, shutdown: &CancellationToken, summary: &mut RunSummary) -> SessionEnd {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        let end = loop {
            let wake = self.next_wake();
            let stopping = self.stop_deadline.is_some();
            tokio::select! {
                _ = self.events.recv_many(&mut events, EVENTS_AT_ONCE) => {}
                () = tokio::time::sleep_until(wake.into()) => {}
                () = shutdown.cancelled(), if !stopping => self.begin_stop(),
            }
            let handled = events.drain(..).try_for_each(|event| self.on_event(event, summary));
            if let Err(end) = handled {
                break end;
            }
            self.advance(Instant::now(), summary);
            if let Some(died) = self.died() {
                break SessionEnd::Failed(died);
            }
            if let Some(back) = self.clock.set_back(SystemTime::now(), Instant::now()) {
                break ends::clock_set_back(back);
            }
            if self.has_stopped(Instant::now()) {
                break SessionEnd::Stopped;
            }
        };
        self.leave().await;
        end
    }

    /// Returns the error of a thread or task that has ended unexpectedly. The loop would otherwise
    /// wait for it, apparently in good health.
    fn died(&self) -> Option<StreamError> {
        // The reason of the consumer's end may be among the events.
        let consumer = (self.consumer.is_dead() && self.events.is_empty()).then_some("the consumer's thread");
        let stage = self.stage.work.is_closed().then_some("the stage's thread");
        let writer = match &self.writer {
            OutputWriter::AtLeastOnce(queue) => queue.is_dead().then_some("the sending task"),
            OutputWriter::ExactlyOnce(transactions) => {
                transactions.is_dead().then_some("the transactions' thread")
            }
        };
        let what = consumer.or(stage).or(writer)?;
        Some(StreamError::Died { service: self.stage.service.name.to_owned(), what })
    }

    fn on_event(&mut self, event: Event, summary: &mut RunSummary) -> Result<(), SessionEnd> {
        match event {
            Event::Consumer(event) => self.on_consumer(event),
            Event::Stage(done) => self.on_stage(done),
            Event::Delivered(delivered) => self.on_delivered(delivered, summary),
            Event::Transacted(transacted) => self.on_transacted(transacted, summary),
        }
    }

    fn on_consumer(&mut self, event: ConsumerEvent) -> Result<(), SessionEnd> {
        match event {
            ConsumerEvent::Record(record) => self.on_record(record),
            ConsumerEvent::Assigned(topic_partitions) => {
                self.offsets.assign(&topic_partitions);
                self.health.set(Condition::Partitions, true);
                self.partitions_changed("assigned", topic_partitions.len());
            }
            ConsumerEvent::Revoked { topic_partitions, lost, answer } => {
                self.on_revoked(topic_partitions, lost, answer)
            }
            ConsumerEvent::Ends(ends) => self.report_lag(&ends),
            ConsumerEvent::Committed(result) => self.on_committed(result.map_err(|error| error.to_string())),
            ConsumerEvent::TopicsChanged(changes) => return Err(self.topics_changed(changes)),
            ConsumerEvent::NotSettled(error) => return Err(ends::not_settled(&error)),
            ConsumerEvent::Failed(source) => {
                return Err(SessionEnd::Failed(self.consumer.failure(&self.group, source)));
            }
        }
        Ok(())
    }

    fn on_record(&mut self, record: InputRecord) {
        let wanted = self.stop_deadline.is_none() && self.offsets.is_assigned(TopicPartition::from(&record));
        if wanted {
            RecordReceived { service: self.stage.service.name, bytes: record.size_bytes() }.emit();
            self.batcher.push(record, Instant::now());
        } else {
            self.in_flight.release([&record]);
        }
    }

    /// Drops the records that the stage does not have yet, for the next owner. Those with the stage
    /// may finish within the drain limit.
    fn on_revoked(
        &mut self,
        topic_partitions: Vec<TopicPartition>,
        lost: bool,
        answer: blocking::Sender<Vec<(TopicPartition, i64)>>,
    ) {
        let dropped =
            self.batcher.drop_unless(|record| !topic_partitions.contains(&TopicPartition::from(record)));
        self.in_flight.release(&dropped);
        self.partitions_changed(if lost { "lost" } else { "revoked" }, topic_partitions.len());
        if lost {
            // The group has excluded us: we are no member until it assigns again, even if it
            // assigns no partition.
            self.health.set(Condition::Partitions, false);
        }
        self.clear_lag(&topic_partitions);
        let drain = if lost { Duration::ZERO } else { ms(self.config.revoke_drain_ms) };
        self.revoking = Some(Revoking { topic_partitions, deadline: Instant::now() + drain, answer });
    }

    fn on_committed(&mut self, result: Result<(), String>) {
        self.committing_since = None;
        if result.is_err() {
            self.offsets.forget_requests();
        }
        CommitEnded { service: self.stage.service.name, result }.emit();
    }

    fn on_stage(&mut self, done: StageDone) -> Result<(), SessionEnd> {
        let id = self.with_outcomes(&done);
        let Some(batch) = self.batches.get_mut(&id) else { return Ok(()) };
        batch.with_stage = false;
        let outcomes = match done.result {
            Ok(outcomes) => outcomes,
            Err(StageFailure::Interrupted) => {
                self.interrupted = true;
                return Ok(());
            }
            Err(StageFailure::Fatal(reason)) => {
                let stage = self.stage.service.name.to_owned();
                return Err(SessionEnd::Failed(StreamError::StageFatal { stage, reason }));
            }
        };
        self.refuse_a_flood(&outcomes)?;
        let Some(batch) = self.batches.get_mut(&id) else { return Ok(()) };
        let offsets = &self.offsets;
        let holds = |record: &InputRecord| offsets.holds(id, TopicPartition::from(record));
        let records = batch.outgoing(&self.stage.service, &self.group, outcomes, holds);
        batch.sends += 1;
        let outgoing = Outgoing { batch: id, records };
        self.hold(&outgoing);
        self.write(outgoing);
        Ok(())
    }

    /// Returns the batch that the outcomes are of: a new one if they are only of its first records.
    fn with_outcomes(&mut self, done: &StageDone) -> BatchId {
        let count = done.result.as_ref().map_or(usize::MAX, Vec::len);
        match self.batches.get_mut(&done.batch) {
            Some(batch) if count < batch.records.len() => {
                let (id, first) = (self.next_batch, batch.split_first(count));
                self.offsets.split(done.batch, id, &first.records, &batch.records);
                self.batches.insert(id, first);
                self.next_batch += 1;
                id
            }
            _ => done.batch,
        }
    }

    fn refuse_a_flood(&mut self, outcomes: &[Outcome]) -> Result<(), SessionEnd> {
        let rejections = outcomes.iter().map(|outcome| matches!(outcome, Outcome::Rejected(_)));
        let Some((rejected, records)) = self.flood.note(rejections) else { return Ok(()) };
        let reason = outcomes.iter().rev().find_map(|outcome| match outcome {
            Outcome::Rejected(rejection) => Some(rejection.reason.clone()),
            Outcome::Outputs(_) => None,
        });
        // A batch of good records after a flood is no reason to stop.
        let Some(reason) = reason else { return Ok(()) };
        let service = self.stage.service.name.to_owned();
        Err(SessionEnd::Failed(StreamError::DeadLetterFlood { service, rejected, records, reason }))
    }

    /// Counts outputs that wait to be written, until their batch is finished.
    fn hold(&mut self, outgoing: &Outgoing) {
        let Some(batch) = self.batches.get_mut(&outgoing.batch) else { return };
        let bytes = outgoing.memory_bytes();
        batch.bytes_held += bytes;
        self.in_flight.add_outputs(bytes);
    }

    fn write(&mut self, outgoing: Outgoing) {
        match &mut self.writer {
            OutputWriter::AtLeastOnce(queue) => queue.send(outgoing),
            OutputWriter::ExactlyOnce(transactions) => transactions.push(outgoing),
        }
    }

    fn on_delivered(&mut self, delivered: Delivered, summary: &mut RunSummary) -> Result<(), SessionEnd> {
        let service = self.stage.service.name;
        let Some(batch) = self.batches.get_mut(&delivered.batch) else { return Ok(()) };
        batch.sends -= 1;
        batch.note(&delivered);
        if let Some(end) =
            delivered.failures.iter().find_map(|failure| undeliverable(failure.topic, &failure.error))
        {
            return Err(end);
        }
        let Some(letters) = batch.instead_of(service, &delivered.failures) else {
            return Err(self.no_dead_letter_fits());
        };
        if !letters.is_empty() {
            batch.sends += 1;
            let outgoing = Outgoing { batch: delivered.batch, records: letters };
            self.hold(&outgoing);
            self.write(outgoing);
        } else if batch.sends == 0 {
            self.finish(delivered.batch, summary);
        }
        Ok(())
    }

    /// Finishes a batch: everything of it is acknowledged.
    fn finish(&mut self, id: BatchId, summary: &mut RunSummary) {
        let Some(mut batch) = self.batches.remove(&id) else { return };
        batch.spans.delivered();
        self.offsets.complete(id);
        self.in_flight.release(batch.records.iter());
        self.in_flight.release_outputs(batch.bytes_held);
        batch.report_rejections(self.stage.service.name);
        let event = BatchDelivered {
            service: self.stage.service.name,
            records_in: &batch.records,
            records_out: batch.written - batch.dead_letters,
            bytes_out: batch.bytes_written,
            dead_letters: batch.dead_letters,
        };
        event.emit();
        summary.records_in += batch.records.len() as u64;
        summary.records_out += (batch.written - batch.dead_letters) as u64;
        summary.dead_letters += batch.dead_letters as u64;
        summary.batches += 1;
    }

    /// Does what the new state calls for.
    fn advance(&mut self, now: Instant, summary: &mut RunSummary) {
        while self.can_dispatch(now) && self.dispatch() {}
        self.transact_if_due(now, summary);
        self.answer_revocation(now);
        self.commit_if_due(now);
        self.report_in_flight();
    }

    /// Returns whether the stage gets the next batch now. An idle stage gets it when it is due, a
    /// busy one only when it is full.
    fn can_dispatch(&self, now: Instant) -> bool {
        let with_stage = self.batches.values().filter(|batch| batch.with_stage).count();
        let wanted = match with_stage {
            0 => self.batcher.is_due(now),
            _ => self.batcher.is_full(),
        };
        let has_room = self.batches.len() < self.max_batches && !self.in_flight.is_full_of_outputs();
        wanted && has_room && with_stage < QUEUE && self.stop_deadline.is_none()
    }

    /// Hands the next batch to the stage. False if the stage has no room, because it still has a
    /// batch of an earlier session.
    fn dispatch(&mut self) -> bool {
        let Ok(room) = self.stage.work.try_reserve() else { return false };
        let records = Arc::new(self.batcher.take());
        let id = self.next_batch;
        self.next_batch += 1;
        self.offsets.begin(id, &records);
        let spans = RecordSpans::begin(&self.stage.traces, &self.group, &records);
        let batch = Batch::new(records.clone(), spans);
        room.send(StageBatch { batch: id, records, lost: batch.lost.clone(), reply: self.replies.clone() });
        self.batches.insert(id, batch);
        true
    }

    fn answer_revocation(&mut self, now: Instant) {
        let drained = self.revoking.take_if(|revoking| {
            revoking.deadline <= now || !self.offsets.in_flight(&revoking.topic_partitions)
        });
        if let Some(revoking) = drained {
            let offsets = self.offsets.revoke(&revoking.topic_partitions);
            let with_stage = self.batches.values().filter(|batch| batch.with_stage);
            with_stage.for_each(|batch| batch.lost.add(&revoking.topic_partitions));
            // If the consumer's thread has stopped waiting, the next owner repeats some records.
            let _ = revoking.answer.send(offsets);
        }
    }

    fn commit_if_due(&mut self, now: Instant) {
        if self.committing_since.is_some_and(|since| since + COMMIT_PATIENCE <= now) {
            self.on_committed(Err("no answer".into()));
        }
        if matches!(self.writer, OutputWriter::ExactlyOnce(_)) {
            return;
        }
        let due = self.offsets.is_dirty() && self.last_commit + ms(self.config.commit_interval_ms) <= now;
        if !due || self.committing_since.is_some() || self.revoking.is_some() {
            return;
        }
        self.last_commit = now;
        let offsets = self.offsets.take_dirty();
        self.consumer.commit(&offsets);
        self.committing_since = Some(now);
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let commit = self.offsets.is_dirty().then(|| self.last_commit + ms(self.config.commit_interval_ms));
        let stage_is_idle = !self.batches.values().any(|batch| batch.with_stage);
        let batch = self.batcher.deadline().filter(|_| stage_is_idle && self.stop_deadline.is_none());
        let revocation = self.revoking.as_ref().map(|revoking| revoking.deadline);
        let transaction = match &self.writer {
            OutputWriter::ExactlyOnce(transactions) => transactions.wake(),
            OutputWriter::AtLeastOnce(_) => None,
        };
        let commit = commit.filter(|_| self.committing_since.is_none());
        let wakes = [commit, batch, revocation, transaction, self.stop_deadline];
        let soonest = wakes.into_iter().flatten().min().unwrap_or(now + IDLE_TICK);
        // Work that is due but cannot be done yet must not make the loop spin.
        soonest.clamp(now + Duration::from_millis(1), now + IDLE_TICK)
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
