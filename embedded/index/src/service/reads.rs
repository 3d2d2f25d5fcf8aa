//! Reads of points: converts messages to edge's requests, and the results back to messages.

use std::sync::Arc;

use qdrant_client::qdrant::{
    BatchResult, CountPoints, FacetCounts, FacetHit, FacetValue, GetPoints, GroupId, GroupsResult,
    PointGroup, QueryPointGroups, QueryPoints, RetrievedPoint, ScoredPoint, ScrollPoints, SearchPoints,
    facet_value, group_id,
};
use qdrant_edge::external::uuid::Uuid;
use qdrant_edge::{
    CountRequest, EdgeShard, EdgeShardRead, FacetRequest, FacetValue as EdgeFacetValue, Group, GroupRequest,
    OperationResult, OrderByInterface, PointId as EdgeId, QueryBatchRequest, RetrieveRequest, ScrollRequest,
    VectorStructInternal, WithPayloadInterface, WithVector,
};
use tonic::Status;

use crate::convert::query::Lookup;
use crate::convert::{filter, ids, path, payload, query, vectors};
use crate::shard::Shard;

/// Qdrant's default limit of a scroll or a facet.
const DEFAULT_LIMIT: usize = 10;
/// Qdrant's default group size.
const DEFAULT_GROUP_SIZE: u64 = 3;

pub(super) async fn get(shard: &Shard, get: GetPoints) -> Result<Vec<RetrievedPoint>, Status> {
    let request = RetrieveRequest {
        point_ids: ids::list_to_edge(get.ids)?,
        with_payload: Some(payload::selector_to_edge(get.with_payload, true)?),
        with_vector: Some(vectors::selector_to_edge(get.with_vectors)),
    };
    let records = shard.read(move |edge| edge.retrieve(request)).await?;
    Ok(records.into_iter().map(query::record_from_edge).collect())
}

pub(super) async fn scroll(
    shard: &Shard,
    scroll: ScrollPoints,
) -> Result<(Vec<RetrievedPoint>, Option<EdgeId>), Status> {
    let limit = scroll.limit.map_or(DEFAULT_LIMIT, |limit| limit as usize);
    if limit == 0 {
        return Err(Status::invalid_argument("the limit is 0; ask for one point at least"));
    }
    let request = ScrollRequest {
        offset: scroll.offset.map(|id| ids::to_edge(Some(id))).transpose()?,
        limit: Some(limit),
        filter: filter::to_edge(scroll.filter)?,
        with_payload: Some(payload::selector_to_edge(scroll.with_payload, true)?),
        with_vector: vectors::selector_to_edge(scroll.with_vectors),
        order_by: scroll.order_by.map(query::order_by).transpose()?.map(OrderByInterface::Struct),
    };
    let (records, next) = shard.read(move |edge| edge.scroll(request)).await?;
    Ok((records.into_iter().map(query::record_from_edge).collect(), next))
}

pub(super) async fn count(shard: &Shard, count: CountPoints) -> Result<u64, Status> {
    let request = CountRequest { filter: filter::to_edge(count.filter)?, exact: count.exact.unwrap_or(true) };
    Ok(shard.read(move |edge| edge.count(request)).await? as u64)
}

