//! Tests of writing points and reading them back.

use std::collections::HashMap;

use qdrant_client::qdrant::points_update_operation::{DeletePoints, Operation, PointStructList, SetPayload};
use qdrant_client::qdrant::{
    ClearPayloadPointsBuilder, Condition, CountPointsBuilder, CreateCollectionBuilder,
    CreateFieldIndexCollectionBuilder, DeletePayloadPointsBuilder, DeletePointVectorsBuilder,
    DeletePointsBuilder, Distance, FacetCountsBuilder, FieldType, Filter, GetPointsBuilder, NamedVectors,
    OrderByBuilder, PayloadExcludeSelector, PointId, PointStruct, PointVectors, PointsIdsList,
    PointsSelector, PointsUpdateOperation, RetrievedPoint, ScrollPointsBuilder, SetPayloadPointsBuilder,
    SparseVectorParamsBuilder, SparseVectorsConfigBuilder, UpdateBatchPointsBuilder, UpdateMode,
    UpdatePointVectorsBuilder, UpdateStatus, UpsertPointsBuilder, Value, Vector, VectorParamsBuilder,
    VectorsConfigBuilder, VectorsSelector, facet_value, points_selector::PointsSelectorOneOf,
    with_payload_selector::SelectorOptions,
};
use qdrant_client::{Payload, Qdrant};
use serde_json::json;
use unprompt_test_qdrant::{TestEndpoint, unique, upsert};

fn numbered(number: u64) -> PointStruct {
    let payload = json!({"number": number, "parity": if number.is_multiple_of(2) { "even" } else { "odd" }, "deep": {"list": [1, {"x": null}]}});
    PointStruct::new(number, vec![number as f32, 1.0, 0.0, 0.0], Payload::try_from(payload).unwrap())
}

async fn filled(endpoint: &TestEndpoint) -> (Qdrant, String) {
    let (client, name) = endpoint.collection().await;
    upsert(&client, &name, (0..20).map(numbered).collect()).await;
    (client, name)
}

async fn count(client: &Qdrant, name: &str) -> u64 {
    client.count(CountPointsBuilder::new(name).exact(true)).await.unwrap().result.unwrap().count
}

async fn one(client: &Qdrant, name: &str, id: u64) -> RetrievedPoint {
    let ids = vec![PointId::from(id)];
    let get = GetPointsBuilder::new(name, ids).with_payload(true).with_vectors(true);
    client.get_points(get).await.unwrap().result.remove(0)
}

