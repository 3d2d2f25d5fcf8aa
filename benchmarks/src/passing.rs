//! Passing records through: the runner beside what a user would write or use instead, on one Apache
//! Kafka.

pub mod bare;
pub mod contender;
pub mod latency;
pub mod ours;
pub mod throughput;

use serde_json::{Value, json};
use unprompt_schemas::topics::Topic;

/// The input topic of every contender, under its prefix.
pub const FROM: Topic = Topic::Images;
/// The output topic of every contender, under its prefix.
pub const TO: Topic = Topic::ImageEmbeddings;

/// A row of the report: a ratio above 1 means that ours is better, whatever the unit.
pub fn row(name: &str, unit: &str, ours: f64, peer: f64, peer_name: &str) -> Value {
    let round = |value: f64, by: f64| (value * by).round() / by;
    let ratio = if unit == "ms" { peer / ours } else { ours / peer };
    json!({
        "name": name,
        "unit": unit,
        "ours": round(ours, 10.0),
        "peer": round(peer, 10.0),
        "peer_name": peer_name,
        "ratio": round(ratio, 1000.0),
    })
}

/// A quantile of the values.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    values.get((last * share).round() as usize).copied().unwrap_or(f64::NAN)
}
