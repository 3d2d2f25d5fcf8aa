//! The client: layout, merging, searching.

use std::collections::BTreeMap;
use std::time::Duration;

use unprompt_index::{Filter, IndexError, IndexState, Layout, PromptPoint, Query, Space, Uuid, Version};
use unprompt_test_qdrant::TestEndpoint;

use crate::prompt_index::{CLIP_DIM, connect, layout, prompt};

fn id(number: u64) -> Uuid {
    prompt(number, "", 0).prompt_id
}

#[tokio::test(flavor = "multi_thread")]
async fn ensure_creates_the_collection_once() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    let first = index.ensure(&layout()).await.unwrap();
    let second = index.ensure(&layout()).await.unwrap();
    assert!(first.created && !second.created);
    assert!(first.collection.ends_with("-tiny-clip-0a1b2c"), "{}", first.collection);
    assert_eq!(first.collection, second.collection);
    let info = index.info().await.unwrap();
    assert_eq!(info.encoder.as_deref(), Some("tiny-clip@0a1b2c"));
    assert_eq!((info.points, info.state), (0, IndexState::Ready));
    let described = endpoint.client().collection_info(&first.collection).await.unwrap().result.unwrap();
    let mut indexed: Vec<_> = described.payload_schema.into_keys().collect();
    indexed.sort_unstable();
    assert_eq!(indexed, ["created_at", "length", "sources", "text"]);
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_encoder_is_a_permanent_error() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    let error = index.ensure(&Layout { encoder: "vit-h@99".into(), ..layout() }).await.unwrap_err();
    assert!(
        matches!(&error, IndexError::OtherEncoder { wanted, .. } if wanted.ends_with("vit-h-99")),
        "{error}"
    );
    assert!(!error.is_transient());
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_dimension_or_sentence_encoder_is_refused() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    for other in
        [Layout { clip_dim: CLIP_DIM + 1, ..layout() }, Layout { minilm: "other@1".into(), ..layout() }]
    {
        let error = index.ensure(&other).await.unwrap_err();
        assert!(matches!(error, IndexError::OtherShape { .. }), "{error}");
    }
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_encoders_collection_is_filled_before_the_alias_switches() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    index.upsert(vec![prompt(1, "a", 5)]).await.unwrap();
    let next = Layout { encoder: "tiny-clip@next".into(), ..layout() };
    let beside = index.beside(&next).await.unwrap();
    beside.upsert(vec![prompt(1, "a", 5), prompt(2, "a", 5)]).await.unwrap();
    assert_eq!(index.count(&Filter::default()).await.unwrap(), 1);
    index.switch_to(&next).await.unwrap();
    assert_eq!(index.count(&Filter::default()).await.unwrap(), 2);
    index.ensure(&next).await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_collection_has_its_own_error() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    let error = index.count(&Filter::default()).await.unwrap_err();
    assert!(matches!(error, IndexError::NoCollection { .. }), "{error}");
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rewriting_a_prompt_merges_sources_and_keeps_the_earliest_time() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    index.upsert(vec![prompt(1, "b", 500), prompt(1, "c", 400)]).await.unwrap();
    let mut again = prompt(1, "a", 900);
    again.attributes = BTreeMap::from([("mood".to_owned(), "calm".to_owned())]);
    index.upsert(vec![again]).await.unwrap();
    let found = index.get(&[id(1)], true).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].sources, ["a", "b", "c"]);
    assert_eq!(found[0].created_at_ms, 400);
    assert_eq!(found[0].attributes.keys().collect::<Vec<_>>(), ["mood", "style"]);
    assert_eq!((found[0].minilm.len(), found[0].clip.len()), (384, CLIP_DIM));
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upserts_reads_and_deletes_may_span_many_chunks() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    index.upsert((0..1500).map(|n| prompt(n, "a", 0)).collect()).await.unwrap();
    assert_eq!(index.count(&Filter::default()).await.unwrap(), 1500);
    let ids: Vec<_> = (0..1500).map(id).collect();
    assert_eq!(index.get(&ids, false).await.unwrap().len(), 1500);
    let deleted = ids[..700].iter().map(|id| (*id, Version { at_ms: 1, partition: None }));
    index.delete_as_of(&deleted.collect::<Vec<_>>()).await.unwrap();
    assert_eq!(index.count(&Filter::default()).await.unwrap(), 800);
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_vector_is_refused_before_anything_is_written() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    let mut bad = prompt(2, "a", 0);
    bad.minilm.pop();
    let error = index.upsert(vec![prompt(1, "a", 0), bad]).await.unwrap_err();
    assert!(matches!(error, IndexError::InvalidPoint { .. }), "{error}");
    assert_eq!(index.count(&Filter::default()).await.unwrap(), 0);
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_finds_the_prompt_itself_first_in_either_space() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    index.upsert((0..200).map(|n| prompt(n, "a", 0)).collect()).await.unwrap();
    for space in [Space::Clip, Space::MiniLm] {
        let wanted = prompt(17, "a", 0);
        let query = Query::new(space, wanted.vector(space).to_vec(), 5).with_vectors([Space::MiniLm]);
        let hits = index.search(&query).await.unwrap();
        assert_eq!(hits.len(), 5);
        assert_eq!((hits[0].prompt_id, hits[0].text.as_str()), (wanted.prompt_id, wanted.text.as_str()));
        assert!((hits[0].similarity - 1.0).abs() < 1e-4, "{}", hits[0].similarity);
        assert!(hits.is_sorted_by(|a, b| a.similarity >= b.similarity));
        let minilm = hits[0].minilm.as_ref().unwrap();
        assert!(minilm.iter().zip(&wanted.minilm).all(|(a, b)| (a - b).abs() < 1e-5));
        assert_eq!(hits[0].clip, None);
    }
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_omits_excluded_prompts_and_the_query_prompt() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    index.upsert((0..50).map(|n| prompt(n, "a", 0)).collect()).await.unwrap();
    let like = Query::like(Space::Clip, id(3), 50);
    let near: Vec<_> = index.search(&like).await.unwrap().iter().map(|hit| hit.prompt_id).collect();
    assert_eq!(near.len(), 49);
    assert!(!near.contains(&id(3)));
    let fewer = index.search(&like.exclude([id(4), id(5)])).await.unwrap();
    assert_eq!(fewer.len(), 47);
    assert!(fewer.iter().all(|hit| hit.prompt_id != id(4) && hit.prompt_id != id(5)));
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_results_are_in_the_order_of_the_queries() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    index.upsert((0..50).map(|n| prompt(n, "a", 0)).collect()).await.unwrap();
    let queries: Vec<_> = [7, 30, 12].map(|n| Query::new(Space::Clip, prompt(n, "", 0).clip, 1)).into();
    let answers = index.search_batch(&queries).await.unwrap();
    let first: Vec<_> = answers.iter().map(|hits| hits[0].prompt_id).collect();
    assert_eq!(first, [id(7), id(30), id(12)]);
    assert!(index.search_batch(&[]).await.unwrap().is_empty());
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_keep_what_they_say() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    let points = (0..30).map(|n| prompt(n, if n < 10 { "wiki" } else { "users" }, 1000 + n as i64));
    index.upsert(points.collect()).await.unwrap();
    let attribute = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), vec![value.to_owned()])]);
    let cases = [
        (Filter::source("wiki"), 10),
        (Filter { sources: vec!["wiki".into(), "users".into()], ..Default::default() }, 30),
        (Filter { created_from_ms: Some(1005), created_before_ms: Some(1010), ..Default::default() }, 5),
        (Filter { attributes: attribute("style", "style 1"), ..Default::default() }, 10),
        (Filter { contains: Some("of 12 boats".into()), ..Default::default() }, 1),
        (Filter { created_from_ms: Some(1020), ..Filter::source("wiki") }, 0),
    ];
    for (filter, expected) in cases {
        assert_eq!(index.count(&filter).await.unwrap(), expected, "{filter:?}");
        let query = Query::new(Space::Clip, prompt(0, "", 0).clip, 100).filter(filter.clone());
        assert_eq!(index.search(&query).await.unwrap().len() as u64, expected, "{filter:?}");
    }
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attribute_whose_name_looks_like_a_path_is_still_found() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    let mut odd = prompt(1, "a", 0);
    odd.attributes = BTreeMap::from([("camera.lens[0]".to_owned(), "50mm".to_owned())]);
    index.upsert(vec![odd, prompt(2, "a", 0)]).await.unwrap();
    let attributes = BTreeMap::from([("camera.lens[0]".to_owned(), vec!["50mm".to_owned()])]);
    assert_eq!(index.count(&Filter { attributes, ..Default::default() }).await.unwrap(), 1);
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_return_every_prompt_exactly_once() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    index.upsert((0..25).map(|n| prompt(n, "a", 0)).collect()).await.unwrap();
    let (mut seen, mut from) = (Vec::new(), None);
    loop {
        let (points, next) = index.page(&Filter::default(), from, 10, &[Space::Clip]).await.unwrap();
        assert!(points.iter().all(|point| point.clip.len() == CLIP_DIM && point.minilm.is_empty()));
        seen.extend(points.into_iter().map(|point| point.prompt_id));
        from = next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..25).map(id).collect::<Vec<_>>());
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_the_index_ends_when_it_is_ready() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    index.upsert(vec![prompt(1, "a", 0)]).await.unwrap();
    let info = index.optimize_wait(Duration::from_secs(30)).await.unwrap();
    assert_eq!((info.state, info.points), (IndexState::Ready, 1));
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_server_is_a_transient_error_that_names_the_address() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = unprompt_index::PromptIndex::connect(&format!("http://{free}"), Default::default())
        .await
        .unwrap_err();
    assert!(error.is_transient() && error.to_string().contains(&free.to_string()), "{error}");
    let error = unprompt_index::PromptIndex::connect("not an address", Default::default()).await.unwrap_err();
    assert!(matches!(error, IndexError::InvalidUrl { .. }), "{error}");
}

