//! Queries and their results. The caller, which has access to the points, looks up the ids in a
//! query.

use std::collections::HashMap;

use qdrant_client::qdrant::query::Variant;
use qdrant_client::qdrant::start_from::Value as StartValue;
use qdrant_client::qdrant::vector_input::Variant as InputVariant;
use qdrant_client::qdrant::{
    Direction as OrderDirection, Fusion as FusionKind, NearestInputWithMmr, OrderBy, PrefetchQuery, Query,
    QueryPointGroups, QueryPoints, RetrievedPoint, ScoredPoint, SearchParams, SearchPointGroups,
    SearchPoints, SparseIndices, VectorInput,
};
use qdrant_edge::external::ordered_float::OrderedFloat;
use qdrant_edge::{
    DEFAULT_VECTOR_NAME, Direction, Fusion, Mmr, NamedQuery, OrderBy as EdgeOrderBy, PointId as EdgeId,
    Prefetch, QuantizationSearchParams, QueryEnum, QueryRequest, Record, Sample, ScoredPoint as EdgeScored,
    ScoringQuery, SearchParams as EdgeParams, StartFrom, VectorInternal,
};
use tonic::Status;

use super::{filter, from_json, ids, object, path, payload, vectors};

/// Qdrant's default limit of a query.
const DEFAULT_LIMIT: u64 = 10;
/// Qdrant's own bound on MMR candidates, which are compared with each other.
const MAX_MMR_CANDIDATES: usize = 16_384;
/// Qdrant's constant for reciprocal rank fusion.
const RRF_K: usize = 2;

/// The vectors of the points that queries refer to by id. The key is the vector name and the point
/// id.
pub(crate) type Lookup = HashMap<(String, EdgeId), VectorInternal>;

pub(crate) fn to_edge(query: QueryPoints, lookup: &Lookup) -> Result<QueryRequest, Status> {
    if query.lookup_from.is_some() {
        return Err(Status::unimplemented("queries that look vectors up in another collection"));
    }
    let using = query.using.unwrap_or_else(|| DEFAULT_VECTOR_NAME.to_owned());
    let own = named_ids(query.query.as_ref())?;
    let mut request = QueryRequest::new(limit(query.limit)?);
    request.prefetches = query.prefetch.into_iter().map(|p| prefetch(p, lookup)).collect::<Result<_, _>>()?;
    request.query = scored_by(query.query, &using, lookup, request.limit)?;
    request.filter = filter::to_edge(without(query.filter, own))?;
    request.score_threshold = query.score_threshold;
    request.offset = usize::try_from(query.offset.unwrap_or(0)).unwrap_or(usize::MAX);
    request.params = query.params.map(params).transpose()?;
    request.with_vector = vectors::selector_to_edge(query.with_vectors);
    request.with_payload = payload::selector_to_edge(query.with_payload, false)?;
    Ok(request)
}

fn nearest(vector: Vec<f32>, sparse_indices: Option<SparseIndices>) -> Query {
    match sparse_indices {
        Some(indices) => Query::new_nearest(VectorInput::new_sparse(indices.data, vector)),
        None => Query::new_nearest(vector),
    }
}

/// Converts an older search request to a query.
pub(crate) fn of_search(search: SearchPoints) -> QueryPoints {
    QueryPoints {
        collection_name: search.collection_name,
        query: Some(nearest(search.vector, search.sparse_indices)),
        using: search.vector_name,
        filter: search.filter,
        params: search.params,
        score_threshold: search.score_threshold,
        limit: Some(search.limit),
        offset: search.offset,
        with_vectors: search.with_vectors,
        with_payload: search.with_payload,
        ..Default::default()
    }
}

/// Returns the query whose results are grouped. Its limit is the number of groups.
pub(crate) fn of_groups(groups: QueryPointGroups) -> QueryPoints {
    QueryPoints {
        collection_name: groups.collection_name,
        prefetch: groups.prefetch,
        query: groups.query,
        using: groups.using,
        filter: groups.filter,
        params: groups.params,
        score_threshold: groups.score_threshold,
        limit: groups.limit,
        with_vectors: groups.with_vectors,
        with_payload: groups.with_payload,
        lookup_from: groups.lookup_from,
        ..Default::default()
    }
}