fn json_of(payload: HashMap<String, Value>) -> serde_json::Value {
    Payload::from(payload).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_comes_back_as_it_was_written() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = filled(&endpoint).await;
    let point = one(&client, &name, 3).await;
    let expected = json!({"number": 3, "parity": "odd", "deep": {"list": [1, {"x": null}]}});
    assert_eq!(json_of(point.payload), expected);
    let norm = 10f32.sqrt();
    let Some(qdrant_client::qdrant::vector_output::Vector::Dense(dense)) =
        point.vectors.unwrap().get_vector()
    else {
        panic!("a dense vector was written");
    };
    assert!(dense.data.iter().zip([3.0 / norm, 1.0 / norm, 0.0, 0.0]).all(|(a, b)| (a - b).abs() < 1e-6));
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_with_wait_are_completed_and_without_wait_acknowledged() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = endpoint.collection().await;
    let status = async |wait: bool| {
        let request = UpsertPointsBuilder::new(&name, vec![numbered(1)]).wait(wait);
        client.upsert_points(request).await.unwrap().result.unwrap().status()
    };
    assert_eq!(status(true).await, UpdateStatus::Completed);
    assert_eq!(status(false).await, UpdateStatus::Acknowledged);
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_numbers_or_uuids() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = endpoint.collection().await;
    let uuid = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";
    let points = vec![
        PointStruct::new(u64::MAX, vec![1.0; 4], Payload::new()),
        PointStruct::new(uuid, vec![1.0; 4], Payload::new()),
    ];
    upsert(&client, &name, points).await;
    let ids = vec![PointId::from(uuid), PointId::from(u64::MAX), PointId::from(5u64)];
    let found = client.get_points(GetPointsBuilder::new(&name, ids.clone())).await.unwrap().result;
    let mut found: Vec<_> = found.into_iter().filter_map(|point| point.id).collect();
    found.sort_by_key(|id| format!("{id:?}"));
    let mut expected = ids[..2].to_vec();
    expected.sort_by_key(|id| format!("{id:?}"));
    assert_eq!(found, expected);
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_deleted_by_ids_and_by_filter() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = filled(&endpoint).await;
    let ids = PointsIdsList { ids: vec![0.into(), 1.into(), 99.into()] };
    client.delete_points(DeletePointsBuilder::new(&name).points(ids).wait(true)).await.unwrap();
    assert_eq!(count(&client, &name).await, 18);
    let odd = Filter::must([Condition::matches("parity", "odd".to_string())]);
    client.delete_points(DeletePointsBuilder::new(&name).points(odd).wait(true)).await.unwrap();
    assert_eq!(count(&client, &name).await, 9);
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_are_set_overwritten_deleted_by_key_and_cleared() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = filled(&endpoint).await;
    let four = || PointsIdsList { ids: vec![4.into()] };
    let new = || Payload::try_from(json!({"mood": "calm"})).unwrap();
    let set = SetPayloadPointsBuilder::new(&name, new()).points_selector(four()).wait(true);
    client.set_payload(set).await.unwrap();
    let payload = json_of(one(&client, &name, 4).await.payload);
    assert_eq!((payload["mood"].as_str(), payload["number"].as_u64()), (Some("calm"), Some(4)));
    let keys = vec!["deep".to_owned(), "parity".to_owned()];
    let thin = DeletePayloadPointsBuilder::new(&name, keys).points_selector(four()).wait(true);
    client.delete_payload(thin).await.unwrap();
    assert_eq!(json_of(one(&client, &name, 4).await.payload), json!({"number": 4, "mood": "calm"}));
    let overwrite = SetPayloadPointsBuilder::new(&name, new()).points_selector(four()).wait(true);
    client.overwrite_payload(overwrite).await.unwrap();
    assert_eq!(json_of(one(&client, &name, 4).await.payload), json!({"mood": "calm"}));
    client.clear_payload(ClearPayloadPointsBuilder::new(&name).points(four()).wait(true)).await.unwrap();
    assert_eq!(json_of(one(&client, &name, 4).await.payload), json!({}));
    assert_eq!(json_of(one(&client, &name, 5).await.payload)["parity"], "odd");
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_changes_is_applied_in_order() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = filled(&endpoint).await;
    let three = || {
        let ids = PointsIdsList { ids: vec![3.into()] };
        Some(PointsSelector { points_selector_one_of: Some(PointsSelectorOneOf::Points(ids)) })
    };
    let payload = Payload::try_from(json!({"number": -3})).unwrap().into();
    let operations = [
        Operation::DeletePoints(DeletePoints { points: three(), shard_key_selector: None }),
        Operation::Upsert(PointStructList { points: vec![numbered(3), numbered(77)], ..Default::default() }),
        Operation::SetPayload(SetPayload { payload, points_selector: three(), ..Default::default() }),
    ];
    let operations = operations.map(|operation| PointsUpdateOperation { operation: Some(operation) });
    let request = UpdateBatchPointsBuilder::new(&name, operations.to_vec()).wait(true);
    let results = client.update_points_batch(request).await.unwrap().result;
    assert!(results.len() == 3 && results.iter().all(|result| result.status() == UpdateStatus::Completed));
    assert_eq!(count(&client, &name).await, 21);
    assert_eq!(json_of(one(&client, &name, 3).await.payload)["number"], -3);
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_only_upsert_keeps_existing_points() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = filled(&endpoint).await;
    let point = |number: u64| {
        PointStruct::new(number, vec![1.0; 4], Payload::try_from(json!({"new": true})).unwrap())
    };
    let request = UpsertPointsBuilder::new(&name, vec![point(3), point(300)]).wait(true);
    client.upsert_points(request.update_mode(UpdateMode::InsertOnly)).await.unwrap();
    assert_eq!(json_of(one(&client, &name, 3).await.payload)["parity"], "odd");
    assert_eq!(json_of(one(&client, &name, 300).await.payload)["new"], true);
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scrolling_pages_by_id_and_orders_by_an_indexed_field() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = filled(&endpoint).await;
    let page = client.scroll(ScrollPointsBuilder::new(&name).limit(8).with_payload(false)).await.unwrap();
    assert_eq!((page.result.len(), page.next_page_offset.clone()), (8, Some(8.into())));
    assert!(page.result.iter().all(|point| point.payload.is_empty()));
    let next = ScrollPointsBuilder::new(&name).limit(100).offset(page.next_page_offset.unwrap());
    let rest = client.scroll(next).await.unwrap();
    assert_eq!((rest.result.len(), rest.next_page_offset), (12, None));
    let index = CreateFieldIndexCollectionBuilder::new(&name, "number", FieldType::Integer).wait(true);
    client.create_field_index(index).await.unwrap();
    let order = OrderByBuilder::new("number").direction(qdrant_client::qdrant::Direction::Desc.into());
    let last = client.scroll(ScrollPointsBuilder::new(&name).limit(3).order_by(order)).await.unwrap().result;
    let numbers: Vec<_> = last.iter().map(|point| point.payload["number"].as_integer()).collect();
    assert_eq!(numbers, [Some(19), Some(18), Some(17)]);
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_choose_the_payload() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = filled(&endpoint).await;
    let get = async |selector: SelectorOptions| {
        let request = GetPointsBuilder::new(&name, vec![PointId::from(2u64)]).with_payload(selector);
        json_of(client.get_points(request).await.unwrap().result.remove(0).payload)
    };
    assert_eq!(get(SelectorOptions::Enable(false)).await, json!({}));
    assert_eq!(get(SelectorOptions::Include(vec!["number".to_owned()].into())).await, json!({"number": 2}));
    let exclude = PayloadExcludeSelector { fields: vec!["deep".to_owned(), "number".to_owned()] };
    assert_eq!(get(SelectorOptions::Exclude(exclude)).await, json!({"parity": "even"}));
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn facets_count_values() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = filled(&endpoint).await;
    let index = CreateFieldIndexCollectionBuilder::new(&name, "parity", FieldType::Keyword).wait(true);
    client.create_field_index(index).await.unwrap();
    let low = Filter::must([Condition::range(
        "number",
        qdrant_client::qdrant::Range { lt: Some(5.0), ..Default::default() },
    )]);
    let request = FacetCountsBuilder::new(&name, "parity").filter(low).exact(true);
    let hits = client.facet(request).await.unwrap().hits;
    let mut counts: Vec<_> =
        hits.into_iter().map(|hit| (hit.value.and_then(|v| v.variant), hit.count)).collect();
    counts.sort_by_key(|(_, count)| *count);
    let value = |text: &str| Some(facet_value::Variant::StringValue(text.to_owned()));
    assert_eq!(counts, [(value("odd"), 2), (value("even"), 3)]);
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn named_dense_and_sparse_vectors_are_changed_one_by_one() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = (endpoint.client(), unique("mixed"));
    let mut dense = VectorsConfigBuilder::default();
    dense.add_named_vector_params("d", VectorParamsBuilder::new(2, Distance::Dot));
    let mut sparse = SparseVectorsConfigBuilder::default();
    sparse.add_named_vector_params("s", SparseVectorParamsBuilder::default());
    let create = CreateCollectionBuilder::new(&name).vectors_config(dense).sparse_vectors_config(sparse);
    client.create_collection(create).await.unwrap();
    let both = NamedVectors::default()
        .add_vector("d", vec![1.0, 2.0])
        .add_vector("s", Vector::new_sparse(vec![3, 9], vec![0.5, 0.25]));
    upsert(&client, &name, vec![PointStruct::new(1, both, Payload::new())]).await;
    let vectors = one(&client, &name, 1).await.vectors.unwrap();
    assert!(vectors.get_vector_by_name("d").is_some() && vectors.get_vector_by_name("s").is_some());
    let vector = PointVectors {
        id: Some(1.into()),
        vectors: Some(NamedVectors::default().add_vector("d", vec![5.0, 6.0]).into()),
    };
    client.update_vectors(UpdatePointVectorsBuilder::new(&name, vec![vector]).wait(true)).await.unwrap();
    let gone = VectorsSelector { names: vec!["s".to_owned()] };
    let ids = PointsIdsList { ids: vec![1.into()] };
    let delete = DeletePointVectorsBuilder::new(&name).points_selector(ids).vectors(gone).wait(true);
    client.delete_vectors(delete).await.unwrap();
    let vectors = one(&client, &name, 1).await.vectors.unwrap();
    let expected = qdrant_client::qdrant::vector_output::Vector::Dense(vec![5.0, 6.0].into());
    assert_eq!(vectors.get_vector_by_name("d"), Some(expected));
    assert_eq!(vectors.get_vector_by_name("s"), None);
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}
