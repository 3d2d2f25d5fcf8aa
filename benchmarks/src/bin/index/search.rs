//! Searches over gRPC: with texts, and also with the MiniLM vectors of the answers, as the
//! predictor searches.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use unprompt_embedded_index::EmbeddedIndex;
use unprompt_index::{Hit, PromptIndex, Query, Space};

use crate::load::options;
use crate::{K, On, memory, percentile_ms, recall};

pub async fn run(on: &On) -> anyhow::Result<Value> {
    let server = EmbeddedIndex::start(&on.folder, 0).await?;
    let index = PromptIndex::connect(&server.url(), options()).await?;
    index.ensure(&on.layout()).await?;
    let info = index.optimize_wait(Duration::from_secs(60)).await?;
    let mut spaces = serde_json::Map::new();
    for space in [Space::MiniLm, Space::Clip] {
        let with_vectors: &[Space] = if space == Space::Clip { &[Space::MiniLm] } else { &[] };
        let query = |vector| Query::new(space, vector, K).with_vectors(with_vectors.iter().copied());
        let warm_up: Vec<Query> = on.warm_up(space)?.into_iter().map(query).collect();
        let queries: Vec<Query> = on.queries(space)?.into_iter().map(query).collect();
        one_after_another(&index, &warm_up).await?;
        let (found, mut times) = one_after_another(&index, &queries).await?;
        times.sort_unstable();
        let one = queries.len() as f64 / times.iter().sum::<Duration>().as_secs_f64();
        let row = json!({
            "recall": recall(&on.truth(space)?, &found),
            "p50_ms": percentile_ms(&times, 0.5), "p99_ms": percentile_ms(&times, 0.99),
            "queries_per_s": {"1": one, "2": two_clients(&index, &queries).await?},
        });
        spaces.insert(space.name().into(), row);
    }
    let memory = memory::of_process()?;
    server.stop().await?;
    Ok(
        json!({"profile": on.profile, "count": on.of.count, "points": info.points, "memory": memory, "spaces": spaces}),
    )
}

async fn one_after_another(
    index: &PromptIndex,
    queries: &[Query],
) -> anyhow::Result<(Vec<Vec<u32>>, Vec<Duration>)> {
    let (mut found, mut times) = (Vec::new(), Vec::new());
    for query in queries {
        let began = Instant::now();
        let hits = index.search(query).await?;
        times.push(began.elapsed());
        found.push(hits.iter().map(|hit: &Hit| hit.prompt_id.as_u128() as u32).collect());
    }
    Ok((found, times))
}

async fn two_clients(index: &PromptIndex, queries: &[Query]) -> anyhow::Result<f64> {
    let began = Instant::now();
    let halves = queries.split_at(queries.len() / 2);
    let search = |half: &[Query]| {
        let (index, half) = (index.clone(), half.to_vec());
        tokio::spawn(async move { one_after_another(&index, &half).await.map(drop) })
    };
    let (first, second) = (search(halves.0), search(halves.1));
    first.await??;
    second.await??;
    Ok(queries.len() as f64 / began.elapsed().as_secs_f64())
}
