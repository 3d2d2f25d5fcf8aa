//! Follows a compacted topic as a table: all its records from the beginning, then every change.
//!
//! If reading fails, it starts again from the beginning: a table that silently stops updating is
//! worse than one that is read twice. Records that were applied are not applied again, unless the
//! topic was deleted and recreated.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use unprompt_schemas::topics::Topic;

use crate::config::KafkaConfig;
use crate::reader::{Reader, Start};
use crate::retry::Backoff;
use crate::{InputRecord, StreamError, topic_admin};

/// Delays between attempts to open the topic: the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

#[derive(Clone, Debug)]
enum TableState {
    Behind,
    CaughtUp,
    Ended,
}

/// Hands every record of a topic to a closure, in order within a partition.
#[derive(Debug)]
pub struct TableReader {
    state: watch::Receiver<TableState>,
    stop: CancellationToken,
}

impl TableReader {
    /// Reads the topic from its first record, and follows it until `stop` or until this is dropped.
    ///
    /// A record without a value deletes its key. If the broker is unreachable or the topic does not
    /// exist yet, the reader waits. If reading fails, the topic is reopened and applied records are
    /// skipped, unless the topic was replaced by one of the same name: its id differs, or it ends
    /// before the last applied record.
    ///
    /// # Errors
    ///
    /// [`StreamError::Client`] for settings that librdkafka refuses. If the topic cannot be opened
    /// at first, for example because the credentials are refused, the log says why and
    /// [`TableReader::caught_up`] fails.
    pub fn start(
        kafka: &KafkaConfig,
        topic: Topic,
        stop: CancellationToken,
        apply: impl FnMut(InputRecord) + Send + 'static,
    ) -> Result<Self, StreamError> {
        drop(topic_admin::probe(kafka)?);
        let (tell, state) = watch::channel(TableState::Behind);
        let stop = stop.child_token();
        let (kafka, stopped) = (kafka.clone(), stop.clone());
        tokio::spawn(async move {
            // If `apply` panics, dropping the sender reports it.
            let follow = follow(topic, || open(&kafka, topic), apply, &tell);
            let followed = stopped.run_until_cancelled(follow).await;
            if let Some(Err(error)) = followed {
                tracing::error!(topic = topic.base_name(), %error, "the table is no longer followed");
            }
            tell.send_replace(TableState::Ended);
        });
        Ok(Self { state, stop })
    }

    /// Returns whether everything that was there at the start has been applied.
    pub fn is_caught_up(&self) -> bool {
        matches!(*self.state.borrow(), TableState::CaughtUp)
    }

    /// Waits until the table is no longer followed: it was stopped, could not be opened at first,
    /// or the closure has panicked.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut state = self.state.clone();
        async move {
            // An error means that the task has ended.
            let _ = state.wait_for(|state| matches!(state, TableState::Ended)).await;
        }
    }

    /// Waits until everything that was there at the start has been applied.
    ///
    /// # Errors
    ///
    /// [`StreamError::Stopped`] if reading ended before that.
    pub async fn caught_up(&self) -> Result<(), StreamError> {
        let stopped = StreamError::Stopped("catching up with a table");
        match self.state.clone().wait_for(|state| !matches!(state, TableState::Behind)).await.as_deref() {
            Ok(TableState::CaughtUp) => Ok(()),
            _ => Err(stopped),
        }
    }
}

