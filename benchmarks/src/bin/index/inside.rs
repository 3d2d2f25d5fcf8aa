//! Searches in process: qdrant-edge on the collection's folder. Answers contain only ids, as those
//! of the peer libraries do.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use qdrant_edge::{
    EdgeShard, NamedQuery, PointId, QuantizationSearchParams, QueryEnum, QueryRequest, ScoringQuery,
    SearchParams, VectorInternal,
};
use serde_json::{Value, json};
use unprompt_index::Space;

use crate::{K, On, recall};

/// Sizes of the candidate list.
const EFS: [usize; 5] = [100, 128, 192, 256, 400];
/// Every rate is the median of this many rounds, after one that is not counted.
const ROUNDS: usize = 3;

pub fn run(on: &On) -> anyhow::Result<Value> {
    let edge = EdgeShard::load(&collection(&on.folder)?, None)?;
    let mut spaces = serde_json::Map::new();
    for space in [Space::MiniLm, Space::Clip] {
        let (queries, truth) = (on.queries(space)?, on.truth(space)?);
        let mut curve = Vec::new();
        for ef in EFS {
            let found = search(&edge, on, space, &queries, ef)?;
            let (mut ones, mut twos) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let began = Instant::now();
                search(&edge, on, space, &queries, ef)?;
                ones.push(queries.len() as f64 / began.elapsed().as_secs_f64());
                twos.push(two_threads(&edge, on, space, &queries, ef)?);
            }
            let (one, two) = (median(ones), median(twos));
            curve.push(
                json!({"ef": ef, "recall": recall(&truth, &found), "queries_per_s": {"1": one, "2": two}}),
            );
        }
        spaces.insert(space.name().into(), Value::Array(curve));
    }
    Ok(json!({"profile": on.profile, "count": on.of.count, "usual_ef": on.profile.ef(), "spaces": spaces}))
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// The only collection in the index's folder.
fn collection(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut entries = std::fs::read_dir(folder.join("collections"))?;
    Ok(entries.next().context("the index has no collection; load one first")??.path())
}

fn search(
    edge: &EdgeShard,
    on: &On,
    space: Space,
    queries: &[Vec<f32>],
    ef: usize,
) -> anyhow::Result<Vec<Vec<u32>>> {
    let number = |id: PointId| match id {
        PointId::NumId(number) => number as u32,
        PointId::Uuid(uuid) => uuid.as_u128() as u32,
    };
    let search = |vector: &Vec<f32>| -> anyhow::Result<Vec<u32>> {
        let points = edge.query(request(on, space, vector, ef))?;
        Ok(points.into_iter().map(|point| number(point.id)).collect())
    };
    queries.iter().map(search).collect()
}

fn two_threads(
    edge: &EdgeShard,
    on: &On,
    space: Space,
    queries: &[Vec<f32>],
    ef: usize,
) -> anyhow::Result<f64> {
    let began = Instant::now();
    std::thread::scope(|scope| {
        let (first, second) = queries.split_at(queries.len() / 2);
        let halves =
            [first, second].map(|half| scope.spawn(move || search(edge, on, space, half, ef).map(drop)));
        halves
            .into_iter()
            .try_for_each(|half| half.join().map_err(|_| anyhow::anyhow!("a search panicked"))?)
    })?;
    Ok(queries.len() as f64 / began.elapsed().as_secs_f64())
}

fn request(on: &On, space: Space, vector: &[f32], ef: usize) -> QueryRequest {
    let mut request = QueryRequest::new(K);
    let vector = VectorInternal::Dense(vector.to_vec());
    request.query = Some(ScoringQuery::Vector(QueryEnum::Nearest(NamedQuery::new(vector, space.name()))));
    let quantization = QuantizationSearchParams {
        ignore: false,
        rescore: Some(true),
        oversampling: Some(on.profile.oversampling()),
    };
    request.params =
        Some(SearchParams { hnsw_ef: Some(ef), quantization: Some(quantization), ..SearchParams::default() });
    request
}
