//! The Points service: writing points, reading them, searching.

use std::time::Instant;

use qdrant_client::qdrant::{
    ClearPayloadPoints, CountPoints, CountResponse, CountResult, CreateFieldIndexCollection,
    CreateVectorNameRequest, DeleteFieldIndexCollection, DeletePayloadPoints, DeletePointVectors,
    DeletePoints, DeleteVectorNameRequest, DiscoverBatchPoints, DiscoverBatchResponse, DiscoverPoints,
    DiscoverResponse, FacetCounts, FacetResponse, GetPoints, GetResponse, PointsOperationResponse,
    QueryBatchPoints, QueryBatchResponse, QueryGroupsResponse, QueryPointGroups, QueryPoints, QueryResponse,
    RecommendBatchPoints, RecommendBatchResponse, RecommendGroupsResponse, RecommendPointGroups,
    RecommendPoints, RecommendResponse, ScrollPoints, ScrollResponse, SearchBatchPoints, SearchBatchResponse,
    SearchGroupsResponse, SearchMatrixOffsetsResponse, SearchMatrixPairsResponse, SearchMatrixPoints,
    SearchPointGroups, SearchPoints, SearchResponse, SetPayloadPoints, UpdateBatchPoints,
    UpdateBatchResponse, UpdatePointVectors, UpdateResult, UpdateStatus, UpsertPoints, points_server,
};
use qdrant_edge::{CreateIndex, FieldIndexOperations, UpdateOperation};
use tonic::{Request, Response, Status};

use super::{GrpcResult, Service, reads, seconds, writes};
use crate::convert::{ids, path, payload_index, query};
use crate::shard::{Shape, Shard, Written};
use crate::status::unimplemented;

#[tonic::async_trait]
impl points_server::Points for Service {
    async fn upsert(&self, request: Request<UpsertPoints>) -> GrpcResult<PointsOperationResponse> {
        let UpsertPoints { collection_name, wait, points, update_filter, update_mode, .. } =
            request.into_inner();
        self.change(&collection_name, wait, |shape| writes::upsert(points, update_filter, update_mode, shape))
            .await
    }

    async fn delete(&self, request: Request<DeletePoints>) -> GrpcResult<PointsOperationResponse> {
        let DeletePoints { collection_name, wait, points, .. } = request.into_inner();
        self.change(&collection_name, wait, |_| writes::delete(points)).await
    }

    async fn update_vectors(
        &self,
        request: Request<UpdatePointVectors>,
    ) -> GrpcResult<PointsOperationResponse> {
        let UpdatePointVectors { collection_name, wait, points, update_filter, .. } = request.into_inner();
        self.change(&collection_name, wait, |shape| writes::update_vectors(points, update_filter, shape))
            .await
    }

    async fn delete_vectors(
        &self,
        request: Request<DeletePointVectors>,
    ) -> GrpcResult<PointsOperationResponse> {
        let DeletePointVectors { collection_name, wait, points_selector, vectors, .. } = request.into_inner();
        self.change(&collection_name, wait, |shape| writes::delete_vectors(points_selector, vectors, shape))
            .await
    }

    async fn set_payload(&self, request: Request<SetPayloadPoints>) -> GrpcResult<PointsOperationResponse> {
        let SetPayloadPoints { collection_name, wait, payload, points_selector, key, .. } =
            request.into_inner();
        self.change(&collection_name, wait, |_| writes::set_payload(payload, points_selector, key, false))
            .await
    }

    async fn overwrite_payload(
        &self,
        request: Request<SetPayloadPoints>,
    ) -> GrpcResult<PointsOperationResponse> {
        let SetPayloadPoints { collection_name, wait, payload, points_selector, key, .. } =
            request.into_inner();
        self.change(&collection_name, wait, |_| writes::set_payload(payload, points_selector, key, true))
            .await
    }

    async fn delete_payload(
        &self,
        request: Request<DeletePayloadPoints>,
    ) -> GrpcResult<PointsOperationResponse> {
        let DeletePayloadPoints { collection_name, wait, keys, points_selector, .. } = request.into_inner();
        self.change(&collection_name, wait, |_| writes::delete_payload(keys, points_selector)).await
    }

    async fn clear_payload(
        &self,
        request: Request<ClearPayloadPoints>,
    ) -> GrpcResult<PointsOperationResponse> {
        let ClearPayloadPoints { collection_name, wait, points, .. } = request.into_inner();
        self.change(&collection_name, wait, |_| writes::clear_payload(points)).await
    }

