//! The services of a connection: nisshi's services, with the long poll in front of its fetch.

use nisshi_broker::coordinator::group::administrator::Controller;
use nisshi_broker::service::{auth, coordinator, storage};
use nisshi_broker::{Error, Result};
use nisshi_sans_io::{ApiKey as _, FetchRequest};
use nisshi_service::{
    BytesFrameLayer, BytesFrameService, FrameRequestLayer, FrameRouteBuilder, FrameRouteService,
    TcpBytesLayer, TcpBytesService, TcpContext, TcpContextLayer, TcpContextService,
};
use nisshi_storage::{FetchService, FetchValidationLayer};
use rama::layer::MapErrLayer;
use rama::{Layer as _, Service as _};

use crate::CLUSTER;
use crate::long_poll::LongPoll;
use crate::plain_versions::PlainVersions;
use crate::quick_storage::QuickStorage;

/// The group coordinator.
pub(crate) type Groups = Controller<QuickStorage>;

type Connection =
    TcpContextService<TcpBytesService<BytesFrameService<PlainVersions<FrameRouteService<Error>>>>>;

/// Builds the services of one connection.
pub(crate) fn services(groups: Groups, quick: QuickStorage) -> Result<Connection> {
    let builder = stored(FrameRouteService::<Error>::builder(), quick)?;
    let route = coordinator::services(builder, groups).and_then(auth::services)?.build()?;
    let layers = (
        TcpContextLayer::new(TcpContext::default().cluster_id(Some(CLUSTER.into()))),
        TcpBytesLayer,
        BytesFrameLayer::default(),
    );
    Ok(layers.into_layer(PlainVersions(route)))
}

/// Adds the routes that the storage answers. Transactions are refused: nisshi's SQLite storage does
/// not support them.
fn stored(builder: FrameRouteBuilder<Error>, quick: QuickStorage) -> Result<FrameRouteBuilder<Error>> {
    let nisshis = [
        storage::alter_user_scram_credentials,
        storage::consumer_group_describe,
        storage::create_acls,
        storage::create_topics,
        storage::delete_acls,
        storage::delete_records,
        storage::delete_topics,
        storage::describe_acls,
        storage::describe_cluster,
        storage::describe_configs,
        storage::describe_topic_partitions,
        storage::describe_user_scram_credentials,
        storage::find_coordinator,
        storage::incremental_alter_configs,
        storage::init_producer_id,
        storage::list_offsets,
        storage::list_partition_reassignments,
        storage::metadata,
        storage::produce,
        storage::add_offsets_to_txn,
        storage::add_partitions_to_txn,
        storage::end_txn,
        storage::txn_offset_commit,
    ];
    let builder = nisshis.iter().try_fold(builder, |builder, service| service(builder, quick.clone()))?;
    fetch(builder, quick)
}

fn fetch(builder: FrameRouteBuilder<Error>, quick: QuickStorage) -> Result<FrameRouteBuilder<Error>> {
    let fetch = FetchValidationLayer::new().into_layer(FetchService { storage: quick.clone() });
    let service = (MapErrLayer::new(Error::from), FrameRequestLayer::<FetchRequest>::new());
    let service = service.into_layer(LongPoll::new(fetch, quick)).boxed();
    builder.with_route(FetchRequest::KEY, service).map_err(Into::into)
}
