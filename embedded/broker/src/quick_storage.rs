//! nisshi's storage with faster reads: nisshi writes, [`LogReader`] reads, and the ends of
//! partitions are cached in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use nisshi_sans_io::create_topics_request::CreatableTopic;
use nisshi_sans_io::delete_groups_response::DeletableGroupResult;
use nisshi_sans_io::delete_records_request::DeleteRecordsTopic;
use nisshi_sans_io::delete_records_response::DeleteRecordsTopicResult;
use nisshi_sans_io::describe_cluster_response::DescribeClusterBroker;
use nisshi_sans_io::describe_configs_response::DescribeConfigsResult;
use nisshi_sans_io::describe_topic_partitions_response::DescribeTopicPartitionsResponseTopic;
use nisshi_sans_io::fetch_response::AbortedTransaction;
use nisshi_sans_io::incremental_alter_configs_request::AlterConfigsResource;
use nisshi_sans_io::incremental_alter_configs_response::AlterConfigsResourceResponse;
use nisshi_sans_io::record::{deflated, inflated};
use nisshi_sans_io::txn_offset_commit_response::TxnOffsetCommitResponseTopic;
use nisshi_sans_io::{ConfigResource, ErrorCode, IsolationLevel, ListOffset, ScramMechanism};
use nisshi_storage::{
    ArcDynStorage, BrokerRegistrationRequest, Error, GroupDetail, ListOffsetResponse, MetadataResponse,
    NamedGroupDetail, OffsetCommitRequest, OffsetStage, ProducerIdResponse, Result, ScramCredential, Storage,
    TopicId, Topition, TxnAddPartitionsRequest, TxnAddPartitionsResponse, TxnOffsetCommitRequest,
    UpdateError, Version,
};
use tokio::sync::watch;
use url::Url;
use uuid::Uuid;

use crate::log_reader::{LogReader, Partition};
use crate::wal_sync::WalSync;
use crate::watermarks::Watermarks;

/// nisshi's storage with faster reads. Clones share one storage.
#[derive(Clone, Debug)]
pub(crate) struct QuickStorage {
    inner: ArcDynStorage,
    log: LogReader,
    marks: Arc<Watermarks>,
    wal: WalSync,
}

impl QuickStorage {
    pub fn new(inner: ArcDynStorage, log: LogReader, wal: WalSync) -> Self {
        Self { inner, log, marks: Arc::new(Watermarks::new()), wal }
    }

    /// Waits until the log cannot be synced.
    pub async fn sync_failed(&self) {
        self.wal.failed().await;
    }

    /// Waits until what was written is on the disk.
    async fn durable(&self) -> Result<()> {
        self.wal.sync().await.map_err(|error| {
            tracing::error!(%error, "the broker's log cannot be synced; records are not acknowledged");
            Error::Api(ErrorCode::KafkaStorageError)
        })
    }

    /// Returns whether there is a record to read at `offset`. Caches the end of the partition.
    pub async fn has(&self, topition: &Topition, offset: i64) -> Result<bool> {
        if let Some(has) = self.marks.has(topition, offset) {
            return Ok(has);
        }
        let partition = self.partition(topition).await?;
        self.marks.know(topition, partition.high);
        // For an offset below the beginning this is true: the fetch then returns an error at once.
        Ok(offset < partition.high)
    }

    /// Returns a receiver that is notified when any partition grows.
    pub fn listen(&self) -> watch::Receiver<u64> {
        self.marks.listen()
    }

    async fn partition(&self, topition: &Topition) -> Result<Partition> {
        let found = self.log.partition(topition).await?;
        found.ok_or(Error::Api(ErrorCode::UnknownTopicOrPartition))
    }
}

/// Tells a producer to try again when it is the storage that fails, such as a disk without room:
/// by nisshi's own answer, an unknown error, it would give up.
fn not_stored(error: Error) -> Error {
    match error {
        Error::Api(_) | Error::SansIo(_) | Error::MessageTooLarge { .. } => error,
        error => {
            tracing::error!(%error, "records cannot be stored; producers try again: check that the disk has room");
            Error::Api(ErrorCode::KafkaStorageError)
        }
    }
}

