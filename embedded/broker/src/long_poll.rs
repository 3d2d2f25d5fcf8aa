//! The long poll: a fetch waits at the broker only until there is a record to read.
//!
//! nisshi's own wait sleeps for half of the time that the client allows, even if records arrive,
//! and then queries the database.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;

use nisshi_sans_io::fetch_request::FetchTopic;
use nisshi_sans_io::{FetchRequest, FetchResponse, RequestInput};
use nisshi_storage::{Error, Storage, TopicId, Topition};
use rama::Service;
use tokio::time::Instant;

use crate::quick_storage::QuickStorage;

/// The time that nisshi gets for reading once there is a record.
const READ_BUDGET_MS: i32 = 2_000;
/// The time that nisshi gets if there is no record: enough for one query and an empty response.
const LOOK_BUDGET_MS: i32 = 1;

/// A service that waits for a record before it calls nisshi's fetch service.
#[derive(Debug)]
pub(crate) struct LongPoll<S> {
    inner: S,
    storage: QuickStorage,
    /// Topic names by topic id. Newer clients send the id instead of the name.
    names: Mutex<HashMap<[u8; 16], String>>,
}

impl<S> LongPoll<S> {
    pub fn new(inner: S, storage: QuickStorage) -> Self {
        Self { inner, storage, names: Mutex::default() }
    }

    /// Returns whether the fetch can be answered now, with records or with an error.
    async fn is_answerable(&self, topics: &[FetchTopic]) -> bool {
        for topic in topics {
            let Some(name) = self.name(topic).await else { return true };
            for partition in topic.partitions.iter().flatten() {
                let topition = Topition::new(name.as_str(), partition.partition);
                if self.storage.has(&topition, partition.fetch_offset).await.unwrap_or(true) {
                    return true;
                }
            }
        }
        false
    }

    async fn name(&self, topic: &FetchTopic) -> Option<String> {
        if topic.topic.is_some() {
            return topic.topic.clone();
        }
        let id = topic.topic_id?;
        let known = self.names.lock().get(&id).cloned();
        if known.is_some() {
            return known;
        }
        let metadata = self.storage.metadata(Some(&[TopicId::from(topic)])).await.ok()?;
        let name = metadata.topics().first()?.name.clone()?;
        self.names.lock().insert(id, name.clone());
        Some(name)
    }

    /// Waits until the fetch can be answered (true) or `deadline` has passed (false).
    async fn wait(&self, topics: &[FetchTopic], deadline: Instant) -> bool {
        let mut bell = self.storage.listen();
        loop {
            bell.mark_unchanged();
            if self.is_answerable(topics).await {
                return true;
            }
            match tokio::time::timeout_at(deadline, bell.changed()).await {
                Ok(Ok(())) => {}
                _ => return false,
            }
        }
    }
}

impl<S> Service<RequestInput<FetchRequest>> for LongPoll<S>
where
    S: Service<RequestInput<FetchRequest>, Output = FetchResponse, Error = Error>,
{
    type Output = FetchResponse;
    type Error = Error;

    async fn serve(&self, mut input: RequestInput<FetchRequest>) -> Result<FetchResponse, Error> {
        if let Ok(max_wait_ms) = u64::try_from(input.request.max_wait_ms) {
            let deadline = Instant::now() + Duration::from_millis(max_wait_ms);
            let topics = input.request.topics.take().unwrap_or_default();
            let found = self.wait(&topics, deadline).await;
            input.request.topics = Some(topics);
            input.request.max_wait_ms = if found { READ_BUDGET_MS } else { LOOK_BUDGET_MS };
        }
        self.inner.serve(input).await
    }
}