pub(super) async fn facet(shard: &Shard, facet: FacetCounts) -> Result<Vec<FacetHit>, Status> {
    let request = FacetRequest {
        key: path(&facet.key)?,
        limit: facet.limit.map_or(DEFAULT_LIMIT, |limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        filter: filter::to_edge(facet.filter)?,
        exact: facet.exact.unwrap_or(false),
    };
    let response = shard.read(move |edge| edge.facet(request)).await?;
    Ok(response.hits.into_iter().map(|hit| facet_hit(hit.value, hit.count)).collect())
}

fn facet_hit(value: EdgeFacetValue, count: usize) -> FacetHit {
    let variant = match value {
        EdgeFacetValue::Keyword(keyword) => facet_value::Variant::StringValue(keyword),
        EdgeFacetValue::Int(integer) => facet_value::Variant::IntegerValue(integer),
        EdgeFacetValue::Uuid(uuid) => facet_value::Variant::StringValue(Uuid::from_u128(uuid).to_string()),
        EdgeFacetValue::Bool(boolean) => facet_value::Variant::BoolValue(boolean),
    };
    FacetHit { value: Some(FacetValue { variant: Some(variant) }), count: count as u64 }
}

/// Runs several queries of one collection, planned and executed together.
pub(super) async fn query_batch(
    shard: &Shard,
    queries: Vec<QueryPoints>,
) -> Result<Vec<BatchResult>, Status> {
    for query in &queries {
        if let Some(using) = &query.using {
            shard.shape().check_name(using)?;
        }
    }
    let mut wanted = Vec::new();
    for query in &queries {
        wanted.extend(query::wanted(query)?);
    }
    let lookup = look_up(shard, wanted).await?;
    let queries =
        queries.into_iter().map(|query| query::to_edge(query, &lookup)).collect::<Result<_, _>>()?;
    let answers = shard.read(move |edge| edge.query_batch(QueryBatchRequest::new(queries))).await?;
    let result =
        |points: Vec<_>| BatchResult { result: points.into_iter().map(query::scored_from_edge).collect() };
    Ok(answers.into_iter().map(result).collect())
}

pub(super) async fn query(shard: &Shard, query: QueryPoints) -> Result<Vec<ScoredPoint>, Status> {
    let mut answers = query_batch(shard, vec![query]).await?;
    let answer = answers.pop().ok_or_else(|| Status::internal("the index gave no answer to a query"))?;
    Ok(answer.result)
}

/// Returns the best points of each of the best groups. A group is a value of a payload field.
pub(super) async fn query_groups(shard: &Shard, groups: QueryPointGroups) -> Result<GroupsResult, Status> {
    if groups.with_lookup.is_some() {
        return Err(Status::unimplemented(
            "the embedded index looks up nothing for groups in other collections",
        ));
    }
    let (group_by, group_size) = (path(&groups.group_by)?, groups.group_size.unwrap_or(DEFAULT_GROUP_SIZE));
    let query = query::of_groups(groups);
    if let Some(using) = &query.using {
        shard.shape().check_name(using)?;
    }
    let lookup = look_up(shard, query::wanted(&query)?).await?;
    let query = query::to_edge(query, &lookup)?;
    let group_size = match usize::try_from(group_size) {
        Ok(0) | Err(_) => {
            return Err(Status::invalid_argument("the group size is 0; ask for one point at least"));
        }
        Ok(size) => size,
    };
    let count = query.limit;
    let request = GroupRequest::new(query, group_by, count, group_size);
    let found = shard.read(move |edge| edge.query_groups(request)).await?;
    Ok(GroupsResult { groups: found.into_iter().map(group_from_edge).collect::<Result<_, _>>()? })
}

fn group_from_edge(group: Group) -> Result<PointGroup, Status> {
    // Edge does not export the type of the key, but serialises it as plain JSON.
    let key = serde_json::to_value(&group.key).map_err(|error| Status::internal(error.to_string()))?;
    let kind = match (key.as_u64(), key.as_i64(), key.as_str()) {
        (Some(number), ..) => group_id::Kind::UnsignedValue(number),
        (None, Some(number), _) => group_id::Kind::IntegerValue(number),
        (None, None, text) => group_id::Kind::StringValue(text.unwrap_or_default().to_owned()),
    };
    let hits = group.hits.into_iter().map(query::scored_from_edge).collect();
    Ok(PointGroup { id: Some(GroupId { kind: Some(kind) }), hits, lookup: None })
}

pub(super) fn of_searches(searches: Vec<SearchPoints>) -> Vec<QueryPoints> {
    searches.into_iter().map(query::of_search).collect()
}

/// Checks that all parts of a batch use the same collection. A part may leave it out.
pub(super) fn check_same_collection<'a>(
    batch: &str,
    parts: impl IntoIterator<Item = &'a str>,
) -> Result<(), Status> {
    match parts.into_iter().find(|part| !part.is_empty() && *part != batch) {
        Some(other) => {
            let text = format!("the batch is for the collection {batch:?}, one part of it for {other:?}");
            Err(Status::invalid_argument(text))
        }
        None => Ok(()),
    }
}

/// Fetches the vectors of the points that queries refer to.
async fn look_up(shard: &Shard, wanted: Vec<(String, EdgeId)>) -> Result<Lookup, Status> {
    if wanted.is_empty() {
        return Ok(Lookup::new());
    }
    let wanted = Arc::new(wanted);
    let asked = Arc::clone(&wanted);
    let records = shard.read(move |edge| retrieve_vectors(edge, &asked)).await?;
    let mut lookup = Lookup::new();
    for record in records {
        let named = named(record.vector);
        for (name, id) in wanted.iter().filter(|(_, id)| *id == record.id) {
            if let Some((_, vector)) = named.iter().find(|(known, _)| known == name) {
                lookup.insert((name.clone(), *id), vector.clone());
            }
        }
    }
    Ok(lookup)
}

fn retrieve_vectors(
    edge: &EdgeShard,
    wanted: &[(String, EdgeId)],
) -> OperationResult<Vec<qdrant_edge::Record>> {
    let mut request = RetrieveRequest::new(wanted.iter().map(|(_, id)| *id).collect());
    request.with_payload = Some(WithPayloadInterface::Bool(false));
    request.with_vector = Some(WithVector::Selector(wanted.iter().map(|(name, _)| name.clone()).collect()));
    edge.retrieve(request)
}

fn named(vectors: Option<VectorStructInternal>) -> Vec<(String, qdrant_edge::VectorInternal)> {
    use qdrant_edge::VectorInternal;
    match vectors {
        None => Vec::new(),
        Some(VectorStructInternal::Single(dense)) => vec![(String::new(), VectorInternal::Dense(dense))],
        Some(VectorStructInternal::MultiDense(multi)) => {
            vec![(String::new(), VectorInternal::MultiDense(multi))]
        }
        Some(VectorStructInternal::Named(named)) => named.into_iter().collect(),
    }
}
