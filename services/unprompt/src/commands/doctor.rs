//! `unprompt doctor`: checks what works on this machine, and says how to fix what does not.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use unprompt_image_encoder::EncoderFolder;
use unprompt_models::encoder::{TextTower, VisionTower};
use unprompt_models::minilm::MiniLm;
use unprompt_models::stable_diffusion::StableDiffusion;
use unprompt_schemas::records::CurrentSchema;
use unprompt_schemas::registry::subject;
use unprompt_stream::{StreamError, list_topics, offsets_retention, try_transactions};

use crate::context::Context;
use crate::output;
use crate::service_table::ALL;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// The result of one check.
#[derive(Clone, Debug, Serialize)]
struct Check {
    what: &'static str,
    ok: bool,
    /// The finding, or what to do.
    detail: String,
}

pub async fn run(context: &Context) -> anyhow::Result<()> {
    let mut checks = models(context);
    checks.push(data_dir(context.data_dir()));
    checks.push(kafka(context).await);
    checks.push(delivery(context).await);
    checks.push(offsets(context).await);
    checks.push(index(context).await);
    checks.push(schema_registry(context));
    let bad = checks.iter().filter(|check| !check.ok).count();
    print(context, &checks)?;
    anyhow::ensure!(bad == 0, "{bad} of {} checks failed", checks.len());
    Ok(())
}

fn check(what: &'static str, found: anyhow::Result<String>) -> Check {
    match found {
        Ok(detail) => Check { what, ok: true, detail },
        Err(error) => Check { what, ok: false, detail: format!("{error:#}") },
    }
}

fn models(context: &Context) -> Vec<Check> {
    let further = match context.encoders() {
        Ok(encoders) => {
            encoders[1..].iter().map(|further| check("further encoder", encoder(further))).collect()
        }
        Err(error) => vec![check("further encoders", Err(error))],
    };
    let own = vec![
        check("MiniLM", context.minilm().and_then(|folder| minilm(context, &folder))),
        check("image encoder", context.clip().and_then(|folder| clip(context, &folder))),
        check("Stable Diffusion 2", context.sd2().and_then(|folder| sd2(context, &folder))),
    ];
    [own, further].concat()
}

fn minilm(context: &Context, folder: &Path) -> anyhow::Result<String> {
    let mut minilm = MiniLm::load(folder, context.config.models.engine)?;
    let vector = minilm.embed(&["a test"])?;
    let (engine, reason) = (minilm.engine_name(), minilm.engine_reason());
    Ok(format!("{} on {engine}: {reason}; {} values", minilm.revision(), vector[0].len()))
}

fn clip(context: &Context, folder: &Path) -> anyhow::Result<String> {
    let (vision, text) = (context.clip_vision()?, TextTower::load(folder, context.config.models.engine)?);
    anyhow::ensure!(
        vision.dims() == text.dims(),
        "its towers have {} and {} values",
        vision.dims(),
        text.dims()
    );
    text.embed(&["a test"])?;
    Ok(format!("{}, texts on {} ({})", described(&vision), text.engine_name(), text.engine_reason()))
}

fn encoder(encoder: &EncoderFolder) -> anyhow::Result<String> {
    Ok(described(&VisionTower::load(&encoder.folder, &encoder.settings)?))
}

fn described(vision: &VisionTower) -> String {
    format!(
        "{}: {} values, pictures of {} pixels on {} ({})",
        vision.vector_name(),
        vision.dims(),
        vision.side(),
        vision.engine_name(),
        vision.engine_reason()
    )
}

fn sd2(context: &Context, folder: &Path) -> anyhow::Result<String> {
    let precision = context.config.generator.precision;
    let model = StableDiffusion::load_in(folder, precision)?;
    Ok(format!("{} in {precision}", model.revision()))
}

/// Checks that the folder is writable, and creates it if necessary.
fn data_dir(folder: &Path) -> Check {
    let tried = unprompt_stream::data_dir::create(folder).and_then(|()| {
        let probe = folder.join(".doctor");
        std::fs::write(&probe, b"")?;
        std::fs::remove_file(probe)
    });
    let found = tried.map(|()| format!("{} is writable", folder.display())).map_err(|error| {
        anyhow::anyhow!(
            "{}: {error}; free some space, make it writable or choose another --data-dir",
            folder.display()
        )
    });
    check("data directory", found)
}

