//! Tests of refusals: a status code that a client can act on and a message that says what was
//! wrong.

use qdrant_client::qdrant::{
    Condition, CountPointsBuilder, CreateAliasBuilder, DiscoverInput, Filter, GetPointsBuilder, PointId,
    PointStruct, Query, QueryPointsBuilder, UpsertPointsBuilder,
};
use qdrant_client::{Payload, Qdrant, QdrantError};
use tonic::Code;
use unprompt_test_qdrant::{SERVER, TestEndpoint, small, unique};
use unprompt_test_skipped::skipped;

fn refused<T: std::fmt::Debug>(result: Result<T, QdrantError>) -> (Code, String) {
    match result.unwrap_err() {
        QdrantError::ResponseError { status } => (status.code(), status.message().to_owned()),
        other => panic!("{other:?} is not an answer"),
    }
}

async fn upsert(client: &Qdrant, name: &str, point: PointStruct) -> (Code, String) {
    refused(client.upsert_points(UpsertPointsBuilder::new(name, vec![point]).wait(true)).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_collection_is_not_found() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = (endpoint.client(), unique("missing"));
    let point = PointStruct::new(1, vec![1.0; 4], Payload::new());
    let answers = [
        refused(client.collection_info(&name).await),
        refused(client.count(CountPointsBuilder::new(&name)).await),
        refused(client.query(QueryPointsBuilder::new(&name).query(vec![1.0; 4])).await),
        upsert(&client, &name, point).await,
        refused(client.create_alias(CreateAliasBuilder::new(&name, unique("alias"))).await),
    ];
    for (code, message) in answers {
        assert_eq!(code, Code::NotFound, "{message}");
        assert!(message.contains(&name), "{message}");
    }
    assert!(!client.delete_collection(&name).await.unwrap().result);
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_a_collection_twice_is_refused() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = endpoint.collection().await;
    let (code, message) = refused(client.create_collection(small(&name)).await);
    assert!(matches!(code, Code::AlreadyExists | Code::InvalidArgument), "{code:?}");
    assert!(message.contains("already exists"), "{message}");
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_another_length_or_name_are_invalid_and_change_nothing() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = endpoint.collection().await;
    let short = upsert(&client, &name, PointStruct::new(1, vec![1.0; 3], Payload::new())).await;
    assert_eq!(short.0, Code::InvalidArgument);
    assert!(short.1.contains("expected dim: 4, got 3"), "{}", short.1);
    let named = qdrant_client::qdrant::NamedVectors::default().add_vector("other", vec![1.0; 4]);
    let other = upsert(&client, &name, PointStruct::new(1, named, Payload::new())).await;
    assert_eq!(other.0, Code::InvalidArgument);
    assert!(other.1.contains("other"), "{}", other.1);
    let query = refused(client.query(QueryPointsBuilder::new(&name).query(vec![1.0; 5])).await);
    assert_eq!(query.0, Code::InvalidArgument, "{}", query.1);
    let using = QueryPointsBuilder::new(&name).query(vec![1.0; 4]).using("other");
    assert_eq!(refused(client.query(using).await).0, Code::InvalidArgument);
    let count = client.count(CountPointsBuilder::new(&name).exact(true)).await.unwrap();
    assert_eq!(count.result.unwrap().count, 0);
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_ids_and_filters_are_invalid() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = endpoint.collection().await;
    let ids = vec![PointId::from("not-a-uuid")];
    let answers = [
        refused(client.get_points(GetPointsBuilder::new(&name, ids)).await),
        upsert(&client, &name, PointStruct::new("nor-this", vec![1.0; 4], Payload::new())).await,
        refused(
            client
                .count(CountPointsBuilder::new(&name).filter(Filter::must([Condition::is_null("a[")])))
                .await,
        ),
    ];
    for (code, message) in answers {
        assert_eq!(code, Code::InvalidArgument, "{message}");
    }
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_by_a_missing_point_is_not_found() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = endpoint.collection().await;
    let query = QueryPointsBuilder::new(&name).query(PointId::from(7u64));
    assert_eq!(refused(client.query(query).await).0, Code::NotFound);
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unsupported_requests_are_unimplemented_and_named_in_the_error() {
    if std::env::var(SERVER).is_ok() {
        return skipped(&format!("{SERVER} names a server, which covers it"));
    }
    let endpoint = TestEndpoint::start().await;
    let (client, name) = endpoint.collection().await;
    let discover =
        Query { variant: Some(qdrant_client::qdrant::query::Variant::Discover(DiscoverInput::default())) };
    let answers = [
        (refused(client.collection_cluster_info(name.as_str()).await), "CollectionClusterInfo"),
        (refused(client.query(QueryPointsBuilder::new(&name).query(discover)).await), "discover"),
        (refused(client.create_snapshot(name.as_str()).await), "Snapshots.Create"),
    ];
    for ((code, message), named) in answers {
        assert_eq!(code, Code::Unimplemented, "{message}");
        assert!(message.contains(named), "{message}");
    }
    endpoint.stop().await;
}
