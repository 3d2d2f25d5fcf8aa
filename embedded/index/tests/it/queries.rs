//! Tests of queries: ranking, filters, parameters, selectors and stages.

use qdrant_client::qdrant::{
    Condition, CreateCollectionBuilder, Distance, Filter, Fusion, NamedVectors, PointStruct,
    PrefetchQueryBuilder, QuantizationSearchParamsBuilder, Query, QueryBatchPointsBuilder,
    QueryPointsBuilder, Range, Sample, ScoredPoint, SearchBatchPointsBuilder, SearchParamsBuilder,
    SearchPointsBuilder, SparseVectorParamsBuilder, SparseVectorsConfigBuilder, Vector, VectorParamsBuilder,
    VectorsConfigBuilder,
};
use qdrant_client::{Payload, Qdrant};
use serde_json::json;
use unprompt_test_qdrant::{TestEndpoint, unique, upsert};

/// Ten points on a quarter circle: the smaller the number, the nearer to [1, 0, 0, 0].
async fn circle(endpoint: &TestEndpoint) -> (Qdrant, String) {
    let (client, name) = endpoint.collection().await;
    let point = |number: u64| {
        let angle = number as f32 * 0.15;
        let payload = json!({"number": number, "tags": ["all", if number < 5 { "low" } else { "high" }]});
        PointStruct::new(
            number,
            vec![angle.cos(), angle.sin(), 0.0, 0.0],
            Payload::try_from(payload).unwrap(),
        )
    };
    upsert(&client, &name, (0..10).map(point).collect()).await;
    (client, name)
}

fn east() -> Vec<f32> {
    vec![1.0, 0.0, 0.0, 0.0]
}

fn numbers(points: &[ScoredPoint]) -> Vec<u64> {
    use qdrant_client::qdrant::point_id::PointIdOptions;
    let number = |point: &ScoredPoint| match point.id.as_ref().and_then(|id| id.point_id_options.as_ref()) {
        Some(PointIdOptions::Num(number)) => *number,
        other => panic!("{other:?} is not a number"),
    };
    points.iter().map(number).collect()
}

