//! Searches through the client: filters against a plain predicate, thresholds, pages, diversity,
//! batches.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use unprompt_index::{
    Diversity, Encode, Filter, Hit, IndexError, PromptIndex, PromptPoint, Query, SearchRequest, Space, Uuid,
};
use unprompt_test_qdrant::{TestEndpoint, unit};

use crate::prompt_index::{connect, layout, prompt};

const WORDS: [&str; 14] = [
    "a",
    "Red",
    "red",
    "STAR",
    "star-fish",
    "starfish",
    "12",
    "blue",
    "grün",
    "München",
    "été",
    "日本",
    "x_y",
    "of",
];
const SEPARATORS: [&str; 5] = [" ", ", ", "-", "  ", "; "];
const SOURCES: [&str; 4] = ["wiki", "users", "diffusiondb", "coyo"];

async fn filled(endpoint: &TestEndpoint, points: &[PromptPoint]) -> PromptIndex {
    let index = connect(endpoint).await;
    index.ensure(&layout()).await.unwrap();
    index.upsert(points.to_vec()).await.unwrap();
    index
}

/// Prompts that differ in every field of a filter.
fn varied(count: u64) -> Vec<PromptPoint> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut one = |number| {
        let mut point = prompt(number, SOURCES.choose(&mut rng).unwrap(), rng.random_range(0..1_000));
        point.sources.push(SOURCES.choose(&mut rng).unwrap().to_string());
        point.sources.sort_unstable();
        point.sources.dedup();
        point.text = text(&mut rng);
        if rng.random_bool(0.5) {
            point
                .attributes
                .insert("mood".into(), (if rng.random_bool(0.5) { "calm" } else { "dark" }).into());
        }
        point
    };
    (0..count).map(&mut one).collect()
}

fn text(rng: &mut ChaCha8Rng) -> String {
    let mut text = String::new();
    for _ in 0..rng.random_range(1..9) {
        text.push_str(WORDS.choose(rng).unwrap());
        text.push_str(SEPARATORS.choose(rng).unwrap());
    }
    text
}

/// A random filter that some of `points` may pass; each condition may be absent.
fn some_filter(rng: &mut ChaCha8Rng, points: &[PromptPoint]) -> Filter {
    let likely = rng.random_range(0.1..0.6);
    let model = points.choose(rng).unwrap();
    let mut filter = Filter::default();
    let sources = |rng: &mut ChaCha8Rng| -> Vec<String> {
        SOURCES.choose_multiple(rng, 2).map(ToString::to_string).collect()
    };
    if rng.random_bool(likely) {
        filter.sources = sources(rng);
    }
    if rng.random_bool(likely / 2.0) {
        filter.not_sources = sources(rng)[..1].to_vec();
    }
    filter.created_from_ms = rng.random_bool(likely).then(|| rng.random_range(0..600));
    filter.created_before_ms = rng.random_bool(likely).then(|| rng.random_range(600..1_000));
    filter.min_length = rng.random_bool(likely).then(|| rng.random_range(0..20));
    filter.max_length = rng.random_bool(likely).then(|| rng.random_range(20..50));
    if rng.random_bool(likely) {
        filter.attributes.insert("mood".into(), vec!["dark".into(), "bright".into()]);
    }
    if rng.random_bool(likely) {
        filter.attributes.insert("style".into(), vec!["style 0".into(), "style 2".into()]);
    }
    let words = tokens(&model.text);
    let at = rng.random_range(0..words.len());
    filter.words = rng.random_bool(likely).then(|| format!("{}, {}", words[at].to_uppercase(), words[0]));
    filter.phrase = rng.random_bool(likely).then(|| words[at..words.len().min(at + 3)].join(" "));
    let chars: Vec<char> = model.text.chars().collect();
    let from = rng.random_range(0..chars.len());
    let to = rng.random_range(from..chars.len()) + 1;
    filter.contains = rng.random_bool(likely).then(|| chars[from..to].iter().collect());
    filter
}

