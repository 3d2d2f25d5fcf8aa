//! Given any bytes, reading ends in rows or in an error.

use proptest::prelude::*;
use unprompt_corpus::reader::{Format, Reading};

use crate::samples::{coco, coyo, entries, folder, gzip, lexica, prompts, write};

/// Fragments of the formats, so that the bytes get past format detection.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"{\"text\":\"a\"}".to_vec()),
        Just(b"{\"annotations\":[".to_vec()),
        Just(b"{\"images\":[{\"prompt\":".to_vec()),
        Just(b"\"a\\\"b\"".to_vec()),
        Just(b"[]{}],:}\n".to_vec()),
        Just(b"text,prompt\n\"".to_vec()),
        Just(b"\x1f\x8b\x08".to_vec()),
        Just(b"\x28\xb5\x2f\xfd".to_vec()),
        Just(b"PAR1".to_vec()),
        prop::collection::vec(any::<u8>(), 0..12),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn readers_do_not_panic_on_arbitrary_bytes(bytes in pieces()) {
        let folder = folder();
        for name in ["x", "x.json", "x.csv", "x.parquet"] {
            let _ = entries(&write(folder.path(), name, &bytes), &Reading::default());
        }
        for format in Format::ALL {
            let reading = Reading { format: Some(format), ..Reading::default() };
            let _ = entries(&write(folder.path(), "y", &bytes), &reading);
        }
    }
}

#[test]
fn readers_do_not_panic_on_truncated_samples() {
    let folder = folder();
    let prompts = prompts(6);
    let samples = [
        std::fs::read(coco(folder.path(), &prompts)).unwrap(),
        std::fs::read(lexica(folder.path(), &prompts)).unwrap(),
        std::fs::read(coyo(folder.path(), &prompts)).unwrap(),
        gzip(prompts.join("\n").as_bytes()),
    ];
    for bytes in samples {
        for length in (0..bytes.len()).step_by(1 + bytes.len() / 200) {
            let _ = entries(&write(folder.path(), "cut", &bytes[..length]), &Reading::default());
        }
    }
}
