//! Measures recall and latency: prompts of the collection are queries for their neighbours, once
//! with exact search and once for each ef.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use qdrant_client::qdrant::{self, QueryPoints, Sample};
use uuid::Uuid;

use super::PromptIndex;
use crate::{IndexError, PromptPoint, Query, Space, payload};

/// The parameters of a recall measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecallOptions {
    pub space: Space,
    /// The number of prompts used as queries.
    pub queries: usize,
    /// The number of neighbours to request.
    pub k: usize,
    /// The sizes of HNSW's candidate list to try; `None` is the profile's.
    pub efs: Vec<Option<u64>>,
}

/// The measurements at one ef.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct RecallAt {
    /// `None` is the profile's.
    pub ef: Option<u64>,
    /// The fraction of the exact k neighbours that was found, 0 to 1.
    pub recall: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Sequential queries from one client.
    pub queries_per_s: f64,
}

impl PromptIndex {
    /// Measures recall@k against exact search. The queries are random prompts of the collection,
    /// each excluded from its own results. `asked` is called after each query.
    ///
    /// # Errors
    /// [`IndexError::InvalidQuery`] if the collection has fewer than two prompts, or k, the number
    /// of queries or the list of ef is zero or empty.
    pub async fn recall(
        &self,
        options: &RecallOptions,
        mut asked: impl FnMut(),
    ) -> Result<Vec<RecallAt>, IndexError> {
        let refuse = |reason: &str| Err(IndexError::InvalidQuery { reason: reason.into() });
        if options.k == 0 || options.queries == 0 || options.efs.is_empty() {
            return refuse("k, the number of queries and the list of ef must not be zero or empty");
        }
        let sample = self.sample(options.space, options.queries).await?;
        if sample.len() < 2 {
            return refuse("the collection is empty, or holds one prompt; there are no neighbours to find");
        }
        let mut truth = Vec::with_capacity(sample.len());
        for point in &sample {
            truth.push(self.neighbours(point, options, None, true).await?);
            asked();
        }
        let mut measured = Vec::with_capacity(options.efs.len());
        for ef in &options.efs {
            measured.push(self.recall_at(*ef, &sample, &truth, options, &mut asked).await?);
        }
        Ok(measured)
    }

    async fn recall_at(
        &self,
        ef: Option<u64>,
        sample: &[PromptPoint],
        truth: &[HashSet<Uuid>],
        options: &RecallOptions,
        asked: &mut impl FnMut(),
    ) -> Result<RecallAt, IndexError> {
        let (mut found, mut expected, mut times) = (0, 0, Vec::with_capacity(sample.len()));
        for (point, truth) in sample.iter().zip(truth) {
            let began = Instant::now();
            let near = self.neighbours(point, options, ef, false).await?;
            times.push(began.elapsed());
            found += truth.intersection(&near).count();
            expected += truth.len();
            asked();
        }
        let seconds: f64 = times.iter().map(Duration::as_secs_f64).sum();
        times.sort_unstable();
        Ok(RecallAt {
            ef,
            recall: found as f64 / expected.max(1) as f64,
            p50_ms: percentile_ms(&times, 0.5),
            p99_ms: percentile_ms(&times, 0.99),
            queries_per_s: times.len() as f64 / seconds,
        })
    }

    async fn neighbours(
        &self,
        point: &PromptPoint,
        options: &RecallOptions,
        ef: Option<u64>,
        exact: bool,
    ) -> Result<HashSet<Uuid>, IndexError> {
        // One more, since the prompt finds itself; excluding it by a filter would change the walk
        // through the graph.
        let mut query =
            Query::new(options.space, point.vector(options.space).to_vec(), options.k + 1).exact(exact);
        query.ef = ef;
        let hits = self.search(&query).await?;
        let others = hits.into_iter().map(|hit| hit.prompt_id).filter(|id| *id != point.prompt_id);
        Ok(others.take(options.k).collect())
    }

    /// Reads random prompts with their vectors of `space`.
    async fn sample(&self, space: Space, count: usize) -> Result<Vec<PromptPoint>, IndexError> {
        let request = QueryPoints {
            collection_name: self.target.to_string(),
            query: Some(qdrant::Query::new_sample(Sample::Random)),
            limit: Some(count as u64),
            with_payload: Some(true.into()),
            with_vectors: Some(payload::vectors_selector(&[space])),
            ..Default::default()
        };
        let answer = self.client.query(request).await.map_err(|e| self.error("sample prompts", e))?;
        answer.result.into_iter().map(|point| payload::to_hit(point, true).map(Into::into)).collect()
    }
}

/// A percentile of sorted times.
fn percentile_ms(times: &[Duration], part: f64) -> f64 {
    let place = (times.len().saturating_sub(1) as f64 * part).round() as usize;
    times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_read_from_sorted_times() {
        let times: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!((percentile_ms(&times, 0.5), percentile_ms(&times, 0.99)), (51.0, 99.0));
        assert_eq!(percentile_ms(&[], 0.5), 0.0);
    }
}
