//! The Snapshots service, of which the embedded index has none: stop it and copy its folder.

use qdrant_client::qdrant::{
    CreateFullSnapshotRequest, CreateSnapshotRequest, CreateSnapshotResponse, DeleteFullSnapshotRequest,
    DeleteSnapshotRequest, DeleteSnapshotResponse, ListFullSnapshotsRequest, ListSnapshotsRequest,
    ListSnapshotsResponse, snapshots_server,
};
use tonic::Request;

use super::{Answer, Service};
use crate::status::unimplemented;

#[tonic::async_trait]
impl snapshots_server::Snapshots for Service {
    async fn create(&self, _: Request<CreateSnapshotRequest>) -> Answer<CreateSnapshotResponse> {
        unimplemented("Snapshots.Create")
    }

    async fn list(&self, _: Request<ListSnapshotsRequest>) -> Answer<ListSnapshotsResponse> {
        unimplemented("Snapshots.List")
    }

    async fn delete(&self, _: Request<DeleteSnapshotRequest>) -> Answer<DeleteSnapshotResponse> {
        unimplemented("Snapshots.Delete")
    }

    async fn create_full(&self, _: Request<CreateFullSnapshotRequest>) -> Answer<CreateSnapshotResponse> {
        unimplemented("Snapshots.CreateFull")
    }

    async fn list_full(&self, _: Request<ListFullSnapshotsRequest>) -> Answer<ListSnapshotsResponse> {
        unimplemented("Snapshots.ListFull")
    }

    async fn delete_full(&self, _: Request<DeleteFullSnapshotRequest>) -> Answer<DeleteSnapshotResponse> {
        unimplemented("Snapshots.DeleteFull")
    }
}
