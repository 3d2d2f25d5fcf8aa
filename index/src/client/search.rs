//! Reading: the nearest prompts, pages, counts.

use std::collections::HashSet;

use qdrant_client::qdrant::{
    CountPoints, GetPoints, PointId, QueryBatchPoints, QueryPoints, ScrollPoints, WithPayloadSelector,
};
use tokio::task::spawn_blocking;
use tonic::Code;
use uuid::Uuid;

use super::PromptIndex;
use crate::query::{Groups, MAX_GROUPED};
use crate::{Diversity, Filter, Hit, IndexError, PromptPoint, Query, Space, Target, payload};

/// Queries per request.
const BATCH: usize = 64;
/// Candidates in the first page for each requested group of near duplicates; each further page is
/// twice as large.
const FIRST_CANDIDATES: usize = 4;
/// The maximum number of candidates in a page.
const MAX_PAGE: usize = 1_000;

impl PromptIndex {
    /// Counts the prompts that pass `filter`.
    pub async fn count(&self, filter: &Filter) -> Result<u64, IndexError> {
        let collection_name = self.target.to_string();
        let filter = filter.to_qdrant()?;
        let request = CountPoints { collection_name, filter, exact: Some(true), ..Default::default() };
        let answer = self.client.count(request).await.map_err(|e| self.error("count", e))?;
        Ok(answer.result.map_or(0, |result| result.count))
    }

    /// Reads the prompts with these ids that are in the index, in no particular order.
    pub async fn get(&self, ids: &[Uuid], with_vectors: bool) -> Result<Vec<PromptPoint>, IndexError> {
        let mut found = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(self.options.chunk_points.max(1)) {
            let request = GetPoints {
                collection_name: self.target.to_string(),
                ids: chunk.iter().copied().map(payload::point_id).collect(),
                with_payload: Some(true.into()),
                with_vectors: Some(with_vectors.into()),
                ..Default::default()
            };
            let answer = self.client.get_points(request).await.map_err(|e| self.error("get points", e))?;
            for point in answer.result {
                found.push(payload::to_prompt(point)?);
            }
        }
        Ok(found)
    }

    /// Returns the nearest prompts, best first; with [`Diversity::Mmr`], in the order they were
    /// chosen.
    ///
    /// # Errors
    /// [`IndexError::InvalidQuery`] if a query exceeds a bound, has another dimension, or refers to
    /// a prompt that is not in the index.
    pub async fn search(&self, query: &Query) -> Result<Vec<Hit>, IndexError> {
        match query.diversity {
            Some(Diversity::Group { similarity }) => self.search_groups(query, similarity).await,
            _ => self.search_plain(query).await,
        }
    }

    /// Answers several queries in order; returns all answers or an error.
    pub async fn search_batch(&self, queries: &[Query]) -> Result<Vec<Vec<Hit>>, IndexError> {
        let mut answers = Vec::with_capacity(queries.len());
        let grouped = |query: &Query| matches!(query.diversity, Some(Diversity::Group { .. }));
        for run in queries.chunk_by(|a, b| !grouped(a) && !grouped(b)) {
            match run {
                [query] => answers.push(self.search(query).await?),
                run => {
                    for batch in run.chunks(BATCH) {
                        answers.extend(self.search_at_once(batch).await?);
                    }
                }
            }
        }
        Ok(answers)
    }

    /// Returns the prompts nearest to each query, best first, each with its MiniLM vector \[384\];
    /// all answers or an error.
    ///
    /// # Errors
    /// [`IndexError::ForeignPoint`] for a point without that vector: a prediction must not leave it
    /// out silently.
    pub async fn nearest(&self, queries: Vec<Query>) -> Result<Vec<Vec<Hit>>, IndexError> {
        let queries: Vec<Query> =
            queries.into_iter().map(|query| query.with_vectors([Space::MiniLm])).collect();
        let answers = self.search_batch(&queries).await?;
        answers.iter().flatten().try_for_each(has_minilm)?;
        Ok(answers)
    }