    async fn update_batch(&self, request: Request<UpdateBatchPoints>) -> GrpcResult<UpdateBatchResponse> {
        let began = Instant::now();
        let UpdateBatchPoints { collection_name, wait, operations, .. } = request.into_inner();
        let shard = self.shard(&collection_name)?;
        let mut result = Vec::with_capacity(operations.len());
        for operation in operations.into_iter().filter_map(|operation| operation.operation) {
            let operations = writes::of_batch(operation, shard.shape())?;
            result.push(update_result(shard.write(operations, wait.unwrap_or(false)).await?));
        }
        Ok(Response::new(UpdateBatchResponse { result, time: seconds(began), usage: None }))
    }

    async fn create_field_index(
        &self,
        request: Request<CreateFieldIndexCollection>,
    ) -> GrpcResult<PointsOperationResponse> {
        let create = request.into_inner();
        let schema = payload_index::schema_to_edge(create.field_type, create.field_index_params)?;
        let index = CreateIndex { field_name: path(&create.field_name)?, field_schema: Some(schema) };
        let operation = UpdateOperation::FieldIndexOperation(FieldIndexOperations::CreateIndex(index));
        self.change(&create.collection_name, create.wait, |_| Ok(vec![operation])).await
    }

    async fn delete_field_index(
        &self,
        request: Request<DeleteFieldIndexCollection>,
    ) -> GrpcResult<PointsOperationResponse> {
        let delete = request.into_inner();
        let index = FieldIndexOperations::DeleteIndex(path(&delete.field_name)?);
        let operation = UpdateOperation::FieldIndexOperation(index);
        self.change(&delete.collection_name, delete.wait, |_| Ok(vec![operation])).await
    }

    async fn get(&self, request: Request<GetPoints>) -> GrpcResult<GetResponse> {
        let (began, request) = (Instant::now(), request.into_inner());
        let shard = self.shard(&request.collection_name)?;
        let result = reads::get(&shard, request).await?;
        Ok(Response::new(GetResponse { result, time: seconds(began), usage: None }))
    }

    async fn scroll(&self, request: Request<ScrollPoints>) -> GrpcResult<ScrollResponse> {
        let (began, request) = (Instant::now(), request.into_inner());
        let shard = self.shard(&request.collection_name)?;
        let (result, next) = reads::scroll(&shard, request).await?;
        let next_page_offset = next.map(ids::from_edge);
        Ok(Response::new(ScrollResponse { next_page_offset, result, time: seconds(began), usage: None }))
    }

    async fn count(&self, request: Request<CountPoints>) -> GrpcResult<CountResponse> {
        let (began, request) = (Instant::now(), request.into_inner());
        let shard = self.shard(&request.collection_name)?;
        let result = Some(CountResult { count: reads::count(&shard, request).await? });
        Ok(Response::new(CountResponse { result, time: seconds(began), usage: None }))
    }

    async fn facet(&self, request: Request<FacetCounts>) -> GrpcResult<FacetResponse> {
        let (began, request) = (Instant::now(), request.into_inner());
        let shard = self.shard(&request.collection_name)?;
        let hits = reads::facet(&shard, request).await?;
        Ok(Response::new(FacetResponse { hits, time: seconds(began), usage: None }))
    }

    async fn query(&self, request: Request<QueryPoints>) -> GrpcResult<QueryResponse> {
        let (began, request) = (Instant::now(), request.into_inner());
        let shard = self.shard(&request.collection_name)?;
        let result = reads::query(&shard, request).await?;
        Ok(Response::new(QueryResponse { result, time: seconds(began), usage: None }))
    }

    async fn query_batch(&self, request: Request<QueryBatchPoints>) -> GrpcResult<QueryBatchResponse> {
        let began = Instant::now();
        let QueryBatchPoints { collection_name, query_points, .. } = request.into_inner();
        let parts = query_points.iter().map(|query| query.collection_name.as_str());
        reads::check_same_collection(&collection_name, parts)?;
        let shard = self.shard(&collection_name)?;
        let result = reads::query_batch(&shard, query_points).await?;
        Ok(Response::new(QueryBatchResponse { result, time: seconds(began), usage: None }))
    }

    async fn search(&self, request: Request<SearchPoints>) -> GrpcResult<SearchResponse> {
        let (began, request) = (Instant::now(), request.into_inner());
        let shard = self.shard(&request.collection_name)?;
        let result =
            batch_of_searches(&shard, vec![request]).await?.into_iter().flat_map(|one| one.result).collect();
        Ok(Response::new(SearchResponse { result, time: seconds(began), usage: None }))
    }

