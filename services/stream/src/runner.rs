//! Runs a stage.
//!
//! One loop owns the state; the consumer's thread, the stage's thread and the producer feed it with
//! events. An offset is committed once everything before it in its partition is acknowledged.

mod batch;
mod delivery;
mod session;
mod stage_thread;
mod transaction_size;
mod transactions;

use std::fmt::Display;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use unprompt_schemas::topics::Topic;

use crate::config::{KafkaConfig, RunnerConfig};
use crate::consumer::ConsumerEvent;
use crate::events::{SessionRestarted, StageLoaded, TopicChanged};
use crate::flood::Flood;
use crate::health::Condition;
use crate::retry::Backoff;
use crate::signals::ServiceSignals;
use crate::topic_ids::{TopicChange, TopicIds};
use crate::{Service, Signals, Stage, StreamError, lost_offsets, topic_admin};

use delivery::Delivered;
use session::{AcrossSessions, Session, SessionEnd};
use stage_thread::{StageDone, StageThread};
use transaction_size::TransactionSize;
use transactions::Transacted;

/// The events that the loop handles.
#[derive(Debug)]
enum Event {
    Consumer(ConsumerEvent),
    Stage(StageDone),
    Delivered(Delivered),
    Transacted(Transacted),
}

impl From<ConsumerEvent> for Event {
    fn from(event: ConsumerEvent) -> Self {
        Self::Consumer(event)
    }
}

/// The totals of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunSummary {
    /// Records whose outputs are acknowledged.
    pub records_in: u64,
    /// Records written, without dead letters.
    pub records_out: u64,
    pub dead_letters: u64,
    pub batches: u64,
}

/// Runs a stage until `shutdown`: exactly once or at least once, as configured, in order
/// within each partition.
///
/// `load` builds the stage on a thread of its own. Missing topics are created, also those that are
/// deleted meanwhile; a new input is read from its first record. If the broker is unavailable, the
/// run waits for it.
///
/// # Errors
///
/// [`StreamError::StageLoad`] and [`StreamError::StageFatal`] from the stage,
/// [`StreamError::Client`] for settings that librdkafka refuses, [`StreamError::TopicNotCreated`]
/// for a topic that is missing and may not be created, [`StreamError::NoTransactions`] if
/// transactions are required and the broker has none, [`StreamError::Fenced`] if another process
/// uses the same instance name, [`StreamError::DeadLetterFlood`] if too many records are rejected,
/// [`StreamError::Consumer`] and [`StreamError::Delivery`] for errors that no retry can fix, such
/// as a missing permission.
pub async fn run_stage<E: Display>(
    kafka: &KafkaConfig,
    runner: RunnerConfig,
    service: Service,
    load: impl FnOnce() -> Result<Box<dyn Stage>, E> + Send + 'static,
    shutdown: CancellationToken,
    signals: impl Into<Signals>,
) -> Result<RunSummary, StreamError> {
    // The prefix tells two runs of a service in one process apart.
    let signals = signals.into().of(&format!("{}{}", kafka.prefix, service.name));
    let ended = run(kafka, &runner, service, load, &shutdown, &signals).await;
    signals.traces.finish().await;
    StageLoaded { service: service.name, loaded: false }.emit();
    match ended {
        Err(StreamError::Stopped(_)) => Ok(RunSummary::default()),
        Err(error) => {
            signals.health.fail(&error);
            Err(error)
        }
        Ok(summary) => Ok(summary),
    }
}

