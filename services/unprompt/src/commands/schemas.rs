//! `unprompt schemas`: prints the schemas of our records, and compares them with the schema
//! registry.

use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use unprompt_schemas::records::CurrentSchema;
use unprompt_schemas::registry::subject;
use unprompt_schemas::topics::Prefix;
use unprompt_stream::{Compatibility, SchemaRegistry};

use crate::cli::{CompatibilityLevel, Schemas};
use crate::context::Context;
use crate::output;

pub fn run(context: &Context, command: Schemas) -> anyhow::Result<()> {
    match command {
        Schemas::List => list(context),
        Schemas::Show { name } => show(context, &name),
        Schemas::Register { compatibility } => register(context, compatibility),
        Schemas::Check => check(context),
    }
}

fn subject_of(prefix: &Prefix, schema: &CurrentSchema) -> String {
    subject(&prefix.name(schema.topic))
}

fn registry(context: &Context) -> anyhow::Result<Arc<SchemaRegistry>> {
    context.registry()?.context(
        "no schema registry is configured; give its address as url in [registry], or in UNPROMPT__REGISTRY__URL",
    )
}

fn list(context: &Context) -> anyhow::Result<()> {
    let prefix = &context.config.kafka.prefix;
    let schemas = CurrentSchema::all();
    if context.json {
        let as_json = |schema: &CurrentSchema| {
            json!({
                "record": schema.record, "topic": prefix.name(schema.topic), "subject": subject_of(prefix, schema),
                "fingerprint": schema.fingerprint.to_string(),
            })
        };
        return output::json(&schemas.iter().map(as_json).collect::<Vec<_>>());
    }
    let mut table = output::table(["record", "fingerprint", "subject"]);
    for schema in &schemas {
        let fingerprint = schema.fingerprint.to_string();
        table.add_row([schema.record.to_owned(), fingerprint, subject_of(prefix, schema)]);
    }
    output::line(table)
}

fn show(context: &Context, name: &str) -> anyhow::Result<()> {
    let prefix = &context.config.kafka.prefix;
    let is_meant = |schema: &CurrentSchema| {
        let topic = prefix.name(schema.topic);
        schema.record.eq_ignore_ascii_case(name)
            || [schema.topic.base_name(), &topic, &subject(&topic)].contains(&name)
    };
    match CurrentSchema::all().into_iter().find(is_meant) {
        Some(schema) => output::line(schema.json.trim_end()),
        None => {
            let records = CurrentSchema::all().map(|schema| schema.record).join(", ");
            bail!("there is no schema {name:?}; give a record ({records}), its topic or its subject")
        }
    }
}

fn register(context: &Context, compatibility: Option<CompatibilityLevel>) -> anyhow::Result<()> {
    let (registry, prefix) = (registry(context)?, &context.config.kafka.prefix);
    let mut rows = Vec::new();
    for schema in CurrentSchema::all() {
        let subject = subject_of(prefix, &schema);
        let id = registry.register(&subject, schema.json)?;
        if let Some(level) = compatibility {
            registry.set_compatibility(&subject, level.name())?;
        }
        rows.push(json!({"record": schema.record, "subject": subject, "id": id}));
    }
    print(context, ["record", "subject", "id"], &rows)
}

/// Fails if a schema is incompatible with the registered ones, so that a pipeline stops before the
/// services do.
fn check(context: &Context) -> anyhow::Result<()> {
    let (registry, prefix) = (registry(context)?, &context.config.kafka.prefix);
    let (mut rows, mut refused) = (Vec::new(), 0);
    for schema in CurrentSchema::all() {
        let subject = subject_of(prefix, &schema);
        let state = match registry.lookup(&subject, schema.json)? {
            Some(known) => format!("registered: version {}, id {}", known.version, known.id),
            None => {
                let compatibility = registry.compatibility(&subject, schema.json)?;
                refused += usize::from(compatibility != Compatibility::Compatible);
                format!("not registered, {compatibility}")
            }
        };
        rows.push(json!({"record": schema.record, "subject": subject, "state": state}));
    }
    print(context, ["record", "subject", "state"], &rows)?;
    ensure!(
        refused == 0,
        "{refused} of {} schemas are incompatible with the newest of their subjects; another release has registered it: use that \
         one, or change the schemas compatibly (schemas/README.md)",
        rows.len()
    );
    Ok(())
}

fn print<const N: usize>(context: &Context, columns: [&str; N], rows: &[Value]) -> anyhow::Result<()> {
    if context.json {
        return output::json(&rows);
    }
    let mut table = output::table(columns);
    for row in rows {
        table.add_row(columns.map(|column| match &row[column] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }));
    }
    output::line(table)
}
