//! Tests of building the graph: writes and reads continue meanwhile, and searches find what an
//! exact search finds.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use qdrant_client::qdrant::{
    CollectionInfo, CollectionStatus, CountPointsBuilder, CreateCollectionBuilder, Distance, PointStruct,
    QuantizationSearchParamsBuilder, QuantizationType, QueryPointsBuilder, ScalarQuantizationBuilder,
    SearchParamsBuilder, VectorParamsBuilder,
};
use qdrant_client::{Payload, Qdrant};
use unprompt_test_qdrant::{Cloud, TestEndpoint, unique, upsert};

const DIM: usize = 384;
const POINTS: u64 = 12_000;
const K: u64 = 100;
/// The default threshold, below which a segment is searched point by point.
const INDEXING_THRESHOLD_KB: u64 = 10_000;

async fn info(client: &Qdrant, name: &str) -> CollectionInfo {
    client.collection_info(name).await.unwrap().result.unwrap()
}

async fn fill(client: &Qdrant, name: &str, cloud: &mut Cloud) {
    let int8 = ScalarQuantizationBuilder::default().r#type(QuantizationType::Int8.into()).quantile(0.99);
    let create = CreateCollectionBuilder::new(name)
        .vectors_config(VectorParamsBuilder::new(DIM as u64, Distance::Cosine))
        .quantization_config(int8.always_ram(true));
    client.create_collection(create).await.unwrap();
    for first in (0..POINTS).step_by(1000) {
        let points = (first..first + 1000).map(|id| PointStruct::new(id, cloud.vector(), Payload::new()));
        upsert(client, name, points.collect()).await;
    }
}

async fn ids(client: &Qdrant, name: &str, vector: Vec<f32>, exact: bool) -> HashSet<String> {
    let rescore = QuantizationSearchParamsBuilder::default().rescore(true).oversampling(1.5);
    let params = SearchParamsBuilder::default().exact(exact).quantization(rescore);
    let query = QueryPointsBuilder::new(name).query(vector).limit(K).params(params);
    let found = client.query(query).await.unwrap().result;
    found.into_iter().map(|point| format!("{:?}", point.id)).collect()
}

async fn recall(client: &Qdrant, name: &str, cloud: &mut Cloud) -> f64 {
    let (mut found, mut asked) = (0, 0);
    for _ in 0..50 {
        let vector = cloud.vector();
        let exact = ids(client, name, vector.clone(), true).await;
        let near = ids(client, name, vector, false).await;
        found += exact.intersection(&near).count();
        asked += exact.len();
    }
    found as f64 / asked as f64
}

/// Writes and searches while the graph is being built. Returns the number of each and the longest
/// write.
async fn work_beside(client: &Qdrant, name: &str, cloud: &mut Cloud) -> (u64, u64, Duration) {
    let (mut written, mut searched, mut longest) = (0, 0, Duration::ZERO);
    while info(client, name).await.status() == CollectionStatus::Yellow {
        let began = Instant::now();
        upsert(client, name, vec![PointStruct::new(POINTS + written, cloud.vector(), Payload::new())]).await;
        longest = longest.max(began.elapsed());
        written += 1;
        assert_eq!(ids(client, name, cloud.vector(), false).await.len() as u64, K);
        searched += 1;
        assert!(written < 100_000, "the graph is never finished");
    }
    (written, searched, longest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_is_built_alongside_writes_and_reads_and_has_high_recall() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = (endpoint.client(), unique("optimising"));
    let mut cloud = Cloud::new(DIM, 7);
    fill(&client, &name, &mut cloud).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while info(&client, &name).await.status() != CollectionStatus::Yellow {
        assert!(Instant::now() < deadline, "nothing is optimised");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (written, searched, longest) = work_beside(&client, &name, &mut cloud).await;
    println!("during the optimisation: {written} writes, {searched} searches, the longest write {longest:?}");
    assert!(written >= 5, "only {written} writes were acknowledged while the graph was built");
    assert!(longest < Duration::from_secs(5), "a write waited {longest:?}");
    let info = info(&client, &name).await;
    let waiting_kb = (POINTS + written - info.indexed_vectors_count()) * DIM as u64 * 4 / 1024;
    assert!(waiting_kb < INDEXING_THRESHOLD_KB, "{waiting_kb} KB are left unindexed");
    let count = client.count(CountPointsBuilder::new(&name).exact(true)).await.unwrap();
    assert_eq!(count.result.unwrap().count, POINTS + written);
    let recall = recall(&client, &name, &mut cloud).await;
    println!("recall@{K} {recall:.3}");
    assert!(recall >= 0.95, "recall@{K} is {recall:.3}");
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}