/// Converts an older group search request to a query.
pub(crate) fn of_search_groups(search: SearchPointGroups) -> QueryPointGroups {
    QueryPointGroups {
        collection_name: search.collection_name,
        query: Some(nearest(search.vector, search.sparse_indices)),
        using: search.vector_name,
        filter: search.filter,
        params: search.params,
        score_threshold: search.score_threshold,
        limit: Some(u64::from(search.limit)),
        group_size: Some(u64::from(search.group_size)),
        group_by: search.group_by,
        with_vectors: search.with_vectors,
        with_payload: search.with_payload,
        with_lookup: search.with_lookup,
        ..Default::default()
    }
}

/// Returns the vector names and ids of the points whose vectors a query needs.
pub(crate) fn wanted(query: &QueryPoints) -> Result<Vec<(String, EdgeId)>, Status> {
    let mut wanted = Vec::new();
    collect(query.query.as_ref(), query.using.as_deref(), &mut wanted)?;
    let mut stages: Vec<&PrefetchQuery> = query.prefetch.iter().collect();
    while let Some(stage) = stages.pop() {
        collect(stage.query.as_ref(), stage.using.as_deref(), &mut wanted)?;
        stages.extend(&stage.prefetch);
    }
    Ok(wanted)
}

fn collect(
    query: Option<&Query>,
    using: Option<&str>,
    wanted: &mut Vec<(String, EdgeId)>,
) -> Result<(), Status> {
    let using = using.unwrap_or(DEFAULT_VECTOR_NAME);
    wanted.extend(named_ids(query)?.into_iter().map(|id| (using.to_owned(), id)));
    Ok(())
}

fn named_ids(query: Option<&Query>) -> Result<Vec<EdgeId>, Status> {
    let input = match query.and_then(|query| query.variant.as_ref()) {
        Some(Variant::Nearest(input)) => Some(input),
        Some(Variant::NearestWithMmr(query)) => query.nearest.as_ref(),
        _ => None,
    };
    match input {
        Some(VectorInput { variant: Some(InputVariant::Id(id)) }) => {
            Ok(vec![ids::to_edge(Some(id.clone()))?])
        }
        _ => Ok(Vec::new()),
    }
}

/// Adds the excluded ids to a filter: a query by a point's id never returns that point.
fn without(
    filter: Option<qdrant_client::qdrant::Filter>,
    excluded: Vec<EdgeId>,
) -> Option<qdrant_client::qdrant::Filter> {
    if excluded.is_empty() {
        return filter;
    }
    let mut filter = filter.unwrap_or_default();
    let excluded = excluded.into_iter().map(ids::from_edge);
    filter.must_not.push(qdrant_client::qdrant::Condition::has_id(excluded));
    Some(filter)
}

fn limit(limit: Option<u64>) -> Result<usize, Status> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        0 => Err(Status::invalid_argument("the limit is 0; ask for one point at least")),
        limit => Ok(usize::try_from(limit).unwrap_or(usize::MAX)),
    }
}

fn prefetch(stage: PrefetchQuery, lookup: &Lookup) -> Result<Prefetch, Status> {
    if stage.lookup_from.is_some() {
        return Err(Status::unimplemented("prefetches that look vectors up in another collection"));
    }
    let using = stage.using.unwrap_or_else(|| DEFAULT_VECTOR_NAME.to_owned());
    let own = named_ids(stage.query.as_ref())?;
    let mut prefetched = Prefetch::new(limit(stage.limit)?);
    prefetched.prefetches =
        stage.prefetch.into_iter().map(|p| prefetch(p, lookup)).collect::<Result<_, _>>()?;
    prefetched.query = scored_by(stage.query, &using, lookup, prefetched.limit)?;
    prefetched.filter = filter::to_edge(without(stage.filter, own))?;
    prefetched.params = stage.params.map(params).transpose()?;
    prefetched.score_threshold = stage.score_threshold;
    Ok(prefetched)
}