async fn kafka(context: &Context) -> Check {
    let kafka = context.kafka();
    let found = async {
        let states = list_topics(&kafka).await?;
        let missing: Vec<_> = states
            .iter()
            .filter(|state| state.partitions.is_none())
            .map(|state| state.name.as_str())
            .collect();
        anyhow::ensure!(
            missing.is_empty(),
            "{} answers, but lacks {}; any service creates them at its start",
            kafka.brokers,
            missing.join(", ")
        );
        Ok(format!("{} answers, all {} topics exist", kafka.brokers, states.len()))
    };
    check("Kafka", found.await.map_err(start_it))
}

/// Tries transactions if any service delivers exactly once, by its own setting or by the profile.
async fn delivery(context: &Context) -> Check {
    let kafka = context.kafka();
    let section = &context.config.runner;
    let services = ALL.map(|service| service.describe().name);
    let exactly_once: Vec<&str> = services
        .into_iter()
        .filter(|name| section.for_service(name).delivery.is_exactly_once(kafka.profile))
        .collect();
    let found = async {
        if exactly_once.is_empty() {
            return Ok("at least once; repetition is harmless by the records' ids".to_owned());
        }
        try_transactions(&kafka).await?;
        Ok(format!("exactly once for {}; {} takes transactions", exactly_once.join(", "), kafka.brokers))
    };
    check("delivery", found.await)
}

/// Warns of a broker that forgets the offsets of idle groups sooner than after a week, Kafka's
/// default.
async fn offsets(context: &Context) -> Check {
    let found = async {
        let Some(kept) = offsets_retention(&context.kafka()).await? else {
            return Ok("kept for as long as the broker keeps its data".to_owned());
        };
        let hours = kept.as_secs_f64() / 3600.0;
        anyhow::ensure!(
            kept >= WEEK,
            "the broker forgets them once a service has been away for {hours:.1} hours, and the service then stops until it is told where to \
             start (--from); raise offsets.retention.minutes of the broker to a week (10080) or more"
        );
        Ok(format!("kept for {:.0} days after a service has gone", hours / 24.0))
    };
    check("offsets of groups", found.await)
}

async fn index(context: &Context) -> Check {
    let found = async {
        let index = context.index().await?;
        let count = index.count(&Default::default()).await?;
        Ok(format!("{} answers, {count} prompts", context.qdrant_url()))
    };
    check("Qdrant", found.await.map_err(start_it))
}

/// Reports missing schemas. They are an error only if the services may not register them.
fn schema_registry(context: &Context) -> Check {
    let (section, prefix) = (&context.config.registry, &context.config.kafka.prefix);
    let found = || {
        let Some(registry) = context.registry()? else {
            return Ok("none configured; records carry their schema's fingerprint".to_owned());
        };
        registry.check()?;
        let mut missing = Vec::new();
        for schema in CurrentSchema::all() {
            let subject = subject(&prefix.name(schema.topic));
            if registry.lookup(&subject, schema.json)?.is_none() {
                missing.push(subject);
            }
        }
        let url = section.url.as_deref().unwrap_or_default();
        match (missing.is_empty(), section.register) {
            (true, _) => Ok(format!("{url} answers and has our schemas")),
            (false, true) => {
                Ok(format!("{url} answers; services will register {} at their start", missing.join(", ")))
            }
            (false, false) => Err(anyhow::anyhow!(
                "{url} lacks this release's schemas of {}, and [registry] register is false; `unprompt schemas register` \
                 registers them",
                missing.join(", ")
            )),
        }
    };
    check("schema registry", found())
}

/// Suggests an embedded server, except for a Kafka that refuses our credentials or TLS.
fn start_it(error: anyhow::Error) -> anyhow::Error {
    if let Some(StreamError::Credentials { .. } | StreamError::Tls { .. }) = error.downcast_ref() {
        return error;
    }
    anyhow::anyhow!("{error:#}; `unprompt up` starts an embedded one")
}

fn print(context: &Context, checks: &[Check]) -> anyhow::Result<()> {
    if context.json {
        return output::json(&checks);
    }
    for Check { what, ok, detail } in checks {
        output::line(format!("{} {what}: {detail}", if *ok { '✔' } else { '✖' }))?;
    }
    Ok(())
}
