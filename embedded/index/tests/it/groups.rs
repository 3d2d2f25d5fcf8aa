//! Tests of diverse results: the best points of each group, and maximal marginal relevance.

use std::collections::BTreeMap;

use qdrant_client::qdrant::group_id::Kind;
use qdrant_client::qdrant::{
    MmrBuilder, PointStruct, Query, QueryPointGroupsBuilder, QueryPointsBuilder, SearchPointGroupsBuilder,
    VectorInput,
};
use qdrant_client::{Payload, Qdrant, QdrantError};
use serde_json::json;
use tonic::Code;
use unprompt_test_qdrant::{TestEndpoint, upsert};

/// Twelve points on a quarter circle, in three alternating colours: the smaller the number, the
/// nearer to [1, 0, 0, 0].
async fn coloured(endpoint: &TestEndpoint) -> (Qdrant, String) {
    let (client, name) = endpoint.collection().await;
    let point = |number: u64| {
        let angle = number as f32 * 0.12;
        let colour = ["red", "green", "blue"][(number % 3) as usize];
        let payload = Payload::try_from(json!({"colour": colour, "shelf": number / 4})).unwrap();
        PointStruct::new(number, vec![angle.cos(), angle.sin(), 0.0, 0.0], payload)
    };
    upsert(&client, &name, (0..12).map(point).collect()).await;
    (client, name)
}

fn number(id: Option<qdrant_client::qdrant::PointId>) -> u64 {
    use qdrant_client::qdrant::point_id::PointIdOptions;
    match id.and_then(|id| id.point_id_options) {
        Some(PointIdOptions::Num(number)) => number,
        other => panic!("{other:?} is not a number"),
    }
}

fn by_group(groups: Vec<qdrant_client::qdrant::PointGroup>) -> BTreeMap<String, Vec<u64>> {
    let name = |kind: Option<Kind>| match kind {
        Some(Kind::StringValue(text)) => text,
        Some(Kind::UnsignedValue(number)) => number.to_string(),
        Some(Kind::IntegerValue(number)) => number.to_string(),
        None => panic!("a group has no key"),
    };
    let entry = |group: qdrant_client::qdrant::PointGroup| {
        (name(group.id.unwrap().kind), group.hits.into_iter().map(|hit| number(hit.id)).collect())
    };
    groups.into_iter().map(entry).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_best_points_of_each_group_are_returned() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = coloured(&endpoint).await;
    let east = vec![1.0, 0.0, 0.0, 0.0];
    let query =
        QueryPointGroupsBuilder::new(&name, "colour").query(east.clone()).limit(3u64).group_size(2u64);
    let groups = by_group(client.query_groups(query).await.unwrap().result.unwrap().groups);
    let expected = [("blue", vec![2, 5]), ("green", vec![1, 4]), ("red", vec![0, 3])];
    assert_eq!(groups, BTreeMap::from(expected.map(|(colour, numbers)| (colour.to_owned(), numbers))));
    let search = SearchPointGroupsBuilder::new(&name, east, 2, "shelf", 1);
    let groups = by_group(client.search_groups(search).await.unwrap().result.unwrap().groups);
    assert_eq!(groups, BTreeMap::from([("0".to_owned(), vec![0]), ("1".to_owned(), vec![4])]));
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}

async fn mmr(client: &Qdrant, name: &str, diversity: f32) -> Result<Vec<u64>, QdrantError> {
    let mmr = MmrBuilder::new().diversity(diversity).candidates_limit(12);
    let query = Query::new_nearest_with_mmr(VectorInput::from(vec![1.0, 0.0, 0.0, 0.0]), mmr.build());
    let found = client.query(QueryPointsBuilder::new(name).query(query).limit(3)).await?;
    Ok(found.result.into_iter().map(|hit| number(hit.id)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn mmr_diversity_ranges_from_the_nearest_to_the_most_different() {
    let endpoint = TestEndpoint::start().await;
    let (client, name) = coloured(&endpoint).await;
    assert_eq!(mmr(&client, &name, 0.0).await.unwrap(), [0, 1, 2]);
    let different = mmr(&client, &name, 1.0).await.unwrap();
    assert_eq!(different[..2], [0, 11], "the second is the farthest from the first");
    let Err(QdrantError::ResponseError { status }) = mmr(&client, &name, 1.5).await else {
        panic!("a diversity of 1.5 was accepted");
    };
    assert_eq!(status.code(), Code::InvalidArgument);
    client.delete_collection(&name).await.unwrap();
    endpoint.stop().await;
}