fn scored_by(
    query: Option<Query>,
    using: &str,
    lookup: &Lookup,
    limit: usize,
) -> Result<Option<ScoringQuery>, Status> {
    let variant = query.and_then(|query| query.variant);
    variant.map(|variant| scoring(variant, using, lookup, limit)).transpose()
}

fn scoring(variant: Variant, using: &str, lookup: &Lookup, limit: usize) -> Result<ScoringQuery, Status> {
    match variant {
        Variant::NearestWithMmr(query) => mmr(query, using, lookup, limit).map(ScoringQuery::Mmr),
        Variant::Nearest(input) => {
            let vector = input_vector(input, using, lookup)?;
            Ok(ScoringQuery::Vector(QueryEnum::Nearest(NamedQuery::new(vector, using))))
        }
        Variant::OrderBy(order) => Ok(ScoringQuery::OrderBy(order_by(order)?)),
        Variant::Fusion(kind) => Ok(ScoringQuery::Fusion(match FusionKind::try_from(kind) {
            Ok(FusionKind::Rrf) => Fusion::Rrf { k: RRF_K, weights: None },
            Ok(FusionKind::Dbsf) => Fusion::Dbsf,
            Err(_) => return Err(Status::invalid_argument("unknown fusion")),
        })),
        Variant::Rrf(rrf) => {
            let weights = rrf.weights.into_iter().map(OrderedFloat).collect::<Vec<_>>();
            let weights = (!weights.is_empty()).then_some(weights);
            let k = rrf.k.and_then(|k| usize::try_from(k).ok()).unwrap_or(RRF_K);
            Ok(ScoringQuery::Fusion(Fusion::Rrf { k, weights }))
        }
        Variant::Sample(_) => Ok(ScoringQuery::Sample(Sample::Random)),
        other => Err(Status::unimplemented(format!("queries of the kind {}", kind_of(&other)))),
    }
}

/// Converts an MMR query. Qdrant's defaults are a diversity of 0.5 and as many candidates as
/// results.
fn mmr(query: NearestInputWithMmr, using: &str, lookup: &Lookup, limit: usize) -> Result<Mmr, Status> {
    let nearest = query.nearest.ok_or_else(|| Status::invalid_argument("the MMR query has no vector"))?;
    let params = query.mmr.unwrap_or_default();
    let diversity = params.diversity.unwrap_or(0.5);
    if !(0.0..=1.0).contains(&diversity) {
        return Err(Status::invalid_argument(format!("MMR's diversity is {diversity}; give 0 to 1")));
    }
    let candidates = params.candidates_limit.map_or(limit, |candidates| candidates as usize);
    if candidates == 0 || candidates > MAX_MMR_CANDIDATES {
        let text = format!("MMR has {candidates} candidates; give 1 to {MAX_MMR_CANDIDATES}");
        return Err(Status::invalid_argument(text));
    }
    Ok(Mmr {
        vector: input_vector(nearest, using, lookup)?,
        using: using.into(),
        lambda: OrderedFloat(1.0 - diversity),
        candidates_limit: candidates,
    })
}

fn kind_of(variant: &Variant) -> &'static str {
    match variant {
        Variant::Recommend(_) => "recommend",
        Variant::Discover(_) => "discover",
        Variant::Context(_) => "context",
        Variant::Formula(_) => "formula",
        Variant::NearestWithMmr(_) => "nearest with MMR",
        Variant::RelevanceFeedback(_) => "relevance feedback",
        Variant::Text(_) => "text",
        Variant::Nearest(_) => "nearest",
        Variant::OrderBy(_) => "order by",
        Variant::Fusion(_) => "fusion",
        Variant::Rrf(_) => "reciprocal rank fusion",
        Variant::Sample(_) => "sample",
    }
}

