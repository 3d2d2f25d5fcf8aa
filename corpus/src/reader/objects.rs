//! JSON objects as rows: keys are columns. It knows nothing of where they stand.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::columns::{Chosen, Columns};
use crate::row::{BadRow, Row};

/// Turns objects into rows. Objects with the same keys in a row are looked at once.
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
        // Whether it is UTF-8 decides which reason is given.
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

/// A value as its text: strings as they are, all else as JSON.
fn text_of(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(Cow::Borrowed(text)),
        other => Some(Cow::Owned(other.to_string())),
    }
}
