//! A query by vector: the target, the filter, the number of answers and how they must differ.
//! `request` holds queries by text and picture, which become a [`Query`].

mod diversity;
mod filter;
mod request;

use qdrant_client::qdrant::{
    self, Mmr, QuantizationSearchParamsBuilder, QueryPoints, SearchParamsBuilder, VectorInput,
};
use uuid::Uuid;

use crate::{IndexError, Profile, Space, payload};

pub use diversity::{Diversity, NearDuplicate};
pub(crate) use diversity::{Groups, MAX_GROUPED};
pub use filter::{Filter, time_ms};
pub use request::{Encode, Picture, SearchRequest, SearchTarget, resolve_batch};

/// The maximum number of answers to one query. To read more, page through the collection or export
/// it.
pub const MAX_LIMIT: usize = 10_000;
/// The maximum of offset and limit together.
pub const MAX_REACH: usize = 100_000;
/// The maximum number of answers with vectors: about ten megabytes.
pub const MAX_LIMIT_WITH_VECTORS: usize = 2_000;
/// The maximum number of prompts that a query excludes.
const MAX_EXCLUDED: usize = 10_000;
/// The maximum size of HNSW's candidate list.
const MAX_EF: u64 = 10_000;

/// The target that the answers must be near to.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// A vector of the searched space.
    Vector(Vec<f32>),
    /// The vector of a prompt in the index; the prompt itself is not among the answers.
    Prompt(Uuid),
}

/// A search for the prompts nearest to a target.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    pub using: Space,
    pub target: Target,
    /// The maximum number of answers.
    pub limit: usize,
    /// The number of best answers to skip: the next page begins where the last one ended. With
    /// `exact` pages neither overlap nor leave gaps; otherwise a prompt may appear on two of them,
    /// or on none.
    pub offset: usize,
    pub filter: Filter,
    /// Prompts to leave out of the answers.
    pub exclude: Vec<Uuid>,
    /// Only prompts at least this similar, -1 to 1.
    pub threshold: Option<f32>,
    /// The required difference between answers; `None` allows similar answers.
    pub diversity: Option<Diversity>,
    /// The vectors to return with each answer.
    pub with_vectors: Vec<Space>,
    /// False to return only the ids, similarities and vectors of the answers.
    pub with_payload: bool,
    /// True to compare with every prompt instead of walking the graph.
    pub exact: bool,
    /// The size of HNSW's candidate list while searching; `None` is the profile's.
    pub ef: Option<u64>,
}

impl Query {
    /// Requests the `limit` prompts nearest to `vector` in the space `using`.
    pub fn new(using: Space, vector: Vec<f32>, limit: usize) -> Self {
        Self::for_target(using, Target::Vector(vector), limit)
    }

    /// Requests the `limit` prompts nearest to an indexed prompt, without that prompt.
    pub fn like(using: Space, prompt: Uuid, limit: usize) -> Self {
        Self::for_target(using, Target::Prompt(prompt), limit)
    }

    fn for_target(using: Space, target: Target, limit: usize) -> Self {
        Self {
            using,
            target,
            limit,
            offset: 0,
            filter: Filter::default(),
            exclude: Vec::new(),
            threshold: None,
            diversity: None,
            with_vectors: Vec::new(),
            with_payload: true,
            exact: false,
            ef: None,
        }
    }

    /// Considers only prompts that pass `filter`.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// Leaves these prompts out of the answers.
    pub fn exclude(mut self, prompts: impl IntoIterator<Item = Uuid>) -> Self {
        self.exclude.extend(prompts);
        self
    }

    /// Returns these vectors with each answer.
    pub fn with_vectors(mut self, spaces: impl IntoIterator<Item = Space>) -> Self {
        self.with_vectors.extend(spaces);
        self
    }

    /// Returns only the ids, similarities and vectors of the answers: their texts and attributes
    /// may be a hundred times as large.
    pub fn without_payload(mut self) -> Self {
        self.with_payload = false;
        self
    }

    /// Sets whether to compare with every prompt.
    pub fn exact(mut self, exact: bool) -> Self {
        self.exact = exact;
        self
    }

    /// Sets the size of HNSW's candidate list while searching.
    pub fn ef(mut self, ef: u64) -> Self {
        self.ef = Some(ef);
        self
    }

    /// Skips the best `offset` answers.
    pub fn offset(mut self, offset: usize) -> Self {
        self.offset = offset;
        self
    }

    /// Considers only prompts at least this similar.
    pub fn threshold(mut self, threshold: f32) -> Self {
        self.threshold = Some(threshold);
        self
    }

    /// Sets how the answers must differ from each other.
    pub fn diversity(mut self, diversity: Diversity) -> Self {
        self.diversity = Some(diversity);
        self
    }

    /// Refuses a query that cannot be answered, naming the bound.
    pub(crate) fn check(&self) -> Result<(), IndexError> {
        self.check_all_but_target()?;
        match &self.target {
            Target::Vector(vector) if vector.is_empty() || vector.iter().any(|v| !v.is_finite()) => {
                refuse("its vector is empty or not finite")
            }
            _ => Ok(()),
        }
    }

