//! Changes to JSON that keep it JSON.

use serde_json::{Value, json};

/// A value of a file that is replaced.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edit {
    file: u8,
    place: u16,
    kind: u8,
    number: u64,
}

/// The bytes of an edit: file, place (two), kind, number (eight).
const EDIT_BYTES: usize = 12;
/// Further edits are left out: each goes through the whole file.
const EDITS_MAX: usize = 8;

/// Edits of the first file and the third.
pub(super) const SEED: &[u8] =
    b"\x00\x03\x00\x01\x20\x00\x00\x00\x00\x00\x00\x00\x02\x12\x00\x02\x01\x00\x00\x00\x00\x00\x00\x00";

/// Words of settings, and types of tensors.
const WORDS: [&str; 24] = [
    "",
    "avg",
    "token",
    "linear",
    "mlp",
    "gelu",
    "quick_gelu",
    "squash",
    "bilinear",
    "clip",
    "blip-2",
    "sample",
    "trailing",
    "squaredcos_cap_v2",
    "DownBlock2D",
    "UpBlock2D",
    "F64",
    "F16",
    "BF16",
    "F8_E4M3",
    "F4",
    "I64",
    "U8",
    "BOOL",
];

impl Edit {
    pub(super) fn all(bytes: &[u8]) -> Vec<Self> {
        bytes.as_chunks::<EDIT_BYTES>().0.iter().take(EDITS_MAX).map(Self::of).collect()
    }

    fn of(bytes: &[u8; EDIT_BYTES]) -> Self {
        let [file, low, high, kind, number @ ..] = *bytes;
        Self { file, place: u16::from_le_bytes([low, high]), kind, number: u64::from_le_bytes(number) }
    }

    /// The number of the file that it changes, out of `count`.
    pub(super) fn file(&self, count: usize) -> usize {
        usize::from(self.file) % count
    }

    pub(super) fn apply(&self, json: &mut Value) {
        let pointers = pointers(json, "");
        let at = |place: usize| &pointers[place % pointers.len()];
        let copy = |place: usize| json.pointer(at(place)).cloned().unwrap_or_default();
        let number = self.number as usize;
        let value = match self.kind % 11 {
            0 => json!(self.number),
            1 => json!(self.number % (1 << 20)),
            2 => json!(self.number % 100),
            3 => json!(f64::from_bits(self.number)),
            4 => json!(WORDS[number % WORDS.len()]),
            5 => json!(self.number.is_multiple_of(2)),
            6 => Value::Null,
            7 => json!(self.number as i8),
            // Another value of the file, and a list of the same value.
            8 => copy(number),
            9 => Value::Array(vec![copy(usize::from(self.place)); number % 100]),
            _ => json!({}),
        };
        if let Some(place) = json.pointer_mut(at(usize::from(self.place))) {
            *place = value;
        }
    }
}

/// The JSON pointers of all values.
fn pointers(value: &Value, at: &str) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(values) => values.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    let below = children.into_iter().flat_map(|(key, child)| {
        let key = key.replace('~', "~0").replace('/', "~1");
        pointers(child, &format!("{at}/{key}"))
    });
    [at.to_owned()].into_iter().chain(below).collect()
}

/// Sets the tensors' offsets by their types and shapes, one after the other.
pub(super) fn place_tensors(header: &mut Value) {
    let mut end = 0u64;
    let entries = header.as_object_mut().into_iter().flat_map(serde_json::Map::values_mut);
    // The metadata has no offsets.
    for tensor in entries.filter(|entry| entry.get("data_offsets").is_some()) {
        let bits = match tensor["dtype"].as_str() {
            Some("F64" | "I64" | "U64") => 64,
            Some("F16" | "BF16") => 16,
            Some("U8" | "BOOL" | "F8_E4M3") => 8,
            Some("F4") => 4,
            _ => 32,
        };
        let shape = tensor["shape"].as_array().into_iter().flatten().filter_map(Value::as_u64);
        let bytes = shape.fold(bits, u64::saturating_mul) / 8;
        let begin = end;
        end = end.saturating_add(bytes);
        tensor["data_offsets"] = json!([begin, end]);
    }
}

/// The bytes after the header by the tensors' offsets.
pub(super) fn data_bytes(header: &Value) -> usize {
    let tensors = header.as_object().into_iter().flat_map(serde_json::Map::values);
    let ends = tensors.filter_map(|tensor| tensor.pointer("/data_offsets/1")?.as_u64());
    ends.max().unwrap_or(0) as usize
}