/// The longest prompts that the contract allows: a thousand of them are more than a message.
fn long_prompts(count: u64) -> Vec<unprompt_index::PromptPoint> {
    (0..count)
        .map(|number| PromptPoint { text: format!("{number:05}").repeat(13_000), ..prompt(number, "a", 0) })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_larger_than_a_message_are_split() {
    const COUNT: u64 = 1_200;
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    index.upsert(long_prompts(COUNT)).await.unwrap();
    assert_eq!(index.count(&Filter::default()).await.unwrap(), COUNT);

    // 24 answers of 120 texts, then 1,100 texts for one query, then all on one page.
    let query = |number: u64, limit| Query::new(Space::Clip, prompt(number, "", 0).clip, limit).exact(true);
    let queries: Vec<Query> = (0..24).map(|number| query(number, 120)).collect();
    let answers = index.search_batch(&queries).await.unwrap();
    assert_eq!(answers.len(), 24);
    for (number, hits) in (0..).zip(&answers) {
        assert_eq!(hits.len(), 120);
        assert!(hits[0].prompt_id == id(number) && hits[0].text.len() == 65_000);
    }
    let most = query(3, 1_100).with_vectors([Space::MiniLm]);
    let hits = index.search(&most).await.unwrap();
    assert_eq!(hits.len(), 1_100);
    assert!(hits.iter().all(|hit| hit.text.len() == 65_000 && hit.minilm.as_ref().unwrap().len() == 384));
    assert!(hits.is_sorted_by(|a, b| a.similarity >= b.similarity));
    let (page, next) = index.page(&Filter::default(), None, COUNT as u32, &[]).await.unwrap();
    assert!(!page.is_empty() && page.len() < COUNT as usize && next.is_some(), "{} on a page", page.len());

    let nearest = index.nearest(queries).await.unwrap();
    assert!(nearest.iter().flatten().all(|hit| hit.text.is_empty() && hit.minilm.is_some()));
    let ids: Vec<Uuid> = (0..COUNT).map(id).chain([Uuid::from_u128(1)]).collect();
    let texts = index.texts(&ids).await.unwrap();
    assert!(texts.len() == COUNT as usize && texts[&id(7)].starts_with("00007"));
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_query_that_is_refused_does_not_fail_the_others() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    index.upsert(vec![prompt(1, "a", 0), prompt(2, "a", 0)]).await.unwrap();
    let query = |vector| Query::new(Space::Clip, vector, 2);
    let good = || query(prompt(1, "", 0).clip);
    let queries = vec![good(), query(vec![f32::NAN; CLIP_DIM]), query(vec![1.0; CLIP_DIM + 1]), good()];
    let answers = index.nearest_each(queries).await.unwrap();
    assert!(answers[0].as_ref().is_ok_and(|hits| hits.len() == 2));
    for refused in &answers[1..3] {
        assert!(matches!(refused, Err(IndexError::InvalidQuery { .. })), "{refused:?}");
    }
    assert!(answers[3].as_ref().is_ok_and(|hits| hits[0].prompt_id == id(1)));
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_a_collection_stays_with_it_when_the_alias_moves() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    let first = index.ensure(&layout()).await.unwrap().collection;
    index.upsert(vec![prompt(1, "a", 0)]).await.unwrap();
    let pinned = index.collection_named(&first);
    let next = Layout { encoder: "tiny-clip@next".into(), ..layout() };
    index.beside(&next).await.unwrap();
    index.switch_to(&next).await.unwrap();
    assert_eq!(index.count(&Filter::default()).await.unwrap(), 0);
    assert_eq!(pinned.count(&Filter::default()).await.unwrap(), 1);
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_are_forgotten_by_age_and_with_their_collection() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    // Nothing to forget yet.
    index.forget_deletions(i64::MAX).await.unwrap();
    let at = |at_ms: i64| Version { at_ms, partition: None };
    let timed = |number: u64, at_ms: i64| PromptPoint { version: Some(at(at_ms)), ..prompt(number, "a", 0) };
    let ids: Vec<_> = (0..600).map(|number| prompt(number, "a", 0).prompt_id).collect();
    index.upsert(vec![timed(0, 50), timed(1, 5), prompt(2, "a", 0)]).await.unwrap();
    // Of two deletions, the later one counts.
    let twice = ids.iter().flat_map(|id| [(*id, at(20)), (*id, at(7))]);
    index.delete_as_of(&twice.chain([(ids[599], at(30))]).collect::<Vec<_>>()).await.unwrap();
    index.delete_as_of(&[(ids[0], at(3))]).await.unwrap();
    let present = index.get(&ids, false).await.unwrap();
    assert_eq!(present.iter().map(|point| point.prompt_id).collect::<Vec<_>>(), [ids[0]]);
    let left_out = async |point: PromptPoint| index.upsert_unless_deleted(vec![point]).await.unwrap();
    assert_eq!(left_out(timed(5, 19)).await, 1);
    assert!(index.get(&ids[5..6], false).await.unwrap().is_empty());
    // A prompt from no topic, one with the time of the deletion, and a later one.
    for (written, point) in [prompt(6, "a", 0), timed(7, 20), timed(8, 21)].into_iter().enumerate() {
        assert_eq!(left_out(point).await, 0);
        assert_eq!(index.get(&ids[6..9], false).await.unwrap().len(), written + 1);
    }
    // The deletions were stored just now, regardless of their own times.
    index.forget_deletions(25).await.unwrap();
    assert_eq!(left_out(timed(9, 19)).await, 1);
    index.forget_deletions(i64::MAX).await.unwrap();
    assert_eq!(left_out(timed(9, 19)).await, 0);
    index.delete_as_of(&[(ids[599], at(30))]).await.unwrap();
    assert!(index.drop_collection().await.unwrap());
    index.ensure(&layout()).await.unwrap();
    assert_eq!(left_out(timed(599, 29)).await, 0);
    endpoint.stop().await;
}
