//! Files of heads.

use unprompt_models::head::{RidgeHead, Samples};

use crate::Target;

/// The file's values are copied a few times: as numbers, and to be written again.
const FACTOR: u64 = 64;
const BASE_BYTES: u64 = 16 * 1024;

/// A head file: safetensors with metadata.
pub const HEAD: Target = Target {
    name: "head",
    run: |input| {
        let Ok(head) = RidgeHead::from_bytes(input) else { return };
        let (inputs, targets) = head.dims();
        let predicted = head.predict(&vec![0.5; inputs]).expect("a vector of its size fits");
        assert_eq!(predicted.len(), targets);
        let written = head.to_bytes(head.encoder(), head.minilm()).expect("what was read fits");
        assert_eq!(
            RidgeHead::from_bytes(&written).ok(),
            Some(head),
            "reading it gives another head than was written"
        );
    },
    seeds: || vec![fitted(3), fitted(16)],
    memory_bytes: |length| BASE_BYTES + FACTOR * length as u64,
};

/// A head from vectors of this many dimensions.
fn fitted(dims: usize) -> Vec<u8> {
    let row = |k: usize| (0..dims).map(|at| ((k * dims + at) as f32).sin()).collect();
    let rows: Vec<Vec<f32>> = (0..2 * dims).map(row).collect();
    let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    let head = RidgeHead::fit(&Samples { inputs: rows.clone(), targets: rows }, 1.0).expect("it has samples");
    head.to_bytes("clip@0a1b2c;side=64", "minilm@1").expect("a head is written")
}