fn tokens(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// The filter as a plain predicate.
fn passes(filter: &Filter, point: &PromptPoint) -> bool {
    let seen_in = |sources: &[String]| sources.iter().any(|source| point.sources.contains(source));
    let (length, text) = (point.text.chars().count() as u64, tokens(&point.text));
    let attribute = |(key, values): (&String, &Vec<String>)| {
        point.attributes.get(key).is_some_and(|value| values.contains(value))
    };
    (filter.sources.is_empty() || seen_in(&filter.sources))
        && !seen_in(&filter.not_sources)
        && filter.created_from_ms.is_none_or(|from| point.created_at_ms >= from)
        && filter.created_before_ms.is_none_or(|before| point.created_at_ms < before)
        && filter.min_length.is_none_or(|min| length >= min)
        && filter.max_length.is_none_or(|max| length <= max)
        && filter.attributes.iter().all(attribute)
        && filter.words.as_ref().is_none_or(|words| tokens(words).iter().all(|word| text.contains(word)))
        && filter.phrase.as_ref().is_none_or(|phrase| {
            let phrase = tokens(phrase);
            text.windows(phrase.len()).any(|window| window == phrase)
        })
        && filter.contains.as_ref().is_none_or(|part| point.text.contains(part))
}

fn ids(hits: &[Hit]) -> Vec<Uuid> {
    hits.iter().map(|hit| hit.prompt_id).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_return_what_a_plain_predicate_accepts() {
    let endpoint = TestEndpoint::start().await;
    let points = varied(300);
    let index = filled(&endpoint, &points).await;
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (mut some, mut none) = (0, 0);
    for _ in 0..250 {
        let filter = some_filter(&mut rng, &points);
        let expected: BTreeSet<Uuid> =
            points.iter().filter(|point| passes(&filter, point)).map(|point| point.prompt_id).collect();
        let query = Query::new(Space::Clip, points[0].clip.clone(), 300).filter(filter.clone());
        let found = index.search(&query.exact(rng.random_bool(0.5))).await.unwrap();
        assert_eq!(BTreeSet::from_iter(ids(&found)), expected, "{filter:?}");
        assert_eq!(found.len(), expected.len(), "{filter:?}");
        assert_eq!(index.count(&filter).await.unwrap(), expected.len() as u64, "{filter:?}");
        *(if expected.is_empty() { &mut none } else { &mut some }) += 1;
    }
    assert!(some > 100 && none > 10, "the filters are of one kind: {some} pass prompts, {none} do not");
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_phrase_and_contains_filters_match_differently() {
    let endpoint = TestEndpoint::start().await;
    let texts = ["A red star over the sea", "star, red and blue", "a red starfish", "A RED STAR"];
    let point = |(number, text): (usize, &&str)| PromptPoint {
        text: (*text).to_owned(),
        ..prompt(number as u64, "a", 0)
    };
    let points: Vec<_> = texts.iter().enumerate().map(point).collect();
    let index = filled(&endpoint, &points).await;
    let word = |text: &str| Some(text.to_owned());
    for (filter, expected) in [
        (Filter { words: word("star RED"), ..Filter::default() }, vec![0, 1, 3]),
        (Filter { phrase: word("Red star"), ..Filter::default() }, vec![0, 3]),
        (Filter { contains: word("red star"), ..Filter::default() }, vec![0, 2]),
        (Filter { words: word("sta"), ..Filter::default() }, vec![]),
        (Filter { contains: word("starf"), words: word("red"), ..Filter::default() }, vec![2]),
    ] {
        let (page, _) = index.page(&filter, None, 10, &[]).await.unwrap();
        let found: Vec<_> = page.iter().map(|point| point.text.as_str()).collect();
        let expected: Vec<_> = expected.into_iter().map(|at: usize| texts[at]).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_keeps_exactly_the_hits_at_or_above_it() {
    let endpoint = TestEndpoint::start().await;
    let points: Vec<_> = (0..120).map(|number| prompt(number, "a", 0)).collect();
    let index = filled(&endpoint, &points).await;
    for (space, threshold) in
        [(Space::Clip, 0.2), (Space::Clip, -0.1), (Space::MiniLm, 0.02), (Space::Clip, 1.0)]
    {
        let wanted = points[5].vector(space).iter().map(|v| -v).collect::<Vec<_>>();
        let expected =
            points.iter().filter(|point| cosine(&wanted, point.vector(space)) >= threshold).count();
        let query = Query::new(space, wanted, 200).threshold(threshold).exact(true);
        let found = index.search(&query).await.unwrap();
        assert_eq!(found.len(), expected, "{space:?} {threshold}");
        assert!(found.iter().all(|hit| hit.similarity >= threshold));
    }
    endpoint.stop().await;
}

/// Thirty distant clusters of ten nearly identical prompts each, in both spaces.
fn clusters() -> Vec<PromptPoint> {
    let mut rng = ChaCha8Rng::seed_from_u64(21);
    let mut near = |vector: &[f32]| unit(vector.iter().map(|v| v + rng.random_range(-0.02..0.02)).collect());
    let one = |number: u64| {
        let centre = prompt(number / 10, "a", 0);
        PromptPoint { minilm: near(&centre.minilm), clip: near(&centre.clip), ..prompt(number, "a", 0) }
    };
    (0..300).map(one).collect()
}

/// The mean cosine between two answers.
fn likeness(hits: &[Hit]) -> f32 {
    let vectors: Vec<&[f32]> = hits.iter().map(|hit| hit.clip.as_deref().unwrap()).collect();
    let (mut sum, mut pairs) = (0.0, 0.0);
    for (at, a) in vectors.iter().enumerate() {
        for b in &vectors[at + 1..] {
            sum += cosine(a, b);
            pairs += 1.0;
        }
    }
    sum / pairs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_mmr_lambda_gives_more_diverse_hits() {
    let endpoint = TestEndpoint::start().await;
    let points = clusters();
    let index = filled(&endpoint, &points).await;
    let plain = Query::new(Space::Clip, points[0].clip.clone(), 12).with_vectors([Space::Clip]).exact(true);
    let nearest = index.search(&plain).await.unwrap();
    let mmr = |lambda| plain.clone().diversity(Diversity::Mmr { lambda, candidates: Some(300) });
    let same = index.search(&mmr(1.0)).await.unwrap();
    assert_eq!(ids(&same), ids(&nearest), "a lambda of 1 is the order of similarity");
    let half = index.search(&mmr(0.5)).await.unwrap();
    let apart = index.search(&mmr(0.0)).await.unwrap();
    assert_eq!(half[0].prompt_id, nearest[0].prompt_id, "the nearest is the first in any case");
    let (near, half, apart) = (likeness(&nearest), likeness(&half), likeness(&apart));
    assert!(near > half + 0.2 && half > apart, "{near} {half} {apart}");
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn near_duplicates_are_grouped_under_the_best_hit_in_either_space() {
    let endpoint = TestEndpoint::start().await;
    let points = clusters();
    let index = filled(&endpoint, &points).await;
    let cluster = |id: Uuid| points.iter().position(|point| point.prompt_id == id).unwrap() / 10;
    for space in [Space::Clip, Space::MiniLm] {
        let plain = Query::new(space, points[70].vector(space).to_vec(), 30).exact(true);
        let grouped = plain.clone().diversity(Diversity::Group { similarity: 0.9 });
        let found = index.search(&grouped).await.unwrap();
        let clusters: BTreeSet<_> = found.iter().map(|hit| cluster(hit.prompt_id)).collect();
        assert_eq!((found.len(), clusters.len()), (30, 30));
        assert_eq!(cluster(found[0].prompt_id), 7);
        for hit in &found {
            let of = cluster(hit.prompt_id);
            assert!(hit.near_duplicates.iter().all(|near| cluster(near.prompt_id) == of));
            assert!(hit.near_duplicates.iter().all(|near| near.similarity <= hit.similarity));
            assert!(hit.minilm.is_none() && hit.clip.is_none(), "no vectors were asked for");
        }
        assert_eq!(found[0].near_duplicates.len(), 9);
        let strict = plain.diversity(Diversity::Group { similarity: 1.0 });
        assert!(index.search(&strict).await.unwrap().iter().all(|hit| hit.near_duplicates.is_empty()));
    }
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_pages_tile_without_gaps_and_repeats() {
    let endpoint = TestEndpoint::start().await;
    let points = clusters();
    let index = filled(&endpoint, &points).await;
    let whole = Query::new(Space::MiniLm, points[3].minilm.clone(), 28).exact(true);
    let mmr = Diversity::Mmr { lambda: 0.5, candidates: Some(200) };
    let group = Diversity::Group { similarity: 0.9 };
    for diversity in [None, Some(mmr), Some(group)] {
        let whole = Query { diversity, ..whole.clone() };
        let expected = ids(&index.search(&whole).await.unwrap());
        assert_eq!(expected.len(), 28);
        let mut pages = Vec::new();
        for offset in [0, 10, 20] {
            let page = Query { limit: 10.min(28 - offset), offset, ..whole.clone() };
            pages.extend(ids(&index.search(&page).await.unwrap()));
        }
        assert_eq!(pages, expected, "{diversity:?}");
    }
    let beyond = Query { offset: 300, ..whole };
    assert!(index.search(&beyond).await.unwrap().is_empty());
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_returns_what_each_query_returns_alone() {
    let endpoint = TestEndpoint::start().await;
    let points = clusters();
    let index = filled(&endpoint, &points).await;
    let query = |at: usize| match at % 4 {
        0 => Query::new(Space::Clip, points[at].clip.clone(), 5).offset(at / 50),
        1 => Query::like(Space::MiniLm, points[at].prompt_id, 3).threshold(0.1),
        2 => Query::new(Space::Clip, points[at].clip.clone(), 4)
            .diversity(Diversity::Mmr { lambda: 0.5, candidates: None })
            .offset(2),
        _ => Query::new(Space::MiniLm, points[at].minilm.clone(), 3)
            .diversity(Diversity::Group { similarity: 0.9 }),
    };
    let queries: Vec<Query> = (0..150).map(|at| query(at).exact(true)).collect();
    let together = index.search_batch(&queries).await.unwrap();
    assert_eq!(together.len(), queries.len());
    for (query, answer) in queries.iter().zip(&together) {
        assert_eq!(ids(answer), ids(&index.search(query).await.unwrap()), "{query:?}");
    }
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_query_does_not_fail_the_rest_of_its_batch() {
    let endpoint = TestEndpoint::start().await;
    let points: Vec<_> = (0..20).map(|number| prompt(number, "a", 0)).collect();
    let index = filled(&endpoint, &points).await;
    let good = Query::new(Space::Clip, points[3].clip.clone(), 1);
    let missing = Uuid::from_u128(u128::MAX);
    let queries = [
        good.clone(),
        Query::new(Space::Clip, vec![1.0; 3], 1),
        Query::like(Space::Clip, missing, 1),
        Query { limit: 0, ..good.clone() },
        good,
    ];
    let answers = index.search_each(&queries).await.unwrap();
    assert_eq!(answers.len(), 5);
    for place in [0, 4] {
        assert_eq!(answers[place].as_ref().unwrap()[0].prompt_id, points[3].prompt_id);
    }
    for (place, hint) in [(1, "3"), (2, &*missing.to_string()), (3, "limit is 0")] {
        let error = answers[place].as_ref().unwrap_err();
        assert!(matches!(error, IndexError::InvalidQuery { .. }), "{error:?}");
        assert!(error.to_string().contains(hint), "{error}");
    }
    index.drop_collection().await.unwrap();
    let error = index.search_each(&queries[..1]).await.unwrap_err();
    assert!(matches!(error, IndexError::NoCollection { .. }), "{error}");
    endpoint.stop().await;
}

/// Encodes every text and picture as the prompt of its number.
struct Numbers;

impl Encode for Numbers {
    fn texts(&mut self, using: Space, texts: &[&str]) -> Result<Vec<Vec<f32>>, IndexError> {
        Ok(texts.iter().map(|text| prompt(text.parse().unwrap(), "", 0).vector(using).to_vec()).collect())
    }

    fn picture(&mut self, picture: &[u8]) -> Result<Vec<f32>, IndexError> {
        Ok(prompt(u64::from(picture[0]), "", 0).clip)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_request_searches_by_text_picture_vector_or_prompt() {
    let endpoint = TestEndpoint::start().await;
    let points: Vec<_> = (0..40).map(|number| prompt(number, "a", number as i64)).collect();
    let index = filled(&endpoint, &points).await;
    let like = points[7].prompt_id;
    let mut near = points[7].clone();
    (near.prompt_id, near.text) = (Uuid::from_u128(99_000), "nearly seven".into());
    index.upsert(vec![near.clone()]).await.unwrap();
    let vector = serde_json::to_string(&points[7].clip).unwrap();
    let near_id = near.prompt_id;
    for (json, expected) in [
        (format!(r#"{{"text": "7", "limit": 1, "exclude": ["{near_id}"]}}"#), like),
        (r#"{"text": "7", "using": "clip", "limit": 1, "filter": {"contains": "of 7"}}"#.into(), like),
        // 7, in base64.
        (r#"{"image": "Bw==", "limit": 1, "filter": {"words": "boats"}}"#.into(), like),
        (
            format!(
                r#"{{"vector": {vector}, "limit": 1, "filter": {{"created_before": 8, "phrase": "7 boats"}}}}"#
            ),
            like,
        ),
        (format!(r#"{{"like": "{like}", "limit": 1, "threshold": 0.99}}"#), near_id),
    ] {
        let request: SearchRequest = serde_json::from_str(&json).unwrap();
        let query = request.resolve(&mut Numbers).unwrap();
        let found = index.search(&query).await.unwrap();
        assert_eq!(ids(&found), [expected], "{json}");
        let row: BTreeMap<String, serde_json::Value> =
            serde_json::from_value(serde_json::to_value(&found[0]).unwrap()).unwrap();
        let keys: Vec<_> = row.keys().map(String::as_str).collect();
        assert_eq!(keys, ["attributes", "created_at_ms", "prompt_id", "similarity", "sources", "text"]);
    }
    endpoint.stop().await;
}
