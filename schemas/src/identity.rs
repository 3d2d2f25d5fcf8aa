//! Identities, derived from what they name, so that processing a record twice changes nothing.
//!
//! All are UUIDv5 in [`NAMESPACE`] (RFC 9562, section 5.5). Golden values:
//! `tests/golden/identities.json`.

use unicode_normalization::UnicodeNormalization;
use uuid::{Uuid, uuid};

/// The namespace of every identity here. It must never change.
pub const NAMESPACE: Uuid = uuid!("091d48a3-ab9a-47e8-a8ca-a1ed0a25151b");

/// Returns the text that names a prompt: Unicode NFC, each run of white space (the Unicode property
/// White_Space) as one space, none at either end, case kept.
pub fn normalise(text: &str) -> String {
    let composed: String = text.nfc().collect();
    let mut words = composed.split_whitespace();
    let mut normal = String::with_capacity(composed.len());
    normal.push_str(words.next().unwrap_or_default());
    for word in words {
        normal.push(' ');
        normal.push_str(word);
    }
    normal
}

/// Returns the identity of a prompt: UUIDv5 of its [normalised](normalise) text.
pub fn prompt_id(text: &str) -> Uuid {
    named(&normalise(text))
}

/// Returns the identity of a picture without `ce_id`: UUIDv5 of
/// `image-at:<topic>:<partition>:<offset>`, with the topic's full name.
pub fn image_id_at(topic: &str, partition: i32, offset: i64) -> Uuid {
    named(&format!("image-at:{topic}:{partition}:{offset}"))
}

/// Returns the identity of a picture with `ce_id`: the UUID itself if it is one, otherwise UUIDv5
/// of `image:<ce_id>`.
pub fn image_id_of(ce_id: &str) -> Uuid {
    Uuid::try_parse(ce_id).unwrap_or_else(|_| named(&format!("image:{ce_id}")))
}

/// Returns the identity of a generated picture: UUIDv5 of `generated:<prompt_id>:<seed>:<model
/// revision>:<parameters>`.
///
/// `parameters` is a stable text of everything else that determines the picture (steps, guidance
/// scale, size, scheduler).
pub fn generated_image_id(prompt_id: Uuid, model_revision: &str, seed: u64, parameters: &str) -> Uuid {
    named(&format!("generated:{prompt_id}:{seed}:{model_revision}:{parameters}"))
}

fn named(name: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, name.as_bytes())
}