    /// Answers several queries in order; an invalid query does not fail the others.
    ///
    /// # Errors
    /// Inner: [`IndexError::InvalidQuery`]. Outer: errors that concern all queries, such as an
    /// unreachable index.
    pub async fn search_each(
        &self,
        queries: &[Query],
    ) -> Result<Vec<Result<Vec<Hit>, IndexError>>, IndexError> {
        let mut answers = Vec::with_capacity(queries.len());
        for batch in queries.chunks(BATCH) {
            match self.search_batch(batch).await {
                Ok(all) => answers.extend(all.into_iter().map(Ok)),
                Err(IndexError::InvalidQuery { .. }) => {
                    for query in batch {
                        answers.push(match self.search(query).await {
                            Err(error) if !matches!(error, IndexError::InvalidQuery { .. }) => {
                                return Err(error);
                            }
                            answer => answer,
                        });
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(answers)
    }

    /// Reads one page of the prompts that pass `filter`, ordered by id, and returns where the next
    /// page starts.
    pub async fn page(
        &self,
        filter: &Filter,
        from: Option<Uuid>,
        limit: u32,
        with_vectors: &[Space],
    ) -> Result<(Vec<PromptPoint>, Option<Uuid>), IndexError> {
        let request = ScrollPoints {
            collection_name: self.target.to_string(),
            filter: filter.to_qdrant()?,
            offset: from.map(payload::point_id),
            limit: Some(limit),
            with_payload: Some(WithPayloadSelector::from(true)),
            with_vectors: Some(payload::vectors_selector(with_vectors)),
            ..Default::default()
        };
        let answer = self.client.scroll(request).await.map_err(|e| self.error("page through points", e))?;
        let next = answer.next_page_offset.map(|id: PointId| payload::prompt_id(Some(id))).transpose()?;
        let points = answer.result.into_iter().map(payload::to_prompt).collect::<Result<_, _>>()?;
        Ok((points, next))
    }

    async fn search_plain(&self, query: &Query) -> Result<Vec<Hit>, IndexError> {
        let request = query.to_qdrant(&self.target, self.profile().await)?;
        let answer = match self.client.query(request).await {
            Ok(answer) => answer,
            Err(error) => {
                let error = self.error("search", error);
                return Err(self.blame(std::slice::from_ref(query), error).await);
            }
        };
        let hits: Vec<Hit> = answer.result.into_iter().map(payload::to_hit).collect::<Result<_, _>>()?;
        Ok(of_page(hits, query))
    }

    async fn search_at_once(&self, queries: &[Query]) -> Result<Vec<Vec<Hit>>, IndexError> {
        let profile = self.profile().await;
        let to_qdrant = |query: &Query| query.to_qdrant(&self.target, profile);
        let query_points: Vec<QueryPoints> = queries.iter().map(to_qdrant).collect::<Result<_, _>>()?;
        let request =
            QueryBatchPoints { collection_name: self.target.to_string(), query_points, ..Default::default() };
        let answer = match self.client.query_batch(request).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.blame(queries, self.error("search", error)).await),
        };
        let hits = |(result, query): (qdrant_client::qdrant::BatchResult, &Query)| {
            let hits: Result<Vec<Hit>, _> = result.result.into_iter().map(payload::to_hit).collect();
            hits.map(|hits| of_page(hits, query))
        };
        if answer.result.len() != queries.len() {
            let reason = format!("{} answers came for {} queries", answer.result.len(), queries.len());
            return Err(IndexError::Client { operation: "search", reason });
        }
        answer.result.into_iter().zip(queries).map(hits).collect()
    }

    /// Reads candidates, best first, until there are enough groups, all prompts are read, or the
    /// limit of candidates is reached.
    async fn search_groups(&self, query: &Query, similarity: f32) -> Result<Vec<Hit>, IndexError> {
        query.check()?;
        let wanted = query.offset + query.limit;
        let mut groups = Groups::new(similarity, wanted);
        let (mut read, mut page) = (0, (wanted * FIRST_CANDIDATES).min(MAX_PAGE));
        while read < MAX_GROUPED && !groups.is_full() {
            page = page.min(MAX_GROUPED - read);
            let hits = self.search_plain(&candidates(query, read, page)).await?;
            let last = hits.len() < page;
            read += hits.len();
            page = (page * 2).min(MAX_PAGE);
            groups = grouped(groups, hits).await?;
            if last {
                break;
            }
        }
        let best = groups.into_best().into_iter().skip(query.offset);
        Ok(best.map(|hit| with_vectors_of(hit, query)).collect())
    }

    /// Turns a rejection by the server into the reason why the queries are invalid, if they are the
    /// cause.
    async fn blame(&self, queries: &[Query], error: IndexError) -> IndexError {
        if error.is_transient() {
            return error;
        }
        let like = queries.iter().filter_map(|query| match query.target {
            Target::Prompt(id) => Some(id),
            Target::Vector(_) => None,
        });
        let like: Vec<Uuid> = like.collect();
        if let (false, Ok(found)) = (like.is_empty(), self.get(&like, false).await) {
            let found: HashSet<Uuid> = found.iter().map(|point| point.prompt_id).collect();
            if let Some(missing) = like.iter().find(|id| !found.contains(id)) {
                return IndexError::InvalidQuery {
                    reason: format!("there is no prompt {missing} in the index to be like"),
                };
            }
        }
        match error {
            IndexError::Server { code: Code::InvalidArgument, message, .. } => {
                IndexError::InvalidQuery { reason: message }
            }
            other => other,
        }
    }
}

fn has_minilm(hit: &Hit) -> Result<(), IndexError> {
    match hit.minilm {
        Some(_) => Ok(()),
        None => Err(IndexError::ForeignPoint {
            id: hit.prompt_id.to_string(),
            reason: "it has no minilm vector".into(),
        }),
    }
}

/// Cuts MMR's answers to the query's page: MMR is always requested from the first answer.
fn of_page(mut hits: Vec<Hit>, query: &Query) -> Vec<Hit> {
    if let Some(Diversity::Mmr { .. }) = query.diversity {
        hits.drain(..query.offset.min(hits.len()));
    }
    hits
}

/// The query for a page of candidates, with the vectors they are grouped by.
fn candidates(query: &Query, offset: usize, limit: usize) -> Query {
    let mut candidates = Query { offset, limit, diversity: None, ..query.clone() };
    if !candidates.with_vectors.contains(&Space::MiniLm) {
        candidates.with_vectors.push(Space::MiniLm);
    }
    candidates
}

fn with_vectors_of(mut hit: Hit, query: &Query) -> Hit {
    hit.minilm.take_if(|_| !query.with_vectors.contains(&Space::MiniLm));
    hit
}

/// Groups candidates outside the runtime's own threads: each one is compared with every group.
async fn grouped(mut groups: Groups, hits: Vec<Hit>) -> Result<Groups, IndexError> {
    let grouped = spawn_blocking(move || {
        hits.into_iter().for_each(|hit| groups.take(hit));
        groups
    });
    let failed = |error: tokio::task::JoinError| IndexError::Client {
        operation: "group near duplicates",
        reason: error.to_string(),
    };
    grouped.await.map_err(failed)
}