impl Drop for TableReader {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Follows the topic; returns only if it cannot be opened at first.
async fn follow<O: Future<Output = Result<Reader, StreamError>>>(
    topic: Topic,
    mut open: impl FnMut() -> O,
    mut apply: impl FnMut(InputRecord),
    tell: &watch::Sender<TableState>,
) -> Result<(), StreamError> {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    // The offset after the last applied record, by partition, and the id of the topic.
    let (mut applied, mut id): (BTreeMap<i32, i64>, _) = (BTreeMap::new(), None);
    let mut opened = Ok(open().await?);
    loop {
        let error = match opened {
            Ok(reader) => {
                let is_another = matches!((&id, &reader.id), (Some(was), Some(now)) if was != now);
                id = reader.id.clone().or(id);
                if is_another {
                    applied.clear();
                }
                // Without ids, an end before the last applied record means a new topic.
                applied.retain(|partition, next| reader.ends.get(partition).is_some_and(|end| end >= next));
                let apply = |record: InputRecord| {
                    backoff.reset();
                    let next = applied.entry(record.partition).or_insert(0);
                    if record.offset >= *next {
                        *next = record.offset + 1;
                        apply(record);
                    }
                };
                follow_one(reader, apply, tell).await
            }
            Err(error) => error,
        };
        tracing::warn!(topic = topic.base_name(), %error, "reopening the table");
        tell.send_replace(TableState::Behind);
        tokio::time::sleep(backoff.next()).await;
        opened = open().await;
    }
}

/// Follows until reading fails, and returns the error.
async fn follow_one(
    mut reader: Reader,
    mut apply: impl FnMut(InputRecord),
    tell: &watch::Sender<TableState>,
) -> StreamError {
    loop {
        if reader.is_caught_up() {
            tell.send_if_modified(|state| {
                !matches!(std::mem::replace(state, TableState::CaughtUp), TableState::CaughtUp)
            });
        }
        match reader.next().await {
            Ok(Some(record)) => apply(record),
            Ok(None) => {}
            Err(error) => return error,
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::ready;
    use std::sync::Arc;

    use rdkafka::error::{KafkaError, RDKafkaErrorCode};
    use tokio::sync::{Semaphore, mpsc};

    use super::*;
    use crate::reader::ReaderEvent;

    fn unauthorized() -> ReaderEvent {
        let source = KafkaError::Global(RDKafkaErrorCode::TopicAuthorizationFailed);
        ReaderEvent::Failed(StreamError::Read { topic: Topic::Heads.base_name().to_owned(), source })
    }

    /// Makes readers that send the given events and then wait forever.
    fn readers(told: [ReaderEvent; 2]) -> (Vec<mpsc::Sender<ReaderEvent>>, Vec<Reader>) {
        let reader = |event| {
            let (tell, events) = mpsc::channel(1);
            tell.try_send(event).unwrap();
            (tell, Reader::of(events, 1))
        };
        told.map(reader).into_iter().unzip()
    }

    #[tokio::test]
    async fn a_table_is_reopened_after_a_read_error() {
        let (_open, readers) = readers([unauthorized(), ReaderEvent::CaughtUp]);
        let refused = StreamError::Stopped("opening a topic");
        let [failing, following] = <[Reader; 2]>::try_from(readers).unwrap();
        let mut opened = [Ok(failing), Err(refused), Ok(following)].into_iter();
        let (tell, mut state) = watch::channel(TableState::CaughtUp);
        let open = || ready(opened.next().expect("it is opened three times"));
        tokio::select! {
            // Polled in this order, so that no state is missed.
            biased;
            ended = follow(Topic::Heads, open, drop, &tell) => panic!("it ended: {ended:?}"),
            () = async {
                // Behind again after the failure, then caught up as the last reader reports.
                state.wait_for(|state| matches!(state, TableState::Behind)).await.unwrap();
                state.wait_for(|state| matches!(state, TableState::CaughtUp)).await.unwrap();
            } => {}
        }
    }

    #[tokio::test]
    async fn a_reopened_table_skips_applied_records_unless_the_topic_is_new() {
        /// A reader of a topic that ends at `end`; it gives the records from the first, and fails.
        fn reader(end: i64) -> (mpsc::Sender<ReaderEvent>, Reader) {
            let (tell, events) = mpsc::channel(8);
            for offset in 0..end {
                let record = InputRecord { offset, ..InputRecord::new(Topic::Heads) };
                let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
                tell.try_send(ReaderEvent::Record(record, room)).unwrap();
            }
            tell.try_send(unauthorized()).unwrap();
            let mut reader = Reader::of(events, 1);
            reader.ends.insert(0, end);
            (tell, reader)
        }
        let (_senders, readers): (Vec<_>, Vec<_>) = [2, 3, 1].map(reader).into_iter().unzip();
        let mut opened = readers.into_iter();
        let (done, mut is_done) = mpsc::channel(1);
        let open = || {
            let next = opened.next();
            if next.is_none() {
                done.try_send(()).unwrap();
            }
            ready(next.ok_or(StreamError::Stopped("opening a topic")))
        };
        let (applied, (tell, _state)) = (RefCell::new(Vec::new()), watch::channel(TableState::Behind));
        tokio::select! {
            ended = follow(Topic::Heads, open, |record| applied.borrow_mut().push(record.offset), &tell) => {
                panic!("it ended: {ended:?}")
            }
            done = is_done.recv() => done.unwrap(),
        }
        assert_eq!(*applied.borrow(), [0, 1, 2, 0]);
    }

    #[tokio::test]
    async fn a_table_whose_first_open_is_refused_ends() {
        let refused = || StreamError::Credentials { brokers: "a:1".into(), reason: "no such user".into() };
        let (tell, _state) = watch::channel(TableState::Behind);
        let ended = follow(Topic::Heads, || ready(Err(refused())), drop, &tell).await;
        assert!(matches!(ended, Err(StreamError::Credentials { .. })), "{ended:?}");
    }
}