/// The most headers of a record. The storage writes a row for each, and nothing else meanwhile.
const RECORD_MAX_HEADERS: usize = 1_000;
/// The most headers of a batch, besides [`RECORD_MEAN_HEADERS`] for each record.
const BATCH_MAX_HEADERS: usize = 10_000;
/// A batch of many records may have this many headers for each. The services copy fewer headers to
/// their outputs, so that no batch of theirs is refused.
const RECORD_MEAN_HEADERS: usize = 128;

/// Refuses a batch whose headers would hold up the broker.
fn check_headers(batch: &deflated::Batch) -> Result<()> {
    let inflated = inflated::Batch::try_from(batch)?;
    let counts = inflated.records.iter().map(|record| record.headers.len());
    let (most, all) = counts.fold((0, 0), |(most, all), count| (count.max(most), all + count));
    let max = BATCH_MAX_HEADERS + RECORD_MEAN_HEADERS * inflated.records.len();
    if most > RECORD_MAX_HEADERS || all > max {
        tracing::warn!(
            most,
            all,
            "refused a batch: a record may have {RECORD_MAX_HEADERS} headers, and this batch {max}"
        );
        return Err(Error::Api(ErrorCode::InvalidRecord));
    }
    Ok(())
}

/// Implements `Storage`: the `own` methods as given, the `inner` methods by calling nisshi.
macro_rules! delegate {
    (
        own { $($own:tt)* }
        inner { $($name:ident($($arg:ident: $kind:ty),* $(,)?) -> $output:ty)* }
    ) => {
        #[async_trait]
        impl Storage for QuickStorage {
            $($own)*

            $(async fn $name(&self $(, $arg: $kind)*) -> $output {
                self.inner.$name($($arg),*).await
            })*
        }
    };
}