async fn ask(client: &Qdrant, query: QueryPointsBuilder) -> Vec<ScoredPoint> {
    client.query(query).await.unwrap().result
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_come_first_with_their_similarity() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = circle(&endpoint).await;
    let found = ask(&client, QueryPointsBuilder::new(&name).query(east()).limit(4)).await;
    assert_eq!(numbers(&found), [0, 1, 2, 3]);
    assert!((found[2].score - 0.3f32.cos()).abs() < 1e-5);
    assert!(found[0].payload.is_empty() && found[0].vectors.is_none());
    let paged = ask(&client, QueryPointsBuilder::new(&name).query(east()).limit(3).offset(2)).await;
    assert_eq!(numbers(&paged), [2, 3, 4]);
    let close = QueryPointsBuilder::new(&name).query(east()).score_threshold(0.4f32.cos());
    assert_eq!(numbers(&ask(&client, close).await), [0, 1, 2]);
    let full = QueryPointsBuilder::new(&name).query(east()).limit(1).with_payload(true).with_vectors(true);
    let full = ask(&client, full).await.remove(0);
    assert!(full.payload["number"].as_integer() == Some(0) && full.vectors.is_some());
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_and_parameters_go_together() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = circle(&endpoint).await;
    let from_three = Condition::range("number", Range { gte: Some(3.0), ..Default::default() });
    let cases = [
        (Filter::must([Condition::matches("tags", "low".to_string())]), vec![0, 1, 2, 3, 4]),
        (Filter::must([Condition::matches("tags", "low".to_string()), from_three.clone()]), vec![3, 4]),
        (Filter::must_not([Condition::matches("tags", "high".to_string())]), vec![0, 1, 2, 3, 4]),
        (Filter::should([Condition::matches("number", 9), Condition::has_id([1])]), vec![1, 9]),
        (Filter::min_should(2, [from_three, Condition::matches("number", vec![2i64, 8])]), vec![8]),
        (Filter::must([Condition::is_empty("missing"), Condition::has_id([5])]), vec![5]),
    ];
    for (filter, expected) in cases {
        for exact in [false, true] {
            let quantisation = QuantizationSearchParamsBuilder::default().rescore(true).oversampling(2.0);
            let params = SearchParamsBuilder::default().exact(exact).hnsw_ef(64).quantization(quantisation);
            let query = QueryPointsBuilder::new(&name).query(east()).filter(filter.clone()).params(params);
            assert_eq!(numbers(&ask(&client, query).await), expected, "{filter:?}");
        }
    }
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_by_id_leaves_the_point_itself_out() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = circle(&endpoint).await;
    let query = QueryPointsBuilder::new(&name).query(qdrant_client::qdrant::PointId::from(0u64)).limit(3);
    assert_eq!(numbers(&ask(&client, query).await), [1, 2, 3]);
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_and_the_legacy_search_return_the_same_points() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = circle(&endpoint).await;
    let north = vec![0.0, 1.0, 0.0, 0.0];
    let queries: Vec<_> =
        [east(), north.clone()].map(|v| QueryPointsBuilder::new(&name).query(v).limit(2).build()).into();
    let answers = client.query_batch(QueryBatchPointsBuilder::new(&name, queries)).await.unwrap().result;
    let answers: Vec<_> = answers.iter().map(|answer| numbers(&answer.result)).collect();
    assert_eq!(answers, [[0, 1], [9, 8]]);
    let search = SearchPointsBuilder::new(&name, east(), 2).build();
    assert_eq!(numbers(&client.search_points(search.clone()).await.unwrap().result), [0, 1]);
    let searches = vec![search, SearchPointsBuilder::new(&name, north, 2).build()];
    let answers =
        client.search_batch_points(SearchBatchPointsBuilder::new(&name, searches)).await.unwrap().result;
    let answers: Vec<_> = answers.iter().map(|answer| numbers(&answer.result)).collect();
    assert_eq!(answers, [[0, 1], [9, 8]]);
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_are_fused_rescored_and_sampled() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = circle(&endpoint).await;
    let stage = |vector: Vec<f32>| PrefetchQueryBuilder::default().query(vector).limit(3u64).build();
    let fused = QueryPointsBuilder::new(&name)
        .add_prefetch(stage(east()))
        .add_prefetch(stage(vec![0.0, 1.0, 0.0, 0.0]))
        .query(Query::new_fusion(Fusion::Rrf));
    let mut found = numbers(&ask(&client, fused).await);
    found.sort_unstable();
    assert_eq!(found, [0, 1, 2, 7, 8, 9]);
    let rescored = QueryPointsBuilder::new(&name).add_prefetch(stage(east())).query(vec![0.0, 1.0, 0.0, 0.0]);
    assert_eq!(numbers(&ask(&client, rescored).await), [2, 1, 0]);
    let sample = QueryPointsBuilder::new(&name).query(Query::new_sample(Sample::Random)).limit(4);
    assert_eq!(ask(&client, sample).await.len(), 4);
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_vector_is_searched_by_its_overlap() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = (endpoint.client(), unique("sparse"));
    let mut dense = VectorsConfigBuilder::default();
    dense.add_named_vector_params("d", VectorParamsBuilder::new(2, Distance::Cosine));
    let mut sparse = SparseVectorsConfigBuilder::default();
    sparse.add_named_vector_params("s", SparseVectorParamsBuilder::default());
    let create = CreateCollectionBuilder::new(&name).vectors_config(dense).sparse_vectors_config(sparse);
    client.create_collection(create).await.unwrap();
    let point = |id: u64, indices: Vec<u32>, values: Vec<f32>| {
        let vectors = NamedVectors::default()
            .add_vector("d", vec![1.0, 0.0])
            .add_vector("s", Vector::new_sparse(indices, values));
        PointStruct::new(id, vectors, Payload::new())
    };
    let points = vec![
        point(1, vec![1, 2], vec![1.0, 1.0]),
        point(2, vec![2, 3], vec![3.0, 1.0]),
        point(3, vec![7], vec![9.0]),
    ];
    upsert(&client, &name, points).await;
    let query = QueryPointsBuilder::new(&name).query(vec![(2u32, 1.0f32)]).using("s");
    let found = ask(&client, query).await;
    assert_eq!(numbers(&found), [2, 1]);
    assert_eq!(found[0].score, 3.0);
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}
