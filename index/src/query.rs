//! What to look for in the index: a query and the filter that goes with it.

use std::collections::BTreeMap;

use qdrant_client::qdrant::{
    self, Condition, QuantizationSearchParamsBuilder, QueryPoints, Range, SearchParamsBuilder,
};
use uuid::Uuid;

use crate::{IndexError, Space, payload};

/// Of quantised vectors, how many candidates for each answer are scored again with the originals.
const OVERSAMPLING: f64 = 1.5;

/// What the answers are to be near to.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// A vector of the space searched.
    Vector(Vec<f32>),
    /// The vector of a prompt in the index; the prompt itself is not among the answers.
    Prompt(Uuid),
}

/// A search for the prompts nearest to a target.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    pub using: Space,
    pub target: Target,
    /// How many answers, at the most.
    pub limit: usize,
    pub filter: Filter,
    /// Prompts that shall not be among the answers.
    pub exclude: Vec<Uuid>,
    /// The vectors to answer with.
    pub with_vectors: Vec<Space>,
    /// Compare with every prompt instead of walking the graph.
    pub exact: bool,
    /// HNSW's candidate list while searching; the index's default when none.
    pub ef: Option<u64>,
}

impl Query {
    /// The `limit` prompts nearest to `vector` in the space `using`.
    pub fn new(using: Space, vector: Vec<f32>, limit: usize) -> Self {
        Self::for_target(using, Target::Vector(vector), limit)
    }

    /// The `limit` prompts nearest to an indexed prompt, without itself.
    pub fn like(using: Space, prompt: Uuid, limit: usize) -> Self {
        Self::for_target(using, Target::Prompt(prompt), limit)
    }

    fn for_target(using: Space, target: Target, limit: usize) -> Self {
        let (filter, exclude, with_vectors) = (Filter::default(), Vec::new(), Vec::new());
        Self { using, target, limit, filter, exclude, with_vectors, exact: false, ef: None }
    }

    /// Only prompts that pass `filter`.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// None of these prompts.
    pub fn exclude(mut self, prompts: impl IntoIterator<Item = Uuid>) -> Self {
        self.exclude.extend(prompts);
        self
    }

    /// Answers come with these vectors.
    pub fn with_vectors(mut self, spaces: impl IntoIterator<Item = Space>) -> Self {
        self.with_vectors.extend(spaces);
        self
    }

    /// Compare with every prompt.
    pub fn exact(mut self, exact: bool) -> Self {
        self.exact = exact;
        self
    }

    /// HNSW's candidate list while searching.
    pub fn ef(mut self, ef: u64) -> Self {
        self.ef = Some(ef);
        self
    }

    pub(crate) fn to_qdrant(&self, collection: &str) -> Result<QueryPoints, IndexError> {
        if self.limit == 0 {
            return Err(IndexError::InvalidQuery {
                reason: "its limit is 0; ask for one answer at least".into(),
            });
        }
        Ok(QueryPoints {
            collection_name: collection.to_owned(),
            query: Some(self.nearest()?),
            using: Some(self.using.name().into()),
            filter: self.filter.without(&self.exclude)?,
            params: Some(self.params()),
            limit: Some(self.limit as u64),
            with_payload: Some(true.into()),
            with_vectors: Some(payload::vectors_selector(&self.with_vectors)),
            ..Default::default()
        })
    }

    fn nearest(&self) -> Result<qdrant::Query, IndexError> {
        match &self.target {
            Target::Prompt(id) => Ok(qdrant::Query::new_nearest(payload::point_id(*id))),
            Target::Vector(vector) if vector.is_empty() || vector.iter().any(|v| !v.is_finite()) => {
                Err(IndexError::InvalidQuery { reason: "its vector is empty or not finite".into() })
            }
            Target::Vector(vector) => Ok(qdrant::Query::new_nearest(vector.clone())),
        }
    }

    fn params(&self) -> qdrant::SearchParams {
        let quantisation =
            QuantizationSearchParamsBuilder::default().rescore(true).oversampling(OVERSAMPLING);
        let params = SearchParamsBuilder::default().exact(self.exact).quantization(quantisation);
        match self.ef {
            Some(ef) => params.hnsw_ef(ef).build(),
            None => params.build(),
        }
    }
}

/// Which prompts to consider; the default considers all of them. Conditions must all hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filter {
    /// Seen in any of these sources; any source when empty.
    pub sources: Vec<String>,
    /// First seen at this time or later, milliseconds since 1970.
    pub created_from_ms: Option<i64>,
    /// First seen before this time, milliseconds since 1970.
    pub created_before_ms: Option<i64>,
    /// With these values of these attributes.
    pub attributes: BTreeMap<String, String>,
    /// With this in its text, as it is written there.
    pub text_contains: Option<String>,
}

impl Filter {
    /// Prompts seen in `source`.
    pub fn source(source: impl Into<String>) -> Self {
        Self { sources: vec![source.into()], ..Self::default() }
    }

    pub(crate) fn to_qdrant(&self) -> Result<Option<qdrant::Filter>, IndexError> {
        self.without(&[])
    }

    fn without(&self, excluded: &[Uuid]) -> Result<Option<qdrant::Filter>, IndexError> {
        let must = self.conditions()?;
        let ids: Vec<_> = excluded.iter().copied().map(payload::point_id).collect();
        let must_not = if ids.is_empty() { Vec::new() } else { vec![Condition::has_id(ids)] };
        let filter = qdrant::Filter { must, must_not, ..Default::default() };
        Ok((!filter.must.is_empty() || !filter.must_not.is_empty()).then_some(filter))
    }

    fn conditions(&self) -> Result<Vec<Condition>, IndexError> {
        let mut must = Vec::new();
        if !self.sources.is_empty() {
            must.push(Condition::matches(payload::SOURCES, self.sources.clone()));
        }
        if self.created_from_ms.is_some() || self.created_before_ms.is_some() {
            must.push(Condition::range(payload::CREATED_AT, self.created()));
        }
        for (key, value) in &self.attributes {
            must.push(Condition::matches(payload::attribute_path(key)?, value.clone()));
        }
        if let Some(text) = &self.text_contains {
            must.push(Condition::matches_text(payload::TEXT, text));
        }
        Ok(must)
    }

    /// Milliseconds stay exact in an f64 until the year 287396.
    fn created(&self) -> Range {
        Range {
            gte: self.created_from_ms.map(|ms| ms as f64),
            lt: self.created_before_ms.map(|ms| ms as f64),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_filter_is_none() {
        assert_eq!(Filter::default().to_qdrant().unwrap(), None);
    }

    #[test]
    fn a_query_for_nothing_is_refused() {
        let query = Query::new(Space::Clip, vec![1.0], 0);
        assert!(matches!(query.to_qdrant("prompts"), Err(IndexError::InvalidQuery { .. })));
    }

    #[test]
    fn an_attribute_that_no_path_can_name_is_refused() {
        let attributes = BTreeMap::from([("a\"b".to_owned(), "c".to_owned())]);
        let filter = Filter { attributes, ..Filter::default() };
        assert!(matches!(filter.to_qdrant(), Err(IndexError::InvalidQuery { .. })));
    }

    #[test]
    fn excluded_prompts_become_a_condition() {
        let query = Query::new(Space::MiniLm, vec![1.0], 3).exclude([Uuid::from_u128(7)]);
        let filter = query.to_qdrant("prompts").unwrap().filter.unwrap();
        assert_eq!((filter.must.len(), filter.must_not.len()), (0, 1));
    }
}