fn input_vector(input: VectorInput, using: &str, lookup: &Lookup) -> Result<VectorInternal, Status> {
    match input.variant {
        Some(InputVariant::Dense(dense)) => Ok(VectorInternal::Dense(dense.data)),
        Some(InputVariant::Sparse(sparse)) => {
            Ok(VectorInternal::Sparse(vectors::sparse_to_edge(sparse.indices, sparse.values)?))
        }
        Some(InputVariant::MultiDense(multi)) => {
            Ok(VectorInternal::MultiDense(vectors::multi_to_edge(multi.vectors)?))
        }
        Some(InputVariant::Id(id)) => {
            let id = ids::to_edge(Some(id))?;
            let found = lookup.get(&(using.to_owned(), id)).cloned();
            found.ok_or_else(|| {
                Status::not_found(format!("no point {id} with a vector {using:?} to query by"))
            })
        }
        Some(InputVariant::Document(_) | InputVariant::Image(_) | InputVariant::Object(_)) => {
            Err(Status::unimplemented("the embedded index does not embed: query with a vector or an id"))
        }
        None => Err(Status::invalid_argument("the query has no vector")),
    }
}

pub(crate) fn order_by(order: OrderBy) -> Result<EdgeOrderBy, Status> {
    let direction = match order.direction.map(OrderDirection::try_from) {
        Some(Ok(OrderDirection::Desc)) => Some(Direction::Desc),
        Some(Ok(OrderDirection::Asc)) => Some(Direction::Asc),
        _ => None,
    };
    let start_from = order.start_from.and_then(|start| start.value).map(start_from).transpose()?;
    Ok(EdgeOrderBy { key: path(&order.key)?, direction, start_from })
}

fn start_from(value: StartValue) -> Result<StartFrom, Status> {
    match value {
        StartValue::Integer(integer) => Ok(StartFrom::Integer(integer)),
        StartValue::Float(float) => Ok(StartFrom::Float(float)),
        StartValue::Timestamp(stamp) => from_json("start_from", serde_json::Value::String(stamp.to_string())),
        StartValue::Datetime(text) => from_json("start_from", serde_json::Value::String(text)),
    }
}

fn params(params: SearchParams) -> Result<EdgeParams, Status> {
    let acorn = params.acorn.filter(|acorn| acorn.enable == Some(true));
    if params.idf.is_some() {
        return Err(Status::unimplemented("searches with idf statistics of a corpus"));
    }
    let quantization = params.quantization.map(|quantisation| QuantizationSearchParams {
        ignore: quantisation.ignore.unwrap_or(false),
        rescore: quantisation.rescore,
        oversampling: quantisation.oversampling,
    });
    let acorn = acorn.map(|acorn| {
        object([
            ("enable", Some(serde_json::json!(true))),
            ("max_selectivity", acorn.max_selectivity.map(|selectivity| serde_json::json!(selectivity))),
        ])
    });
    Ok(EdgeParams {
        hnsw_ef: params.hnsw_ef.and_then(|ef| usize::try_from(ef).ok()),
        exact: params.exact.unwrap_or(false),
        quantization,
        indexed_only: params.indexed_only.unwrap_or(false),
        acorn: acorn.map(|acorn| from_json("acorn", acorn)).transpose()?,
        ..Default::default()
    })
}

pub(crate) fn scored_from_edge(point: EdgeScored) -> ScoredPoint {
    ScoredPoint {
        id: Some(ids::from_edge(point.id)),
        payload: payload::from_edge(point.payload),
        score: point.score,
        version: point.version,
        vectors: vectors::from_edge(point.vector),
        shard_key: None,
        order_value: point.order_value.map(payload::order_value_from_edge),
    }
}

pub(crate) fn record_from_edge(record: Record) -> RetrievedPoint {
    RetrievedPoint {
        id: Some(ids::from_edge(record.id)),
        payload: payload::from_edge(record.payload),
        vectors: vectors::from_edge(record.vector),
        shard_key: None,
        order_value: record.order_value.map(payload::order_value_from_edge),
    }
}
