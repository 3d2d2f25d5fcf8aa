//! The stage's own thread: builds it, feeds it, retries it, and survives its panics.

use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use unprompt_schemas::topics::Topic;

use super::Event;
use crate::config::RunnerConfig;
use crate::events::{BatchProcessed, BatchRetried};
use crate::offsets::BatchId;
use crate::retry::Backoff;
use crate::{BatchError, InputRecord, Outcome, Stage, StreamError, Traces};

/// Batches with the stage: one it works on, one waiting for it.
pub(super) const QUEUE: usize = 2;
/// How long a delay goes on after a shutdown was asked for.
const INTERRUPT_CHECK: Duration = Duration::from_millis(20);

/// A batch for the stage.
pub(super) struct Work {
    pub batch: BatchId,
    pub records: Arc<Vec<InputRecord>>,
    pub reply: mpsc::UnboundedSender<Event>,
}

/// What the stage made of a batch.
#[derive(Debug)]
pub(super) struct StageDone {
    pub batch: BatchId,
    pub result: Result<Vec<Outcome>, StageFailure>,
}

/// Why a batch has no outcomes.
#[derive(Debug)]
pub(super) enum StageFailure {
    Fatal(String),
    /// A shutdown came while it waited for a retry, or while one before it did.
    Interrupted,
}

/// What a stage says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct StageInfo {
    pub name: &'static str,
    pub inputs: &'static [Topic],
    pub keeps_time: bool,
}

/// The loop's side of the thread. The thread ends when this is dropped and its batch is done.
#[derive(Debug)]
pub(super) struct StageThread {
    pub work: mpsc::Sender<Work>,
    pub info: StageInfo,
    pub traces: Traces,
}

impl StageThread {
    /// Starts the thread and builds the stage on it; returns when it is built.
    pub async fn start<E: Display>(
        name: &'static str,
        load: impl FnOnce() -> Result<Box<dyn Stage>, E> + Send + 'static,
        config: &RunnerConfig,
        shutdown: &CancellationToken,
    ) -> Result<Self, StreamError> {
        let (work, inbox) = mpsc::channel(QUEUE);
        let (built, info) = oneshot::channel();
        let backoff = backoff(config);
        let stop = shutdown.clone();
        let body = move || match build(load) {
            Ok(stage) => {
                let info =
                    StageInfo { name: stage.name(), inputs: stage.inputs(), keeps_time: stage.keeps_time() };
                // Nobody waits any more: the inbox is closed too.
                let _ = built.send(Ok(info));
                Worker { stage, backoff, shutdown: stop, interrupted: false }.run(inbox);
            }
            Err(reason) => drop(built.send(Err(StreamError::StageLoad(reason)))),
        };
        std::thread::Builder::new().name("stage".into()).spawn(body).map_err(StreamError::Thread)?;
        let info = tokio::select! {
            info = info => info.map_err(|_| StreamError::StageLoad("its thread ended".into()))??,
            () = shutdown.cancelled() => return Err(StreamError::Stopped("the stage was loading")),
        };
        if info.name != name {
            return Err(StreamError::StageLoad(format!("it calls itself {}, not {name}", info.name)));
        }
        Ok(Self { work, info, traces: Traces::default() })
    }

    /// With a span for each record that it is given.
    pub fn traced(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }
}

fn backoff(config: &RunnerConfig) -> Backoff {
    Backoff::new(Duration::from_millis(config.retry_initial_ms), Duration::from_millis(config.retry_max_ms))
}

fn build<E: Display>(load: impl FnOnce() -> Result<Box<dyn Stage>, E>) -> Result<Box<dyn Stage>, String> {
    match catch_unwind(AssertUnwindSafe(load)) {
        Ok(loaded) => loaded.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("it panicked while loading: {}", panic_text(&*panic))),
    }
}

struct Worker {
    stage: Box<dyn Stage>,
    backoff: Backoff,
    shutdown: CancellationToken,
    interrupted: bool,
}

impl Worker {
    fn run(mut self, mut inbox: mpsc::Receiver<Work>) {
        while let Some(work) = inbox.blocking_recv() {
            let result = self.process(&work);
            self.interrupted |= matches!(result, Err(StageFailure::Interrupted));
            // A session that is gone has dropped its interest in the batch.
            let _ = work.reply.send(Event::Stage(StageDone { batch: work.batch, result }));
        }
    }

    /// Tries until it succeeds, fails for good, or a shutdown comes.
    fn process(&mut self, work: &Work) -> Result<Vec<Outcome>, StageFailure> {
        self.backoff.reset();
        loop {
            // A batch after one that was given up would overtake it.
            if self.interrupted {
                return Err(StageFailure::Interrupted);
            }
            match self.attempt(&work.records) {
                Ok(outcomes) => return Ok(outcomes),
                Err(BatchError::Fatal(reason)) => return Err(StageFailure::Fatal(reason)),
                Err(BatchError::Transient(reason)) => self.wait(reason)?,
            }
        }
    }

    fn attempt(&mut self, records: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        let started = Instant::now();
        let outcomes =
            catch_unwind(AssertUnwindSafe(|| self.stage.process(records))).unwrap_or_else(|panic| {
                Err(BatchError::Fatal(format!("it panicked: {}", panic_text(&*panic))))
            })?;
        if outcomes.len() != records.len() {
            let (given, got) = (records.len(), outcomes.len());
            return Err(BatchError::Fatal(format!(
                "it gave {got} outcomes for {given} records: a programming error"
            )));
        }
        let service = self.stage.name();
        BatchProcessed { service, records: records.len(), took: started.elapsed() }.emit();
        Ok(outcomes)
    }

    fn wait(&mut self, reason: String) -> Result<(), StageFailure> {
        let delay = self.backoff.next();
        BatchRetried { service: self.stage.name(), tries: self.backoff.tries(), delay, reason }.emit();
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

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