delegate! {
    own {
        async fn produce(
            &self,
            transaction_id: Option<&str>,
            topition: &Topition,
            batch: deflated::Batch,
        ) -> Result<i64> {
            check_headers(&batch)?;
            let records = i64::from(batch.last_offset_delta) + 1;
            let base = self.inner.produce(transaction_id, topition, batch).await.map_err(not_stored)?;
            self.durable().await?;
            self.marks.grow(topition, base + records);
            Ok(base)
        }

        async fn fetch(
            &self,
            topition: &'_ Topition,
            offset: i64,
            _min_bytes: u32,
            max_bytes: u32,
            _isolation: IsolationLevel,
            _max_wait: Duration,
        ) -> Result<Vec<deflated::Batch>> {
            let partition = self.partition(topition).await?;
            let batches = self.log.fetch(partition, offset, max_bytes).await?;
            if batches.is_empty() && offset < partition.high {
                self.marks.found_empty(topition, offset, partition.high);
            }
            Ok(batches)
        }

        async fn offset_stage(&self, topition: &Topition) -> Result<OffsetStage> {
            self.partition(topition).await.map(|partition| partition.stage())
        }

        /// Answers for the ends of partitions by itself. nisshi reads a timestamp for them, too,
        /// and fails for ever after a record of before 1970.
        async fn list_offsets(
            &self,
            isolation_level: IsolationLevel,
            offsets: &[(Topition, ListOffset)],
        ) -> Result<Vec<(Topition, ListOffsetResponse)>> {
            let mut answers = Vec::with_capacity(offsets.len());
            for (topition, wanted) in offsets {
                let offset = match (wanted, self.log.partition(topition).await?) {
                    (ListOffset::Timestamp(_), _) => {
                        let asked = [(topition.clone(), *wanted)];
                        answers.extend(self.inner.list_offsets(isolation_level, &asked).await?);
                        continue;
                    }
                    (_, None) => {
                        let error_code = ErrorCode::UnknownTopicOrPartition;
                        answers.push((topition.clone(), ListOffsetResponse { error_code, ..Default::default() }));
                        continue;
                    }
                    (ListOffset::Earliest, Some(partition)) => partition.low,
                    (ListOffset::Latest, Some(partition)) => partition.high,
                };
                answers.push((topition.clone(), ListOffsetResponse { offset: Some(offset), ..Default::default() }));
            }
            Ok(answers)
        }

        async fn create_topic(&self, topic: CreatableTopic, validate_only: bool) -> Result<Uuid> {
            let created = self.inner.create_topic(topic, validate_only).await;
            self.marks.forget();
            self.durable().await?;
            created
        }

        async fn delete_topic(&self, topic: &TopicId) -> Result<ErrorCode> {
            let deleted = self.inner.delete_topic(topic).await;
            self.marks.forget();
            self.durable().await?;
            deleted
        }

        async fn offset_commit(
            &self,
            group_id: &str,
            retention_time_ms: Option<Duration>,
            offsets: &[(Topition, OffsetCommitRequest)],
        ) -> Result<Vec<(Topition, ErrorCode)>> {
            let committed = self.inner.offset_commit(group_id, retention_time_ms, offsets).await?;
            self.durable().await?;
            Ok(committed)
        }

        async fn delete_records(&self, topics: &[DeleteRecordsTopic]) -> Result<Vec<DeleteRecordsTopicResult>> {
            self.inner.delete_records(topics).await
        }
    }
    inner {
        register_broker(broker_registration: BrokerRegistrationRequest) -> Result<()>
        incremental_alter_resource(resource: AlterConfigsResource) -> Result<AlterConfigsResourceResponse>
        brokers() -> Result<Vec<DescribeClusterBroker>>
        offset_fetch(
            group_id: Option<&str>,
            topics: &[Topition],
            require_stable: Option<bool>,
        ) -> Result<BTreeMap<Topition, i64>>
        committed_offset_topitions(group_id: &str) -> Result<BTreeMap<Topition, i64>>
        metadata(topics: Option<&[TopicId]>) -> Result<MetadataResponse>
        upsert_user_scram_credential(
            user: &str,
            mechanism: ScramMechanism,
            credential: ScramCredential,
        ) -> Result<()>
        delete_user_scram_credential(user: &str, mechanism: ScramMechanism) -> Result<()>
        user_scram_credential(user: &str, mechanism: ScramMechanism) -> Result<Option<ScramCredential>>
        describe_config(
            name: &str,
            resource: ConfigResource,
            keys: Option<&[String]>,
        ) -> Result<DescribeConfigsResult>
        list_groups() -> Result<Vec<NamedGroupDetail>>
        delete_groups(group_ids: Option<&[String]>) -> Result<Vec<DeletableGroupResult>>
        describe_groups(
            group_ids: Option<&[String]>,
            include_authorized_operations: bool,
        ) -> Result<Vec<NamedGroupDetail>>
        describe_topic_partitions(
            topics: Option<&[TopicId]>,
            partition_limit: i32,
            cursor: Option<Topition>,
        ) -> Result<Vec<DescribeTopicPartitionsResponseTopic>>
        group_with_version(group_id: &str) -> Result<Option<(GroupDetail, Version)>>
        update_group(
            group_id: &str,
            detail: GroupDetail,
            version: Option<Version>,
        ) -> Result<Version, UpdateError<GroupDetail>>
        init_producer(
            transaction_id: Option<&str>,
            transaction_timeout_ms: i32,
            producer_id: Option<i64>,
            producer_epoch: Option<i16>,
        ) -> Result<ProducerIdResponse>
        txn_add_offsets(
            transaction_id: &str,
            producer_id: i64,
            producer_epoch: i16,
            group_id: &str,
        ) -> Result<ErrorCode>
        txn_add_partitions(partitions: TxnAddPartitionsRequest) -> Result<TxnAddPartitionsResponse>
        txn_offset_commit(offsets: TxnOffsetCommitRequest) -> Result<Vec<TxnOffsetCommitResponseTopic>>
        txn_end(
            transaction_id: &str,
            producer_id: i64,
            producer_epoch: i16,
            committed: bool,
        ) -> Result<ErrorCode>
        maintain(now: SystemTime) -> Result<()>
        maintain_transactions(now: SystemTime) -> Result<()>
        aborted_transactions(
            topition: &Topition,
            offset: i64,
            last_stable_offset: i64,
        ) -> Result<Vec<AbortedTransaction>>
        cluster_id() -> Result<String>
        node() -> Result<i32>
        advertised_listener() -> Result<Url>
        ping() -> Result<()>
    }
}
