//! The stage's own thread: builds the stage, feeds it, retries its batches and survives its panics.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Event;
use crate::config::RunnerConfig;
use crate::events::{BatchProcessed, BatchRetried};
use crate::offsets::{BatchId, TopicPartition};
use crate::retry::Backoff;
use crate::{BatchError, InputRecord, Outcome, Rejection, Service, Stage, StreamError, Traces};

/// The number of batches with the stage: one in progress, one waiting.
pub(super) const QUEUE: usize = 2;
/// The time that a retry delay may continue after a shutdown was requested.
const INTERRUPT_CHECK: Duration = Duration::from_millis(20);

/// A batch for the stage.
pub(super) struct StageBatch {
    pub batch: BatchId,
    pub records: Arc<Vec<InputRecord>>,
    pub lost: LostPartitions,
    pub reply: mpsc::UnboundedSender<Event>,
}

/// The partitions of a batch that went to another member while the stage has the batch. Clones
/// share them.
#[derive(Clone, Debug, Default)]
pub(super) struct LostPartitions(Arc<Mutex<BTreeSet<TopicPartition>>>);

impl LostPartitions {
    /// Notes that partitions are lost.
    pub fn add(&self, topic_partitions: &[TopicPartition]) {
        self.0.lock().extend(topic_partitions);
    }

    fn holds(&self, record: &InputRecord) -> bool {
        !self.0.lock().contains(&TopicPartition::from(record))
    }
}

/// The stage's result for a batch, or for the first records of what is left of it.
#[derive(Debug)]
pub(super) struct StageDone {
    pub batch: BatchId,
    pub result: Result<Vec<Outcome>, StageFailure>,
}

/// Why a batch has no outcomes.
#[derive(Debug)]
pub(super) enum StageFailure {
    Fatal(String),
    /// A shutdown came during a retry delay of this batch or of an earlier one.
    Interrupted,
}

/// The loop's side of the thread. The thread ends when this is dropped and the
/// current batch is done.
#[derive(Debug)]
pub(super) struct StageThread {
    pub work: mpsc::Sender<StageBatch>,
    pub service: Service,
    pub traces: Traces,
}

impl StageThread {
    /// Starts the thread and builds the stage on it; returns when it is built.
    pub async fn start<E: Display>(
        service: Service,
        load: impl FnOnce() -> Result<Box<dyn Stage>, E> + Send + 'static,
        config: &RunnerConfig,
        shutdown: &CancellationToken,
    ) -> Result<Self, StreamError> {
        let (work, inbox) = mpsc::channel(QUEUE);
        let (built, is_built) = oneshot::channel();
        let backoff = config.backoff();
        let stop = shutdown.clone();
        let body = move || match build(load) {
            Ok(stage) => {
                // If nobody waits any more, the inbox is closed too.
                let _ = built.send(Ok(()));
                Worker { service: service.name, stage, backoff, shutdown: stop, interrupted: false }
                    .run(inbox);
            }
            Err(reason) => drop(built.send(Err(StreamError::StageLoad(reason)))),
        };
        std::thread::Builder::new().name("stage".into()).spawn(body).map_err(StreamError::Thread)?;
        tokio::select! {
            built = is_built => built.map_err(|_| StreamError::StageLoad("its thread ended".into()))??,
            () = shutdown.cancelled() => return Err(StreamError::Stopped("the stage was loading")),
        }
        Ok(Self { work, service, traces: Traces::default() })
    }

    /// Sets the traces: each record gets a span.
    pub fn traced(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }
}

fn build<E: Display>(load: impl FnOnce() -> Result<Box<dyn Stage>, E>) -> Result<Box<dyn Stage>, String> {
    match catch_unwind(AssertUnwindSafe(load)) {
        Ok(loaded) => loaded.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("it panicked while loading: {}", panic_text(&*panic))),
    }
}

struct Worker {
    service: &'static str,
    stage: Box<dyn Stage>,
    backoff: Backoff,
    shutdown: CancellationToken,
    interrupted: bool,
}

impl Worker {
    fn run(mut self, mut inbox: mpsc::Receiver<StageBatch>) {
        while let Some(work) = inbox.blocking_recv() {
            let mut rest = &work.records[..];
            loop {
                let result = self.process(rest, &work.lost);
                self.interrupted |= matches!(result, Err(StageFailure::Interrupted));
                rest = result.as_ref().map_or(&[], |outcomes| &rest[outcomes.len()..]);
                // A stop comes between two parts of a batch, too.
                self.interrupted |= !rest.is_empty() && self.shutdown.is_cancelled();
                // A session that has ended no longer needs the batch.
                let _ = work.reply.send(Event::Stage(StageDone { batch: work.batch, result }));
                if rest.is_empty() {
                    break;
                }
            }
        }
    }

