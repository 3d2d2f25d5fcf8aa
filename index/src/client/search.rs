//! Reading: the nearest prompts, pages, counts.

use std::collections::{HashMap, HashSet};

use qdrant_client::qdrant::with_payload_selector::SelectorOptions;
use qdrant_client::qdrant::{
    CountPoints, GetPoints, PointId, QueryBatchPoints, QueryPoints, RetrievedPoint, ScrollPoints,
    WithPayloadSelector,
};
use tokio::task::spawn_blocking;
use tonic::Code;
use uuid::Uuid;

use super::PromptIndex;
use super::parts::RequestParts;
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
        let spaces: &[Space] = if with_vectors { &[Space::MiniLm, Space::Clip] } else { &[] };
        let points = self.points(ids, true.into(), spaces).await?;
        points.into_iter().map(payload::to_prompt).collect()
    }

    /// Reads the texts of the prompts with these ids; ids that are not in the index are left out.
    pub async fn texts(&self, ids: &[Uuid]) -> Result<HashMap<Uuid, String>, IndexError> {
        let fields = SelectorOptions::Include(vec![payload::TEXT.to_owned()].into());
        let points = self.points(ids, fields.into(), &[]).await?;
        points.into_iter().map(payload::to_text).collect()
    }

    /// Reads the points with these ids, in no particular order.
    pub(super) async fn points(
        &self,
        ids: &[Uuid],
        with_payload: WithPayloadSelector,
        with_vectors: &[Space],
    ) -> Result<Vec<RetrievedPoint>, IndexError> {
        let mut found = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(self.options.chunk_points.max(1)) {
            let mut parts = RequestParts::of(chunk);
            while let Some(part) = parts.next() {
                let request = GetPoints {
                    collection_name: self.target.to_string(),
                    ids: part.iter().copied().map(payload::point_id).collect(),
                    with_payload: Some(with_payload.clone()),
                    with_vectors: Some(payload::vectors_selector(with_vectors)),
                    ..Default::default()
                };
                match self.client.get_points(request).await {
                    Ok(answer) => found.extend(answer.result),
                    Err(error) => parts.halve(part, self.error("get points", error))?,
                }
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
                        let mut parts = RequestParts::of(batch);
                        while let Some(part) = parts.next() {
                            match self.search_at_once(part).await {
                                Ok(found) => answers.extend(found),
                                Err(error) => parts.halve(part, error)?,
                            }
                        }
                    }
                }
            }
        }
        Ok(answers)
    }

    /// Returns the prompts nearest to each query, best first, each with its MiniLM vector \[384\]
    /// and without its text; see [`Self::texts`]. All answers or an error.
    ///
    /// # Errors
    /// [`IndexError::ForeignPoint`] for a point without that vector: a prediction must not leave it
    /// out silently.
    pub async fn nearest(&self, queries: Vec<Query>) -> Result<Vec<Vec<Hit>>, IndexError> {
        self.nearest_each(queries).await?.into_iter().collect()
    }

    /// Returns the prompts nearest to each query, as [`Self::nearest`] does; an invalid query does
    /// not fail the others.
    ///
    /// # Errors
    /// Inner: [`IndexError::InvalidQuery`]. Outer: as in [`Self::nearest`].
    pub async fn nearest_each(
        &self,
        queries: Vec<Query>,
    ) -> Result<Vec<Result<Vec<Hit>, IndexError>>, IndexError> {
        let of_vectors = |query: Query| query.with_vectors([Space::MiniLm]).without_payload();
        let queries: Vec<Query> = queries.into_iter().map(of_vectors).collect();
        let answers = self.search_each(&queries).await?;
        answers.iter().flatten().flatten().try_for_each(has_minilm)?;
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
    /// page starts. A page of long prompts has fewer than `limit`.
    pub async fn page(
        &self,
        filter: &Filter,
        from: Option<Uuid>,
        limit: u32,
        with_vectors: &[Space],
    ) -> Result<(Vec<PromptPoint>, Option<Uuid>), IndexError> {
        let mut limit = limit;
        let answer = loop {
            let request = ScrollPoints {
                collection_name: self.target.to_string(),
                filter: filter.to_qdrant()?,
                offset: from.map(payload::point_id),
                limit: Some(limit),
                with_payload: Some(WithPayloadSelector::from(true)),
                with_vectors: Some(payload::vectors_selector(with_vectors)),
                ..Default::default()
            };
            match self.client.scroll(request).await.map_err(|e| self.error("page through points", e)) {
                Err(error) if error.is_too_large() && limit > 1 => limit /= 2,
                answer => break answer?,
            }
        };
        let next = answer.next_page_offset.map(|id: PointId| payload::prompt_id(Some(id))).transpose()?;
        let points = answer.result.into_iter().map(payload::to_prompt).collect::<Result<_, _>>()?;
        Ok((points, next))
    }

    async fn search_plain(&self, query: &Query) -> Result<Vec<Hit>, IndexError> {
        let request = query.to_qdrant(&self.target, self.profile().await)?;
        let answer = match self.client.query(request).await.map_err(|error| self.error("search", error)) {
            Ok(answer) => answer,
            Err(error) if error.is_too_large() && has_details(query) => {
                return self.search_in_parts(query).await;
            }
            Err(error) => return Err(self.blame(std::slice::from_ref(query), error).await),
        };
        let hits = answer.result.into_iter().map(|point| payload::to_hit(point, query.with_payload));
        Ok(of_page(hits.collect::<Result<_, _>>()?, query))
    }

    /// Finds the answers first, and reads their texts and vectors then. A prompt that is deleted in
    /// between is left out.
    async fn search_in_parts(&self, query: &Query) -> Result<Vec<Hit>, IndexError> {
        let ids_only = Query { with_vectors: Vec::new(), with_payload: false, ..query.clone() };
        let hits = Box::pin(self.search_plain(&ids_only)).await?;
        let ids: Vec<Uuid> = hits.iter().map(|hit| hit.prompt_id).collect();
        let points = self.points(&ids, query.with_payload.into(), &query.with_vectors).await?;
        let points: HashMap<Uuid, Hit> = points
            .into_iter()
            .map(|point| payload::to_hit_of(point, query.with_payload).map(|hit| (hit.prompt_id, hit)))
            .collect::<Result<_, _>>()?;
        let whole =
            |hit: Hit| Some(Hit { similarity: hit.similarity, ..points.get(&hit.prompt_id)?.clone() });
        Ok(hits.into_iter().filter_map(whole).collect())
    }

    async fn search_at_once(&self, queries: &[Query]) -> Result<Vec<Vec<Hit>>, IndexError> {
        if let [query] = queries {
            return Ok(vec![self.search_plain(query).await?]);
        }
        let profile = self.profile().await;
        let to_qdrant = |query: &Query| query.to_qdrant(&self.target, profile);
        let query_points: Vec<QueryPoints> = queries.iter().map(to_qdrant).collect::<Result<_, _>>()?;
        let request =
            QueryBatchPoints { collection_name: self.target.to_string(), query_points, ..Default::default() };
        let answer = match self.client.query_batch(request).await {
            Ok(answer) => answer,
            Err(error) => match self.error("search", error) {
                error if error.is_too_large() => return Err(error),
                error => return Err(self.blame(queries, error).await),
            },
        };
        let hits = |(result, query): (qdrant_client::qdrant::BatchResult, &Query)| {
            let hits = result.result.into_iter().map(|point| payload::to_hit(point, query.with_payload));
            Ok(of_page(hits.collect::<Result<_, _>>()?, query))
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

/// Returns whether the answers have more than ids and similarities.
fn has_details(query: &Query) -> bool {
    query.with_payload || !query.with_vectors.is_empty()
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
