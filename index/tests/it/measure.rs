//! Not a test: prints the figures that the README quotes.
//! `cargo test -p unprompt-index --test it measure -- --ignored --nocapture`

use std::time::{Duration, Instant};

use unprompt_index::{Filter, Layout, Profile, PromptIndex, PromptPoint, Query, RecallOptions, Space};
use unprompt_test_qdrant::{Cloud, TestEndpoint};

use crate::prompt_index::{connect, prompt};

/// How many prompts `measure_profiles` loads, and of which profiles: `UNPROMPT_MEASURE=200000,small-memory`.
const MEASURE: &str = "UNPROMPT_MEASURE";

const POINTS: u64 = 20_000;
const DIM: usize = 384;
const K: usize = 100;

fn points(cloud: &mut Cloud) -> Vec<PromptPoint> {
    let point =
        |number| PromptPoint { clip: cloud.vector(), minilm: cloud.vector(), ..prompt(number, "a", 0) };
    (0..POINTS).map(point).collect()
}

fn percentile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * part) as usize]
}

async fn singles(index: &PromptIndex, points: &[PromptPoint]) {
    let mut times = Vec::new();
    for point in points {
        let began = Instant::now();
        index.upsert(vec![point.clone()]).await.unwrap();
        times.push(began.elapsed());
    }
    let (p50, p99) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
    println!("one point at a time, read, merged and durable: p50 {p50:?}, p99 {p99:?}");
}

async fn searches(index: &PromptIndex, queries: &[Query], clients: usize) {
    let began = Instant::now();
    let each = queries.len() / clients;
    let tasks = queries.chunks(each).map(|chunk| {
        let (index, chunk) = (index.clone(), chunk.to_vec());
        tokio::spawn(async move {
            for query in &chunk {
                assert_eq!(index.search(query).await.unwrap().len(), K);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let rate = queries.len() as f64 / began.elapsed().as_secs_f64();
    println!("searches of k = {K} with {clients} clients: {rate:.0}/s");
}

async fn recall(index: &PromptIndex, queries: &[Query]) -> f64 {
    let mut found = 0;
    for query in queries {
        let near = index.search(query).await.unwrap();
        let exact = index.search(&query.clone().exact(true)).await.unwrap();
        found += exact.iter().filter(|hit| near.iter().any(|n| n.prompt_id == hit.prompt_id)).count();
    }
    found as f64 / (queries.len() * K) as f64
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures, checks nothing"]
async fn measure() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&Layout::new("measured@1", DIM, "minilm@1")).await.unwrap();
    let mut cloud = Cloud::new(DIM, 7);
    let points = points(&mut cloud);
    let singles_of = points[..200].to_vec();
    let began = Instant::now();
    index.upsert(points).await.unwrap();
    let seconds = began.elapsed().as_secs_f64();
    println!("{POINTS} prompts of 2 x {DIM}, read, merged and durable: {:.0}/s", POINTS as f64 / seconds);
    let began = Instant::now();
    let info = index.optimize_wait(Duration::from_secs(600)).await.unwrap();
    println!("then indexed in {:?}: {info:?}", began.elapsed());
    singles(&index, &singles_of).await;
    let queries: Vec<_> = (0..2000).map(|_| Query::new(Space::Clip, cloud.vector(), K)).collect();
    for clients in [1, 4] {
        searches(&index, &queries, clients).await;
    }
    let with_vectors: Vec<_> =
        queries.iter().map(|query| query.clone().with_vectors([Space::MiniLm])).collect();
    println!("the same with the MiniLM vectors of the answers:");
    searches(&index, &with_vectors, 4).await;
    println!("recall@{K}: {:.3}", recall(&index, &queries[..100]).await);
    let began = Instant::now();
    let count = index.count(&Filter::source("a")).await.unwrap();
    println!("counting {count} by their source: {:?}", began.elapsed());
    endpoint.stop().await;
}

/// What of this process is its own, without pages of files that can be had again, and what it was at the most with
/// them.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of =
        |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("?").trim().to_owned();
    format!("anonymous {}, high-water {}", of("RssAnon:"), of("VmHWM:"))
}

async fn load(index: &PromptIndex, cloud: &mut Cloud, count: u64) {
    const BATCH: u64 = 10_000;
    let mut spent = Duration::ZERO;
    for first in (0..count).step_by(BATCH as usize) {
        let numbers = first..(first + BATCH).min(count);
        let points = numbers.map(|n| PromptPoint {
            clip: [cloud.vector(), cloud.vector()[..128].to_vec()].concat(),
            minilm: cloud.vector(),
            ..prompt(n, if n % 5 == 0 { "a" } else { "b" }, n as i64)
        });
        let points: Vec<_> = points.collect();
        let began = Instant::now();
        index.upsert(points).await.unwrap();
        spent += began.elapsed();
        if (first / BATCH) % 5 == 4 {
            println!("  the last 10,000 in {:?}; {}", began.elapsed(), memory());
        }
    }
    println!("{count} prompts of 512 + 384 loaded: {:.0}/s", count as f64 / spent.as_secs_f64());
}

async fn measure_profile(profile: Profile, count: u64) {
    println!("{profile}, {}", memory());
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&Layout::new("measured@1", 512, "minilm@1").profile(profile)).await.unwrap();
    index.begin_bulk().await.unwrap();
    load(&index, &mut Cloud::new(DIM, 7), count).await;
    let began = Instant::now();
    let info = index.finish_bulk(|_| {}).await.unwrap();
    println!("graphs in {:?}, {} segments, {} vectors", began.elapsed(), info.segments, info.indexed_vectors);
    println!("{}", memory());
    for space in [Space::Clip, Space::MiniLm] {
        let efs = vec![None, Some(128), Some(192), Some(256), Some(384)];
        let options = RecallOptions { space, queries: 200, k: K, efs };
        for at in index.recall(&options, || {}).await.unwrap() {
            println!("{profile} {} {at:?}", space.name());
        }
    }
    println!("{}", memory());
    index.drop_collection().await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures, checks nothing"]
async fn measure_profiles() {
    let wanted = std::env::var(MEASURE).unwrap_or_else(|_| "20000".into());
    let (count, names) = wanted.split_once(',').unwrap_or((&wanted, "balanced,small-memory,fastest"));
    for name in names.split(',') {
        measure_profile(name.parse().unwrap(), count.parse().unwrap()).await;
    }
}
