//! JSON objects as rows, with keys as columns. It knows nothing of where the objects come from.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::columns::{Chosen, Columns};
use crate::row::{BadRow, Row};

/// Converts objects to rows. Reuses the chosen columns while consecutive objects have the same
/// keys.
pub(super) struct Objects {
    columns: Columns,
    keys: Vec<String>,
    chosen: Option<Chosen>,
}

impl Objects {
    pub fn new(columns: Columns) -> Self {
        Self { columns, keys: Vec::new(), chosen: None }
    }

    pub fn row(&mut self, json: &[u8]) -> Result<Row, BadRow> {
        // Checked apart from the JSON, so that the reason is the right one.
        let text = str::from_utf8(json).map_err(|_| BadRow::NotUtf8)?;
        let object: Map<String, Value> = serde_json::from_str(text).map_err(|_| BadRow::NotJson)?;
        if ["is_rejected", "is_precanned"].iter().any(|flag| object.get(*flag) == Some(&Value::Bool(true))) {
            return Err(BadRow::Rejected);
        }
        if !self.keys.iter().eq(object.keys()) {
            self.keys = object.keys().cloned().collect();
            self.chosen = self.columns.choose_any(&self.keys);
        }
        let chosen = self.chosen.as_ref().ok_or(BadRow::NoText)?;
        let values: Vec<&Value> = object.values().collect();
        if !values[chosen.text()].is_string() {
            return Err(BadRow::NoText);
        }
        chosen.row(&|column| text_of(values[column]))
    }
}

/// Returns a value as text: strings unchanged, anything else as JSON.
fn text_of(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(Cow::Borrowed(text)),
        other => Some(Cow::Owned(other.to_string())),
    }
}
