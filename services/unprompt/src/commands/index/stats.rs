//! `unprompt index stats`: shows the state and the contents of the collection.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use unprompt_index::{IndexInfo, IndexState, IndexStats};

use crate::context::Context;
use crate::index_access::IndexAccess;
use crate::output;

pub async fn run(context: &Context, index: &IndexAccess) -> anyhow::Result<()> {
    let stats = index.stats().await?;
    let disk = index.folder.as_deref().map(folder_bytes);
    let process = index.pid.and_then(resident_bytes);
    if context.json {
        return output::json(&as_json(&stats, disk, process));
    }
    print(&stats, disk, process)
}

fn as_json(stats: &IndexStats, disk: Option<u64>, process: Option<u64>) -> Value {
    let info = &stats.info;
    let vectors: serde_json::Map<_, _> =
        stats.vectors.iter().map(|(name, dim)| (name.clone(), json!(dim))).collect();
    json!({
        "collection": info.collection, "state": state(info), "points": info.points, "segments": info.segments,
        "indexed_vectors": info.indexed_vectors, "bulk": info.bulk, "error": info.error,
        "encoder": info.encoder, "minilm": info.minilm, "profile": info.profile,
        "quantisation": stats.quantisation, "vectors": vectors,
        "hnsw": {"m": stats.hnsw_m, "ef_construct": stats.hnsw_ef_construct},
        "fields": stats.fields, "sources": stats.sources,
        "quantised_bytes": quantised_bytes(stats), "disk_bytes": disk, "process_bytes": process,
    })
}

fn print(stats: &IndexStats, disk: Option<u64>, process: Option<u64>) -> anyhow::Result<()> {
    let info = &stats.info;
    let dims: Vec<_> = stats.vectors.iter().map(|(name, dim)| format!("{name} {dim}")).collect();
    let fields: Vec<_> =
        stats.fields.iter().map(|of| format!("{} ({}, {})", of.field, of.kind, of.points)).collect();
    let unknown = || "unknown".to_owned();
    let mut table = output::table(["", info.collection.as_str()]);
    table.add_row(["state", &state(info)]);
    table.add_row(["prompts", &info.points.to_string()]);
    table.add_row(["vectors in graphs", &format!("{} of {}", info.indexed_vectors, 2 * info.points)]);
    table.add_row(["segments", &info.segments.to_string()]);
    table.add_row(["image encoder", info.encoder.as_deref().unwrap_or("unknown")]);
    table.add_row(["sentence encoder", info.minilm.as_deref().unwrap_or("unknown")]);
    table.add_row(["vectors", &dims.join(", ")]);
    table.add_row(["profile", &format!("{} ({})", info.profile, stats.quantisation)]);
    table.add_row(["graph", &format!("m {}, ef_construct {}", stats.hnsw_m, stats.hnsw_ef_construct)]);
    table.add_row(["compressed vectors", &megabytes(quantised_bytes(stats))]);
    table.add_row(["on disk", &disk.map_or_else(unknown, megabytes)]);
    table.add_row(["memory of the process", &process.map_or_else(unknown, megabytes)]);
    table.add_row(["indexed fields", &fields.join(", ")]);
    for of in &stats.sources {
        table.add_row([format!("source {}", of.source), of.prompts.to_string()]);
    }
    output::line(table)
}

fn state(info: &IndexInfo) -> String {
    match (&info.error, info.bulk, info.state) {
        (Some(error), ..) => format!("failed: {error}"),
        (None, true, _) => "in a bulk load, no graph; `unprompt index optimize` ends it".into(),
        (None, false, IndexState::Ready) => "ready".into(),
        (None, false, IndexState::Optimising) => "optimising".into(),
        (None, false, IndexState::Failed) => "failed".into(),
    }
}

/// Returns the bytes of the compressed vectors that the profile keeps in memory, without the
/// graphs.
fn quantised_bytes(stats: &IndexStats) -> u64 {
    let dims: u64 = stats.vectors.iter().map(|(_, dim)| dim).sum();
    (stats.info.points as f64 * dims as f64 * stats.info.profile.bytes_a_dimension()) as u64
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        // Counts allocated blocks and not lengths, because log files are preallocated.
        Ok(metadata) => std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

/// Returns the resident memory of a process on Linux, in bytes, including the pages of mapped
/// files.
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").trim().parse().ok()?;
    Some(kilobytes * 1024)
}
