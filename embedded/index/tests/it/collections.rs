//! Tests of collections, aliases and payload indexes.

use qdrant_client::qdrant::{
    CollectionStatus, Condition, CreateAliasBuilder, CreateCollectionBuilder,
    CreateFieldIndexCollectionBuilder, DeleteFieldIndexCollectionBuilder, DeletePointsBuilder, Distance,
    FieldType, Filter, GetPointsBuilder, HnswConfigDiffBuilder, NamedVectors, OptimizersConfigDiffBuilder,
    PayloadSchemaType, PointId, PointStruct, QuantizationType, Range, RenameAliasBuilder,
    ScalarQuantizationBuilder, UpdateCollectionBuilder, UpsertPointsBuilder, VectorParamsBuilder,
    VectorsConfigBuilder, vectors_config,
};
use qdrant_client::{Payload, Qdrant};
use serde_json::json;
use unprompt_test_qdrant::{TestEndpoint, small, unique, upsert};

async fn names(client: &Qdrant) -> Vec<String> {
    let listed = client.list_collections().await.unwrap();
    listed.collections.into_iter().map(|collection| collection.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_is_listed_described_and_deleted() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = endpoint.collection().await;
    assert!(names(&client).await.contains(&name));
    assert!(client.collection_exists(&name).await.unwrap());
    assert!(client.delete_collection(&name).await.unwrap().result);
    assert!(!names(&client).await.contains(&name));
    assert!(!client.collection_exists(&name).await.unwrap());
    client.create_collection(small(&name)).await.unwrap();
    assert!(client.collection_exists(&name).await.unwrap());
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collection_info_shows_the_settings_it_was_created_with() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = (endpoint.client(), unique("described"));
    let mut vectors = VectorsConfigBuilder::default();
    vectors.add_named_vector_params("a", VectorParamsBuilder::new(3, Distance::Dot));
    vectors.add_named_vector_params("b", VectorParamsBuilder::new(5, Distance::Euclid));
    let int8 = ScalarQuantizationBuilder::default().r#type(QuantizationType::Int8.into()).quantile(0.9);
    let create = CreateCollectionBuilder::new(&name)
        .vectors_config(vectors)
        .hnsw_config(HnswConfigDiffBuilder::default().m(24))
        .quantization_config(int8);
    client.create_collection(create).await.unwrap();
    let info = client.collection_info(&name).await.unwrap().result.unwrap();
    assert_eq!(info.status(), CollectionStatus::Green);
    let config = info.config.unwrap();
    let hnsw = config.hnsw_config.unwrap();
    assert_eq!((hnsw.m, hnsw.ef_construct), (Some(24), Some(100)));
    assert!(config.quantization_config.is_some());
    let Some(vectors_config::Config::ParamsMap(map)) = config.params.unwrap().vectors_config.unwrap().config
    else {
        panic!("the vectors have names");
    };
    assert_eq!((map.map["a"].size, map.map["b"].size), (3, 5));
    assert_eq!(map.map["b"].distance(), Distance::Euclid);
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_the_settings_in_collection_info() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = endpoint.collection().await;
    let update = UpdateCollectionBuilder::new(&name)
        .hnsw_config(HnswConfigDiffBuilder::default().ef_construct(222))
        .optimizers_config(OptimizersConfigDiffBuilder::default().indexing_threshold(5000));
    client.update_collection(update).await.unwrap();
    let config = client.collection_info(&name).await.unwrap().result.unwrap().config.unwrap();
    let hnsw = config.hnsw_config.unwrap();
    assert_eq!((hnsw.ef_construct, hnsw.m), (Some(222), Some(16)));
    assert_eq!(config.optimizer_config.unwrap().indexing_threshold, Some(5000));
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_serves_its_collection_and_can_be_moved_renamed_and_deleted() {
    let endpoint = TestEndpoint::start().await;
    let (client, one) = endpoint.collection().await;
    let (_, two) = endpoint.collection().await;
    let alias = unique("alias");
    upsert(&client, &one, vec![PointStruct::new(1, vec![1.0; 4], Payload::new())]).await;
    client.create_alias(CreateAliasBuilder::new(&one, &alias)).await.unwrap();
    let count = async |name: &str| {
        let request = qdrant_client::qdrant::CountPointsBuilder::new(name).exact(true);
        client.count(request).await.unwrap().result.unwrap().count
    };
    assert_eq!(count(&alias).await, 1);
    client.create_alias(CreateAliasBuilder::new(&two, &alias)).await.unwrap();
    assert_eq!(count(&alias).await, 0);
    let renamed = unique("renamed");
    client.rename_alias(RenameAliasBuilder::new(&alias, &renamed)).await.unwrap();
    let listed = client.list_collection_aliases(&two).await.unwrap().aliases;
    assert_eq!(listed.iter().map(|a| a.alias_name.as_str()).collect::<Vec<_>>(), [&renamed]);
    client.delete_alias(&renamed).await.unwrap();
    assert!(!client.list_aliases().await.unwrap().aliases.iter().any(|a| a.collection_name == two));
    client.delete_collection(&one).await.unwrap();
    client.delete_collection(&two).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_collection_deletes_its_aliases() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = endpoint.collection().await;
    let alias = unique("alias");
    client.create_alias(CreateAliasBuilder::new(&name, &alias)).await.unwrap();
    client.delete_collection(&name).await.unwrap();
    assert!(!client.list_aliases().await.unwrap().aliases.iter().any(|a| a.alias_name == alias));
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collection_info_lists_the_current_payload_indexes() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = endpoint.collection().await;
    let kinds = [
        ("colour", FieldType::Keyword, PayloadSchemaType::Keyword),
        ("year", FieldType::Integer, PayloadSchemaType::Integer),
        ("title", FieldType::Text, PayloadSchemaType::Text),
    ];
    let payload = Payload::try_from(json!({"colour": "red", "year": 1999, "title": "a boat"})).unwrap();
    upsert(&client, &name, vec![PointStruct::new(1, vec![1.0; 4], payload)]).await;
    for (field, kind, _) in kinds {
        let create = CreateFieldIndexCollectionBuilder::new(&name, field, kind).wait(true);
        client.create_field_index(create.clone()).await.unwrap();
        client.create_field_index(create).await.unwrap();
    }
    let schema = client.collection_info(&name).await.unwrap().result.unwrap().payload_schema;
    for (field, _, kind) in kinds {
        assert_eq!((schema[field].data_type(), schema[field].points), (kind, Some(1)), "{field}");
    }
    client
        .delete_field_index(DeleteFieldIndexCollectionBuilder::new(&name, "year").wait(true))
        .await
        .unwrap();
    let schema = client.collection_info(&name).await.unwrap().result.unwrap().payload_schema;
    assert!(!schema.contains_key("year") && schema.contains_key("colour"));
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_without_vectors_holds_payloads() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = (endpoint.client(), unique("no-vectors"));
    let create = CreateCollectionBuilder::new(&name).vectors_config(VectorsConfigBuilder::default());
    client.create_collection(create).await.unwrap();
    let point = |number: u64| {
        let payload = Payload::try_from(json!({"number": number})).unwrap();
        PointStruct::new(number, NamedVectors::default(), payload)
    };
    let points: Vec<_> = (0..10).map(point).collect();
    client.upsert_points(UpsertPointsBuilder::new(&name, points).wait(true)).await.unwrap();
    let below = Filter::must([Condition::range("number", Range { lt: Some(5.0), ..Default::default() })]);
    client.delete_points(DeletePointsBuilder::new(&name).points(below).wait(true)).await.unwrap();
    let ids = (0..10).map(PointId::from).collect::<Vec<_>>();
    let found = client.get_points(GetPointsBuilder::new(&name, ids).with_payload(true)).await.unwrap().result;
    let mut numbers: Vec<_> = found.iter().filter_map(|point| point.payload["number"].as_integer()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [5, 6, 7, 8, 9]);
    let with_vector = PointStruct::new(20, vec![1.0, 2.0], Payload::new());
    let refused = client.upsert_points(UpsertPointsBuilder::new(&name, vec![with_vector]).wait(true)).await;
    assert!(refused.is_err(), "{refused:?}");
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}
