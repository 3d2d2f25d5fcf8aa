//! The Snapshots service, which the embedded index does not support: stop it and copy its folder
//! instead.

use qdrant_client::qdrant::{
    CreateFullSnapshotRequest, CreateSnapshotRequest, CreateSnapshotResponse, DeleteFullSnapshotRequest,
    DeleteSnapshotRequest, DeleteSnapshotResponse, ListFullSnapshotsRequest, ListSnapshotsRequest,
    ListSnapshotsResponse, snapshots_server,
};
use tonic::Request;

use super::{GrpcResult, Service};
use crate::status::unimplemented;

#[tonic::async_trait]
impl snapshots_server::Snapshots for Service {
    async fn create(&self, _: Request<CreateSnapshotRequest>) -> GrpcResult<CreateSnapshotResponse> {
        unimplemented("Snapshots.Create")
    }

    async fn list(&self, _: Request<ListSnapshotsRequest>) -> GrpcResult<ListSnapshotsResponse> {
        unimplemented("Snapshots.List")
    }

    async fn delete(&self, _: Request<DeleteSnapshotRequest>) -> GrpcResult<DeleteSnapshotResponse> {
        unimplemented("Snapshots.Delete")
    }

    async fn create_full(&self, _: Request<CreateFullSnapshotRequest>) -> GrpcResult<CreateSnapshotResponse> {
        unimplemented("Snapshots.CreateFull")
    }

    async fn list_full(&self, _: Request<ListFullSnapshotsRequest>) -> GrpcResult<ListSnapshotsResponse> {
        unimplemented("Snapshots.ListFull")
    }

    async fn delete_full(&self, _: Request<DeleteFullSnapshotRequest>) -> GrpcResult<DeleteSnapshotResponse> {
        unimplemented("Snapshots.DeleteFull")
    }
}
