//! Reads records directly from nisshi's tables on a separate connection.
//!
//! nisshi's own fetch sums the sizes of all records from the fetch offset to the end of the
//! partition and queries the headers of each record separately. Reading a backlog therefore takes
//! quadratic time and blocks everything else. The cost of the two statements here is proportional
//! to what they return, and a reader of SQLite's write-ahead log never waits for a writer.

use std::path::Path;

use bytes::Bytes;
use libsql::{Connection, Database, Row, params};
use nisshi_sans_io::record::{self, Header, Record, deflated, inflated};
use nisshi_storage::{Error, OffsetStage, Result, Topition};

use crate::CLUSTER;

/// Maximum number of records in one response.
const FETCH_RECORDS: i64 = 2_000;

const PARTITION: &str = "select tp.id, w.low, w.high from cluster c join topic t on t.cluster = c.id \
     join topition tp on tp.topic = t.id join watermark w on w.topition = tp.id \
     where c.name = ?1 and t.name = ?2 and tp.partition = ?3";

const RECORDS: &str = "select offset_id, attributes, timestamp, k, v from record \
     where topition = ?1 and offset_id >= ?2 and offset_id < ?3 order by offset_id limit ?4";

const HEADERS: &str = "select offset_id, k, v from header \
     where topition = ?1 and offset_id >= ?2 and offset_id <= ?3 order by offset_id, ordinal";

/// A reader of the records that nisshi wrote. Clones share its connection.
#[derive(Clone)]
pub(crate) struct LogReader {
    connection: Connection,
    /// Keeps the database open.
    _database: std::sync::Arc<Database>,
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader").finish_non_exhaustive()
    }
}

/// A partition's row id and its offset bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partition {
    id: i64,
    pub low: i64,
    pub high: i64,
}

impl Partition {
    /// The partition's offsets. Without transactions, every written record is stable.
    pub fn stage(&self) -> OffsetStage {
        OffsetStage { last_stable: self.high, high_watermark: self.high, log_start: self.low }
    }
}

/// A stored record without its headers.
struct Stored {
    offset: i64,
    attributes: i16,
    timestamp: i64,
    record: record::Builder,
}

impl LogReader {
    pub async fn open(file: &Path) -> Result<Self> {
        let database = libsql::Builder::new_local(file).build().await.map_err(failed)?;
        let connection = database.connect().map_err(failed)?;
        Ok(Self { connection, _database: std::sync::Arc::new(database) })
    }

    /// Looks up a partition; None if the topic or the partition does not exist.
    pub async fn partition(&self, topition: &Topition) -> Result<Option<Partition>> {
        let params = params![CLUSTER, topition.topic(), topition.partition()];
        let mut rows = self.connection.query(PARTITION, params).await.map_err(failed)?;
        let Some(row) = rows.next().await.map_err(failed)? else { return Ok(None) };
        let bound = |index| row.get::<Option<i64>>(index).map(Option::unwrap_or_default).map_err(failed);
        Ok(Some(Partition { id: row.get(0).map_err(failed)?, low: bound(1)?, high: bound(2)? }))
    }

    /// Reads the records from `offset` on: as many as fit in `max_bytes`, but at least one if there
    /// is one.
    pub async fn fetch(
        &self,
        partition: Partition,
        offset: i64,
        max_bytes: u32,
    ) -> Result<Vec<deflated::Batch>> {
        let mut stored = self.records(partition, offset, u64::from(max_bytes)).await?;
        if let (Some(first), Some(last)) = (stored.first(), stored.last()) {
            let (first, last) = (first.offset, last.offset);
            self.add_headers(partition, first, last, &mut stored).await?;
        }
        batches(stored)
    }

    async fn records(&self, partition: Partition, offset: i64, max_bytes: u64) -> Result<Vec<Stored>> {
        let params = params![partition.id, offset, partition.high, FETCH_RECORDS];
        let mut rows = self.connection.query(RECORDS, params).await.map_err(failed)?;
        let (mut stored, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next().await.map_err(failed)? {
            let (size, record) = stored_record(&row)?;
            bytes += size as u64;
            if bytes > max_bytes && !stored.is_empty() {
                break;
            }
            stored.push(record);
        }
        Ok(stored)
    }

    async fn add_headers(
        &self,
        partition: Partition,
        first: i64,
        last: i64,
        stored: &mut [Stored],
    ) -> Result<()> {
        let params = params![partition.id, first, last];
        let mut rows = self.connection.query(HEADERS, params).await.map_err(failed)?;
        let mut at = 0;
        while let Some(row) = rows.next().await.map_err(failed)? {
            let offset: i64 = row.get(0).map_err(failed)?;
            while stored.get(at).is_some_and(|stored| stored.offset < offset) {
                at += 1;
            }
            let Some(stored) = stored.get_mut(at).filter(|stored| stored.offset == offset) else { continue };
            let record = std::mem::replace(&mut stored.record, Record::builder());
            stored.record = record.header(header(&row)?);
        }
        Ok(())
    }
}

fn stored_record(row: &Row) -> Result<(usize, Stored)> {
    let blob = |index| row.get::<Option<Vec<u8>>>(index).map_err(failed);
    let (key, value) = (blob(3)?, blob(4)?);
    let size = key.as_ref().map_or(0, Vec::len) + value.as_ref().map_or(0, Vec::len);
    let attributes = row.get::<Option<i64>>(1).map_err(failed)?.unwrap_or_default();
    let record = Record::builder().key(key.map(Bytes::from)).value(value.map(Bytes::from));
    let stored = Stored {
        offset: row.get(0).map_err(failed)?,
        attributes: i16::try_from(attributes)?,
        timestamp: row.get(2).map_err(failed)?,
        record,
    };
    Ok((size, stored))
}

fn header(row: &Row) -> Result<record::header::Builder> {
    let mut header = Header::builder();
    if let Some(key) = row.get::<Option<Vec<u8>>>(1).map_err(failed)? {
        header = header.key(Bytes::from(key));
    }
    if let Some(value) = row.get::<Option<Vec<u8>>>(2).map_err(failed)? {
        header = header.value(Bytes::from(value));
    }
    Ok(header)
}

/// Groups records into batches, one for each run of records with the same attributes.
fn batches(stored: Vec<Stored>) -> Result<Vec<deflated::Batch>> {
    let mut batches = Vec::new();
    let mut stored = stored.into_iter().peekable();
    while let Some(first) = stored.next() {
        let (base_offset, base_timestamp, attributes) = (first.offset, first.timestamp, first.attributes);
        let mut last_offset = base_offset;
        let mut batch = inflated::Batch::builder()
            .base_offset(base_offset)
            .base_timestamp(base_timestamp)
            .attributes(attributes)
            .producer_id(-1)
            .producer_epoch(-1)
            .record(first.record.offset_delta(0).timestamp_delta(0));
        while let Some(next) = stored.next_if(|next| next.attributes == attributes) {
            let delta = i32::try_from(next.offset - base_offset)?;
            let record =
                next.record.offset_delta(delta).timestamp_delta(next.timestamp.wrapping_sub(base_timestamp));
            (batch, last_offset) = (batch.record(record), next.offset);
        }
        let batch = batch.last_offset_delta(i32::try_from(last_offset - base_offset)?);
        batches.push(batch.max_timestamp_of_records().build()?.try_into()?);
    }
    Ok(batches)
}

fn failed(error: libsql::Error) -> Error {
    Error::Message(error.to_string())
}