    async fn search_batch(&self, request: Request<SearchBatchPoints>) -> GrpcResult<SearchBatchResponse> {
        let began = Instant::now();
        let SearchBatchPoints { collection_name, search_points, .. } = request.into_inner();
        let parts = search_points.iter().map(|search| search.collection_name.as_str());
        reads::check_same_collection(&collection_name, parts)?;
        let shard = self.shard(&collection_name)?;
        let result = batch_of_searches(&shard, search_points).await?;
        Ok(Response::new(SearchBatchResponse { result, time: seconds(began), usage: None }))
    }

    async fn create_vector_name(
        &self,
        _: Request<CreateVectorNameRequest>,
    ) -> GrpcResult<PointsOperationResponse> {
        unimplemented("Points.CreateVectorName")
    }

    async fn delete_vector_name(
        &self,
        _: Request<DeleteVectorNameRequest>,
    ) -> GrpcResult<PointsOperationResponse> {
        unimplemented("Points.DeleteVectorName")
    }

    async fn search_groups(&self, request: Request<SearchPointGroups>) -> GrpcResult<SearchGroupsResponse> {
        let (began, request) = (Instant::now(), query::of_search_groups(request.into_inner()));
        let shard = self.shard(&request.collection_name)?;
        let result = Some(reads::query_groups(&shard, request).await?);
        Ok(Response::new(SearchGroupsResponse { result, time: seconds(began), usage: None }))
    }

    async fn recommend(&self, _: Request<RecommendPoints>) -> GrpcResult<RecommendResponse> {
        unimplemented("Points.Recommend")
    }

    async fn recommend_batch(&self, _: Request<RecommendBatchPoints>) -> GrpcResult<RecommendBatchResponse> {
        unimplemented("Points.RecommendBatch")
    }

    async fn recommend_groups(
        &self,
        _: Request<RecommendPointGroups>,
    ) -> GrpcResult<RecommendGroupsResponse> {
        unimplemented("Points.RecommendGroups")
    }

    async fn discover(&self, _: Request<DiscoverPoints>) -> GrpcResult<DiscoverResponse> {
        unimplemented("Points.Discover")
    }

    async fn discover_batch(&self, _: Request<DiscoverBatchPoints>) -> GrpcResult<DiscoverBatchResponse> {
        unimplemented("Points.DiscoverBatch")
    }

    async fn query_groups(&self, request: Request<QueryPointGroups>) -> GrpcResult<QueryGroupsResponse> {
        let (began, request) = (Instant::now(), request.into_inner());
        let shard = self.shard(&request.collection_name)?;
        let result = Some(reads::query_groups(&shard, request).await?);
        Ok(Response::new(QueryGroupsResponse { result, time: seconds(began), usage: None }))
    }

    async fn search_matrix_pairs(
        &self,
        _: Request<SearchMatrixPoints>,
    ) -> GrpcResult<SearchMatrixPairsResponse> {
        unimplemented("Points.SearchMatrixPairs")
    }

    async fn search_matrix_offsets(
        &self,
        _: Request<SearchMatrixPoints>,
    ) -> GrpcResult<SearchMatrixOffsetsResponse> {
        unimplemented("Points.SearchMatrixOffsets")
    }
}

impl Service {
    /// Checks a change against the collection's shape and writes it.
    async fn change<F>(
        &self,
        collection: &str,
        wait: Option<bool>,
        operations: F,
    ) -> GrpcResult<PointsOperationResponse>
    where
        F: FnOnce(&Shape) -> Result<Vec<UpdateOperation>, Status> + Send,
    {
        let began = Instant::now();
        let shard = self.shard(collection)?;
        let operations = operations(shard.shape())?;
        let written = shard.write(operations, wait.unwrap_or(false)).await?;
        let result = Some(update_result(written));
        Ok(Response::new(PointsOperationResponse { result, time: seconds(began), usage: None }))
    }
}

async fn batch_of_searches(
    shard: &Shard,
    searches: Vec<SearchPoints>,
) -> Result<Vec<qdrant_client::qdrant::BatchResult>, Status> {
    reads::query_batch(shard, reads::of_searches(searches)).await
}

fn update_result(written: Written) -> UpdateResult {
    let status = if written.completed { UpdateStatus::Completed } else { UpdateStatus::Acknowledged };
    UpdateResult { operation_id: Some(written.operation_id), status: status.into() }
}
