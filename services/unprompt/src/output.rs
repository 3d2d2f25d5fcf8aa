//! Prints data to stdout: tables for people, JSON for programs. Everything else goes to stderr.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::Value;
use unprompt_stream::printable::{printable, printable_json};

/// Prints a line of data; on a terminal, control characters are escaped. Ignores a reader that has
/// closed its end.
pub fn line(text: impl Display) -> anyhow::Result<()> {
    let text = text.to_string();
    let mut out = io::stdout().lock();
    let text = if out.is_terminal() { printable(&text) } else { Cow::Borrowed(text.as_str()) };
    match writeln!(out, "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Prints one JSON document on one line.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(printable_json(&serde_json::to_string(value)?))
}

/// Prints one JSON document over several lines, for people and for files that people edit.
pub fn json_pretty(value: &impl Serialize) -> anyhow::Result<()> {
    line(printable_json(&serde_json::to_string_pretty(value)?))
}

/// Converts a record to JSON. Its `source_key` becomes text, or base64 in `source_key_base64` if
/// the bytes are not UTF-8.
pub fn record(record: &impl Serialize) -> Value {
    // A record is a struct, so all its keys are strings.
    let mut value = serde_json::to_value(record).unwrap_or_default();
    if let Some(fields) = value.as_object_mut()
        && let Some(key) = fields.remove("source_key")
    {
        let (name, key) = key_as_text(serde_json::from_value(key).unwrap_or_default());
        fields.insert(name.to_owned(), key);
    }
    value
}

fn key_as_text(bytes: Option<Vec<u8>>) -> (&'static str, Value) {
    match bytes.map(String::from_utf8) {
        None => ("source_key", Value::Null),
        Some(Ok(text)) => ("source_key", text.into()),
        Some(Err(bytes)) => ("source_key_base64", STANDARD.encode(bytes.as_bytes()).into()),
    }
}

/// Returns an empty table in the common style.
pub fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    table
}

#[cfg(test)]
mod tests {
    use unprompt_schemas::records::Prediction;

    use super::*;

    fn shown(key: Option<&[u8]>) -> Value {
        let source_key = key.map(<[u8]>::to_vec);
        record(&Prediction { source_key, ..crate::testing::prediction() })
    }

    #[test]
    fn a_key_is_shown_as_text_or_as_base64_if_it_is_not_utf8() {
        assert_eq!(shown(Some(b"camera 7"))["source_key"], "camera 7");
        assert_eq!(shown(None)["source_key"], Value::Null);
        let binary = shown(Some(&[0xff, 0x00]));
        assert_eq!(binary["source_key_base64"], "/wA=");
        assert!(binary.get("source_key").is_none());
    }
}