async fn run<E: Display>(
    kafka: &KafkaConfig,
    runner: &RunnerConfig,
    service: Service,
    load: impl FnOnce() -> Result<Box<dyn Stage>, E> + Send + 'static,
    shutdown: &CancellationToken,
    signals: &ServiceSignals,
) -> Result<RunSummary, StreamError> {
    let mut backoff = runner.backoff();
    let health = &signals.health;
    let exactly_once = runner.delivery.is_exactly_once(kafka.profile);
    let topics = async {
        ensure_topics_patiently(kafka, &mut backoff, shutdown).await?;
        let check = || lost_offsets::check(kafka, &service, runner.lost_offsets, exactly_once);
        patiently(&mut backoff, shutdown, check).await?;
        health.set(Condition::Topics, true);
        Ok::<(), StreamError>(())
    };
    let stage = async {
        let stage = StageThread::start(service, load, runner, shutdown).await?.traced(signals.traces.clone());
        health.set(Condition::Stage, true);
        StageLoaded { service: stage.service.name, loaded: true }.emit();
        Ok(stage)
    };
    let ((), stage) = tokio::try_join!(topics, stage)?;
    let mut summary = RunSummary::default();
    let (mut flood, mut size) = (Flood::new(runner), TransactionSize::new(runner));
    let ids = TopicIds::new(&kafka.prefix, topics_of(&service));
    // All sessions of a run share the id, so that each settles what the one before it left open.
    let transactional_id = exactly_once.then(|| kafka.transactional_id(service.name));
    loop {
        let before = summary.records_in;
        let starting = {
            let across = AcrossSessions { flood: &mut flood, size: &mut size, ids: &ids };
            Session::start(kafka, runner, &stage, health, transactional_id.clone(), across)
        };
        let session = tokio::select! {
            session = starting => session?,
            () = shutdown.cancelled() => return Ok(summary),
        };
        let end = session.run(shutdown, &mut summary).await;
        health.set(Condition::Partitions, false);
        let reason = match end {
            SessionEnd::Stopped => return Ok(summary),
            SessionEnd::Failed(error) => return Err(error),
            SessionEnd::Restart(reason) => reason,
            SessionEnd::TopicsChanged(changes) => {
                report_changes(kafka, &service, &changes);
                ids.renew(&changes);
                match ensure_topics_patiently(kafka, &mut backoff, shutdown).await {
                    Err(StreamError::Stopped(_)) => return Ok(summary),
                    ensured => ensured?,
                }
                TOPICS_DELETED.to_owned()
            }
        };
        if summary.records_in > before {
            backoff.reset();
        }
        SessionRestarted { service: service.name, reason }.emit();
        if pause(backoff.next(), shutdown).await.is_err() {
            return Ok(summary);
        }
    }
}

const TOPICS_DELETED: &str = "topics were deleted, and are there again";

/// Returns all topics that a service needs.
fn topics_of(service: &Service) -> impl Iterator<Item = Topic> {
    [service.inputs, service.outputs, &[Topic::DeadLetters]].into_iter().flatten().copied()
}

fn report_changes(kafka: &KafkaConfig, service: &Service, changes: &[TopicChange]) {
    for TopicChange { topic, was, now } in changes {
        let topic = kafka.prefix.name(*topic);
        TopicChanged { service: service.name, topic, was: was.as_ref(), now: now.as_ref() }.emit();
    }
}

/// Creates the missing topics. Waits for an unavailable broker, but not for one that refuses.
async fn ensure_topics_patiently(
    kafka: &KafkaConfig,
    backoff: &mut Backoff,
    shutdown: &CancellationToken,
) -> Result<(), StreamError> {
    patiently(backoff, shutdown, || topic_admin::ensure_topics(kafka)).await
}

/// Asks Kafka until it answers.
async fn patiently<Asking: Future<Output = Result<(), StreamError>>>(
    backoff: &mut Backoff,
    shutdown: &CancellationToken,
    ask: impl Fn() -> Asking,
) -> Result<(), StreamError> {
    loop {
        let answer = tokio::select! {
            answer = ask() => answer,
            () = shutdown.cancelled() => return Err(StreamError::Stopped("waiting for Kafka")),
        };
        match answer {
            Err(StreamError::Unreachable { brokers, reason }) => {
                tracing::warn!(brokers, reason, "kafka does not answer; waiting for it");
                pause(backoff.next(), shutdown).await?;
            }
            answer => {
                backoff.reset();
                return answer;
            }
        }
    }
}

async fn pause(delay: Duration, shutdown: &CancellationToken) -> Result<(), StreamError> {
    tokio::select! {
        () = tokio::time::sleep(delay) => Ok(()),
        () = shutdown.cancelled() => Err(StreamError::Stopped("waiting to try again")),
    }
}