    /// Retries records until the stage has outcomes for the first of them, fails for good or a
    /// shutdown comes.
    fn process(
        &mut self,
        records: &[InputRecord],
        lost: &LostPartitions,
    ) -> Result<Vec<Outcome>, StageFailure> {
        self.backoff.reset();
        let mut held = Cow::Borrowed(records);
        loop {
            // A batch processed after one that was given up would overtake it.
            if self.interrupted {
                return Err(StageFailure::Interrupted);
            }
            match self.attempt(&held) {
                Ok(outcomes) => return Ok(with_lost(records, &held, outcomes)),
                Err(BatchError::Fatal(reason)) => return Err(StageFailure::Fatal(reason)),
                Err(BatchError::Transient(reason)) => self.wait(reason)?,
            }
            // Writes of a partition's new owner must not be overwritten.
            if !held.iter().all(|record| lost.holds(record)) {
                held = held.iter().filter(|record| lost.holds(record)).cloned().collect();
            }
            if held.is_empty() {
                return Ok(with_lost(records, &held, Vec::new()));
            }
        }
    }

    fn attempt(&mut self, records: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        let started = Instant::now();
        let outcomes = self.guarded(records)?;
        if outcomes.is_empty() || outcomes.len() > records.len() {
            let (given, got) = (records.len(), outcomes.len());
            return Err(BatchError::Fatal(format!(
                "it gave {got} outcomes for {given} records: a programming error"
            )));
        }
        BatchProcessed { service: self.service, records: outcomes.len(), took: started.elapsed() }.emit();
        Ok(outcomes)
    }

    /// Calls the stage. If it panics, its records are processed one by one, so that only the one
    /// to blame is rejected. A stage that panics on every record stops as a flood of dead letters.
    fn guarded(&mut self, records: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        let processed = catch_unwind(AssertUnwindSafe(|| self.stage.process(records)));
        let panic = match processed {
            Ok(result) => return result,
            Err(panic) => panic_text(&*panic).to_owned(),
        };
        match records {
            [_] => {
                let reason =
                    format!("the {} panicked on it ({panic}): report it with the record", self.service);
                Ok(vec![Outcome::Rejected(Rejection::new("stage-panicked", reason))])
            }
            _ => {
                tracing::error!(
                    service = self.service,
                    panic,
                    "a batch panicked; its records are processed one by one"
                );
                let mut outcomes = Vec::with_capacity(records.len());
                for record in records {
                    outcomes.extend(self.guarded(std::slice::from_ref(record))?);
                }
                Ok(outcomes)
            }
        }
    }

    fn wait(&mut self, reason: String) -> Result<(), StageFailure> {
        let delay = self.backoff.next();
        BatchRetried { service: self.service, tries: self.backoff.tries(), delay, reason }.emit();
        let until = Instant::now() + delay;
        while Instant::now() < until {
            if self.shutdown.is_cancelled() {
                return Err(StageFailure::Interrupted);
            }
            std::thread::sleep(INTERRUPT_CHECK.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }
}

/// Returns the outcomes of all records, of which only those in `held` were processed. The others
/// are done by the new owner of their partition; the session drops their empty outcomes. If the
/// stage has answered for the first of `held` only, these are the outcomes of the records up to
/// there.
fn with_lost(records: &[InputRecord], held: &[InputRecord], outcomes: Vec<Outcome>) -> Vec<Outcome> {
    if held.len() == records.len() {
        return outcomes;
    }
    let is_partial = outcomes.len() < held.len();
    let (mut held, mut outcomes) = (held.iter().peekable(), outcomes.into_iter());
    let mut all = Vec::with_capacity(records.len());
    for record in records {
        let position = |record: &InputRecord| (record.topic, record.partition, record.offset);
        match held.next_if(|next| position(next) == position(record)) {
            None => all.push(Outcome::Outputs(Vec::new())),
            Some(_) => match outcomes.next() {
                Some(outcome) => all.push(outcome),
                None => break,
            },
        }
    }
    debug_assert!(is_partial || all.len() == records.len());
    all
}

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
