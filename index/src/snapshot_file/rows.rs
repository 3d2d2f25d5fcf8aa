//! The rows of a snapshot as arrow's columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::builder::{FixedSizeListBuilder, Float32Builder, Int64Builder, ListBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use parquet::errors::ParquetError;
use uuid::Uuid;

use crate::{MINILM_DIM, PromptPoint};

/// The columns of a snapshot whose CLIP vectors have `clip_dim` values.
pub(super) fn schema(clip_dim: usize) -> Arc<Schema> {
    let vector = |name: &str, dim: usize| {
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        Field::new(name, DataType::FixedSizeList(item, i32::try_from(dim).unwrap_or(i32::MAX)), false)
    };
    let sources = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    Arc::new(Schema::new(vec![
        Field::new("prompt_id", DataType::Utf8, false),
        Field::new("text", DataType::Utf8, false),
        Field::new("sources", sources, false),
        Field::new("created_at_ms", DataType::Int64, false),
        Field::new("attributes", DataType::Utf8, false),
        vector("minilm", MINILM_DIM),
        vector("clip", clip_dim),
    ]))
}

pub(super) fn to_batch(points: &[&PromptPoint], clip_dim: usize) -> Result<RecordBatch, ParquetError> {
    let (mut ids, mut texts, mut attributes) =
        (StringBuilder::new(), StringBuilder::new(), StringBuilder::new());
    let (mut sources, mut created) = (ListBuilder::new(StringBuilder::new()), Int64Builder::new());
    let (mut minilm, mut clip) = (vectors(MINILM_DIM), vectors(clip_dim));
    for point in points {
        ids.append_value(point.prompt_id.to_string());
        texts.append_value(&point.text);
        sources.append_value(point.sources.iter().map(Some));
        created.append_value(point.created_at_ms);
        attributes.append_value(serde_json::to_string(&point.attributes).map_err(|error| external(&error))?);
        append(&mut minilm, &point.minilm)?;
        append(&mut clip, &point.clip)?;
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ids.finish()),
        Arc::new(texts.finish()),
        Arc::new(sources.finish()),
        Arc::new(created.finish()),
        Arc::new(attributes.finish()),
        Arc::new(minilm.finish()),
        Arc::new(clip.finish()),
    ];
    RecordBatch::try_new(schema(clip_dim), columns).map_err(|error| external(&error))
}

fn vectors(dim: usize) -> FixedSizeListBuilder<Float32Builder> {
    FixedSizeListBuilder::new(Float32Builder::new(), i32::try_from(dim).unwrap_or(i32::MAX))
}

fn append(to: &mut FixedSizeListBuilder<Float32Builder>, vector: &[f32]) -> Result<(), ParquetError> {
    if i32::try_from(vector.len()) != Ok(to.value_length()) {
        let text = format!("a vector has {} values, not {}", vector.len(), to.value_length());
        return Err(ParquetError::General(text));
    }
    to.values().append_slice(vector);
    to.append(true);
    Ok(())
}

fn external(error: &dyn std::fmt::Display) -> ParquetError {
    ParquetError::General(error.to_string())
}

/// The bytes of texts and attributes that are converted together.
const TEXT_BYTES: usize = 4 << 20;
/// The longest attributes, in JSON. Parsed, they take several times as much.
const ATTRIBUTES_MAX_BYTES: usize = 8 << 20;

/// Returns the number of first rows to convert together: one at least; `None` if a column does not
/// have its type, or attributes are too long.
pub(super) fn first_rows(batch: &RecordBatch) -> Option<usize> {
    let column = |name: &str| batch.column_by_name(name)?.as_string_opt::<i32>();
    let (texts, attributes) = (column("text")?, column("attributes")?);
    let (mut rows, mut bytes) = (0, 0);
    while rows < batch.num_rows() {
        let length = attributes.value_length(rows) as usize;
        bytes += length + texts.value_length(rows) as usize;
        if length > ATTRIBUTES_MAX_BYTES {
            return None;
        }
        if rows > 0 && bytes > TEXT_BYTES {
            break;
        }
        rows += 1;
    }
    Some(rows)
}

/// Converts a batch to prompts; `None` if a column does not have the type in the schema.
pub(super) fn from_batch(batch: &RecordBatch) -> Option<Vec<PromptPoint>> {
    let column = |name: &str| batch.column_by_name(name);
    let ids = column("prompt_id")?.as_string_opt::<i32>()?;
    let texts = column("text")?.as_string_opt::<i32>()?;
    let sources = column("sources")?.as_list_opt::<i32>()?;
    let created = column("created_at_ms")?.as_primitive_opt::<Int64Type>()?;
    let attributes = column("attributes")?.as_string_opt::<i32>()?;
    let (minilm, clip) =
        (column("minilm")?.as_fixed_size_list_opt()?, column("clip")?.as_fixed_size_list_opt()?);
    let point = |row: usize| {
        let of_row = sources.value(row);
        let attributes: BTreeMap<String, String> = serde_json::from_str(attributes.value(row)).ok()?;
        Some(PromptPoint {
            prompt_id: Uuid::parse_str(ids.value(row)).ok()?,
            text: texts.value(row).to_owned(),
            sources: of_row.as_string_opt::<i32>()?.iter().flatten().map(str::to_owned).collect(),
            created_at_ms: created.value(row),
            version: None,
            attributes,
            minilm: minilm.value(row).as_primitive_opt::<Float32Type>()?.values().to_vec(),
            clip: clip.value(row).as_primitive_opt::<Float32Type>()?.values().to_vec(),
        })
    };
    (0..batch.num_rows()).map(point).collect()
}