    fn check_all_but_target(&self) -> Result<(), IndexError> {
        if self.limit == 0 {
            return refuse("its limit is 0; request at least one answer");
        }
        let limit = if self.with_vectors.is_empty() { MAX_LIMIT } else { MAX_LIMIT_WITH_VECTORS };
        let reach = self.limit.saturating_add(self.offset);
        let with = if self.with_vectors.is_empty() { "" } else { " with vectors" };
        at_most(self.limit, limit, &format!("limit{with}"))?;
        at_most(reach, MAX_REACH, "offset and limit together")?;
        at_most(self.exclude.len(), MAX_EXCLUDED, "number of excluded prompts")?;
        if self.threshold.is_some_and(|threshold| !(-1.0..=1.0).contains(&threshold)) {
            return refuse("its threshold is outside the range of similarities, -1 to 1");
        }
        if self.ef.is_some_and(|ef| !(1..=MAX_EF).contains(&ef)) {
            return refuse(format!("its ef is not from 1 to {MAX_EF}"));
        }
        self.filter.check()?;
        self.diversity.map_or(Ok(()), |diversity| diversity.check(reach))
    }

    /// The request to Qdrant. The profile sets how many candidates per answer are rescored with the
    /// originals, and how far the graph is walked.
    ///
    /// Near duplicates are not grouped by Qdrant: that part of the query is left out.
    pub(crate) fn to_qdrant(&self, collection: &str, profile: Profile) -> Result<QueryPoints, IndexError> {
        self.check()?;
        let mmr = self.diversity.and_then(|diversity| diversity.candidates(self.limit + self.offset));
        // MMR's picks depend on each other, so a page needs all picks from the first on.
        let (limit, offset) = match mmr {
            Some(_) => (self.limit + self.offset, 0),
            None => (self.limit, self.offset),
        };
        Ok(QueryPoints {
            collection_name: collection.to_owned(),
            query: Some(self.scored_by(mmr)),
            using: Some(self.using.name().into()),
            filter: self.filter.without(&self.exclude)?,
            params: Some(self.params(profile)),
            limit: Some(limit as u64),
            offset: (offset > 0).then_some(offset as u64),
            score_threshold: self.threshold,
            with_payload: Some(self.with_payload.into()),
            with_vectors: Some(payload::vectors_selector(&self.with_vectors)),
            ..Default::default()
        })
    }

    fn scored_by(&self, mmr: Option<(f32, usize)>) -> qdrant::Query {
        let nearest: VectorInput = match &self.target {
            Target::Prompt(id) => payload::point_id(*id).into(),
            Target::Vector(vector) => vector.clone().into(),
        };
        match mmr {
            None => qdrant::Query::new_nearest(nearest),
            Some((lambda, candidates)) => {
                // `check` keeps it within MAX_CANDIDATES.
                let candidates_limit = u32::try_from(candidates).ok();
                let mmr = Mmr { diversity: Some(1.0 - lambda), candidates_limit };
                qdrant::Query::new_nearest_with_mmr(nearest, mmr)
            }
        }
    }

    fn params(&self, profile: Profile) -> qdrant::SearchParams {
        let quantisation =
            QuantizationSearchParamsBuilder::default().rescore(true).oversampling(profile.oversampling());
        let params = SearchParamsBuilder::default().exact(self.exact).quantization(quantisation);
        params.hnsw_ef(self.ef.unwrap_or(profile.ef())).build()
    }
}

fn refuse<T>(reason: impl Into<String>) -> Result<T, IndexError> {
    Err(IndexError::InvalidQuery { reason: reason.into() })
}

fn at_most(value: usize, bound: usize, what: &str) -> Result<(), IndexError> {
    if value <= bound { Ok(()) } else { refuse(format!("its {what} is {value}; the maximum is {bound}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nearest() -> Query {
        Query::new(Space::Clip, vec![1.0], 3)
    }

    fn refused(query: &Query) -> String {
        query.to_qdrant("prompts", Profile::default()).unwrap_err().to_string()
    }

    #[test]
    fn an_out_of_bounds_query_is_refused_with_the_bound() {
        let excluded = nearest().exclude((0..10_001).map(Uuid::from_u128));
        let cases = [
            (Query { limit: 0, ..nearest() }, "at least one answer"),
            (Query { limit: 10_001, ..nearest() }, "10000"),
            (Query { limit: 2_001, with_vectors: vec![Space::Clip], ..nearest() }, "2000"),
            (nearest().offset(99_998), "100000"),
            (nearest().offset(usize::MAX), "100000"),
            (nearest().threshold(1.5), "-1 to 1"),
            (nearest().threshold(f32::NAN), "-1 to 1"),
            (nearest().ef(0), "1 to 10000"),
            (excluded, "10000"),
            (Query::new(Space::Clip, vec![f32::NAN], 1), "not finite"),
            (Query::new(Space::Clip, Vec::new(), 1), "empty"),
        ];
        for (query, bound) in cases {
            let refused = refused(&query);
            assert!(refused.contains(bound), "{refused}");
        }
    }

    #[test]
    fn excluded_prompts_become_a_condition() {
        let query = nearest().exclude([Uuid::from_u128(7)]).to_qdrant("prompts", Profile::default()).unwrap();
        let filter = query.filter.unwrap();
        assert_eq!((filter.must.len(), filter.must_not.len()), (0, 1));
    }

    #[test]
    fn mmr_adds_the_offset_to_the_limit() {
        let diversity = Diversity::Mmr { lambda: 0.25, candidates: None };
        let query =
            nearest().offset(5).diversity(diversity).to_qdrant("prompts", Profile::default()).unwrap();
        assert_eq!((query.limit, query.offset), (Some(8), None));
        let Some(qdrant::query::Variant::NearestWithMmr(mmr)) = query.query.unwrap().variant else {
            panic!("not MMR")
        };
        let mmr = mmr.mmr.unwrap();
        assert_eq!((mmr.diversity, mmr.candidates_limit), (Some(0.75), Some(100)));
    }
}
