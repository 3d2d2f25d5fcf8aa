//! Following a compacted topic as a table: everything from its beginning, then every change.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use unprompt_schemas::topics::Topic;

use crate::config::KafkaConfig;
use crate::reader::{Reader, Start};
use crate::retry::Backoff;
use crate::{InputRecord, StreamError, topics};

/// Delays between attempts to open the topic, from the first to the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

#[derive(Clone, Debug)]
enum State {
    Behind,
    CaughtUp,
    Ended,
}

/// Hands every record of a topic to a closure, in order within a partition.
#[derive(Debug)]
pub struct TableReader {
    state: watch::Receiver<State>,
    stop: CancellationToken,
}

impl TableReader {
    /// Begins with the topic's first record, and follows it until `stop` or until this is dropped. A record without
    /// a value deletes its key. A broker or topic that is not there yet is waited for.
    ///
    /// # Errors
    ///
    /// [`StreamError::Client`] for settings that librdkafka refuses. What fails later is in the log, and
    /// [`TableReader::caught_up`] fails.
    pub fn start(
        kafka: &KafkaConfig,
        topic: Topic,
        stop: CancellationToken,
        apply: impl FnMut(InputRecord) + Send + 'static,
    ) -> Result<Self, StreamError> {
        drop(topics::probe(kafka)?);
        let (tell, state) = watch::channel(State::Behind);
        let stop = stop.child_token();
        let (kafka, stopped) = (kafka.clone(), stop.clone());
        tokio::spawn(async move {
            let followed = stopped.run_until_cancelled(follow(&kafka, topic, apply, &tell)).await;
            if let Some(Err(error)) = followed {
                tracing::error!(topic = topic.base_name(), %error, "the table is no longer followed");
            }
            tell.send_replace(State::Ended);
        });
        Ok(Self { state, stop })
    }

    /// Whether all that was there at the start has been applied.
    pub fn is_caught_up(&self) -> bool {
        matches!(*self.state.borrow(), State::CaughtUp)
    }

    /// Waits until all that was there at the start has been applied.
    ///
    /// # Errors
    ///
    /// [`StreamError::Stopped`] where reading ended before that.
    pub async fn caught_up(&self) -> Result<(), StreamError> {
        let stopped = StreamError::Stopped("catching up with a table");
        match self.state.clone().wait_for(|state| !matches!(state, State::Behind)).await.as_deref() {
            Ok(State::CaughtUp) => Ok(()),
            _ => Err(stopped),
        }
    }
}

impl Drop for TableReader {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn follow(
    kafka: &KafkaConfig,
    topic: Topic,
    mut apply: impl FnMut(InputRecord),
    tell: &watch::Sender<State>,
) -> Result<(), StreamError> {
    let mut reader = open(kafka, topic).await?;
    loop {
        if reader.is_caught_up() {
            tell.send_if_modified(|state| {
                !matches!(std::mem::replace(state, State::CaughtUp), State::CaughtUp)
            });
        }
        if let Some(record) = reader.next().await? {
            apply(record);
        }
    }
}

async fn open(kafka: &KafkaConfig, topic: Topic) -> Result<Reader, StreamError> {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        match Reader::start(kafka, &[topic], Start::Beginning).await {
            Err(error @ (StreamError::Unreachable { .. } | StreamError::TopicMissing { .. })) => {
                tracing::warn!(topic = topic.base_name(), %error, "waiting to follow the table");
                tokio::time::sleep(backoff.next()).await;
            }
            opened => return opened,
        }
    }
}
