//! The Collections service: collections, their descriptions and their aliases.

use std::collections::HashMap;
use std::time::Instant;

use qdrant_client::qdrant::{
    AliasDescription, ChangeAliases, CollectionClusterInfoRequest, CollectionClusterInfoResponse,
    CollectionDescription, CollectionExists, CollectionExistsRequest, CollectionExistsResponse,
    CollectionInfo, CollectionOperationResponse, CollectionStatus, CreateCollection, CreateShardKeyRequest,
    CreateShardKeyResponse, DeleteCollection, DeleteShardKeyRequest, DeleteShardKeyResponse,
    GetCollectionInfoRequest, GetCollectionInfoResponse, ListAliasesRequest, ListAliasesResponse,
    ListCollectionAliasesRequest, ListCollectionsRequest, ListCollectionsResponse, ListShardKeysRequest,
    ListShardKeysResponse, OptimizerStatus, UpdateCollection, UpdateCollectionClusterSetupRequest,
    UpdateCollectionClusterSetupResponse, collections_server,
};
use tonic::{Request, Response, Status};

use super::{GrpcResult, Service, seconds};
use crate::convert::{config, payload_index, update};
use crate::shard::{OptimisationProgress, Shard};
use crate::status::unimplemented;
use crate::store::CollectionStore;

#[tonic::async_trait]
impl collections_server::Collections for Service {
    async fn get(&self, request: Request<GetCollectionInfoRequest>) -> GrpcResult<GetCollectionInfoResponse> {
        let began = Instant::now();
        let name = request.into_inner().collection_name;
        let info = self.blocking(move |store| describe(&*store.shard(&name)?)).await?;
        Ok(Response::new(GetCollectionInfoResponse { result: Some(info), time: seconds(began) }))
    }

    async fn list(&self, _: Request<ListCollectionsRequest>) -> GrpcResult<ListCollectionsResponse> {
        let began = Instant::now();
        let collections = self.store.names().into_iter().map(|name| CollectionDescription { name }).collect();
        Ok(Response::new(ListCollectionsResponse { collections, time: seconds(began) }))
    }

    async fn create(&self, request: Request<CreateCollection>) -> GrpcResult<CollectionOperationResponse> {
        let create = request.into_inner();
        let name = create.collection_name.clone();
        let config = config::of_create(create)?;
        self.operate(move |store| store.create(&name, config).map(|()| true)).await
    }

    async fn update(&self, request: Request<UpdateCollection>) -> GrpcResult<CollectionOperationResponse> {
        let update = request.into_inner();
        self.operate(move |store| {
            let name = update.collection_name.clone();
            store.update(&name, |config| update::apply(config, update)).map(|()| true)
        })
        .await
    }

    async fn delete(&self, request: Request<DeleteCollection>) -> GrpcResult<CollectionOperationResponse> {
        let name = request.into_inner().collection_name;
        self.operate(move |store| store.delete(&name)).await
    }

    async fn update_aliases(
        &self,
        request: Request<ChangeAliases>,
    ) -> GrpcResult<CollectionOperationResponse> {
        let actions =
            request.into_inner().actions.into_iter().filter_map(|operation| operation.action).collect();
        self.operate(move |store| store.change_aliases(actions).map(|()| true)).await
    }

    async fn list_collection_aliases(
        &self,
        request: Request<ListCollectionAliasesRequest>,
    ) -> GrpcResult<ListAliasesResponse> {
        let began = Instant::now();
        let shard = self.shard(&request.into_inner().collection_name)?;
        let aliases = descriptions(&self.store, |collection| collection == shard.name());
        Ok(Response::new(ListAliasesResponse { aliases, time: seconds(began) }))
    }

    async fn list_aliases(&self, _: Request<ListAliasesRequest>) -> GrpcResult<ListAliasesResponse> {
        let began = Instant::now();
        Ok(Response::new(ListAliasesResponse {
            aliases: descriptions(&self.store, |_| true),
            time: seconds(began),
        }))
    }

    async fn collection_exists(
        &self,
        request: Request<CollectionExistsRequest>,
    ) -> GrpcResult<CollectionExistsResponse> {
        let began = Instant::now();
        let exists = self.shard(&request.into_inner().collection_name).is_ok();
        let result = Some(CollectionExists { exists });
        Ok(Response::new(CollectionExistsResponse { result, time: seconds(began) }))
    }

    async fn collection_cluster_info(
        &self,
        _: Request<CollectionClusterInfoRequest>,
    ) -> GrpcResult<CollectionClusterInfoResponse> {
        unimplemented("Collections.CollectionClusterInfo")
    }

    async fn update_collection_cluster_setup(
        &self,
        _: Request<UpdateCollectionClusterSetupRequest>,
    ) -> GrpcResult<UpdateCollectionClusterSetupResponse> {
        unimplemented("Collections.UpdateCollectionClusterSetup")
    }

    async fn create_shard_key(
        &self,
        _: Request<CreateShardKeyRequest>,
    ) -> GrpcResult<CreateShardKeyResponse> {
        unimplemented("Collections.CreateShardKey")
    }

    async fn delete_shard_key(
        &self,
        _: Request<DeleteShardKeyRequest>,
    ) -> GrpcResult<DeleteShardKeyResponse> {
        unimplemented("Collections.DeleteShardKey")
    }

    async fn list_shard_keys(&self, _: Request<ListShardKeysRequest>) -> GrpcResult<ListShardKeysResponse> {
        unimplemented("Collections.ListShardKeys")
    }
}

impl Service {
    async fn operate<F>(&self, work: F) -> GrpcResult<CollectionOperationResponse>
    where
        F: FnOnce(&CollectionStore) -> Result<bool, Status> + Send + 'static,
    {
        let began = Instant::now();
        let result = self.blocking(work).await?;
        Ok(Response::new(CollectionOperationResponse { result, time: seconds(began) }))
    }
}

fn descriptions(store: &CollectionStore, of: impl Fn(&str) -> bool) -> Vec<AliasDescription> {
    let ours = store.aliases().into_iter().filter(|(_, collection)| of(collection));
    ours.map(|(alias_name, collection_name)| AliasDescription { alias_name, collection_name }).collect()
}

fn describe(shard: &Shard) -> Result<CollectionInfo, Status> {
    let OptimisationProgress { info, optimising, error } = shard.progress()?;
    let status = if optimising { CollectionStatus::Yellow } else { CollectionStatus::Green };
    let schema = info.payload_schema.iter();
    let payload_schema: HashMap<_, _> =
        schema.map(|(key, index)| (key.to_string(), payload_index::info_from_edge(index))).collect();
    Ok(CollectionInfo {
        status: status.into(),
        optimizer_status: Some(OptimizerStatus { ok: error.is_none(), error: error.unwrap_or_default() }),
        segments_count: info.segments_count as u64,
        config: Some(shard.config()),
        payload_schema,
        points_count: Some(info.points_count as u64),
        indexed_vectors_count: Some(info.indexed_vectors_count as u64),
        ..Default::default()
    })
}
