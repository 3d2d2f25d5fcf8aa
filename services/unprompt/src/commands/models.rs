//! `unprompt models`: lists, fetches, verifies and pins models.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use unprompt_jobs::{Progress, model_store};
use unprompt_model_store::{Manifest, Model, ModelState, Pull, Pulled, Source, Sources};

use crate::cli::{Models, Pin, PullModels};
use crate::context::Context;
use crate::output;

pub async fn run(context: &Context, command: Models, stop: CancellationToken) -> anyhow::Result<()> {
    match command {
        Models::List => list(context),
        Models::Pull(args) => pull(context, args, stop).await,
        Models::Verify { names } => verify(context, &names),
        Models::Path { name } => {
            output::line(model_store().path(context.manifest()?.model(&name)?)?.display())
        }
        Models::Pin(args) => pin(args),
    }
}

fn list(context: &Context) -> anyhow::Result<()> {
    let (manifest, store) = (context.manifest()?, model_store());
    if context.json {
        let told = |model: &Model| {
            let mut told = serde_json::to_value(model)?;
            told["state"] = json!(store.state(model));
            told["folder"] = json!(store.folder(model));
            anyhow::Ok(told)
        };
        return output::json(&manifest.models.iter().map(told).collect::<anyhow::Result<Vec<_>>>()?);
    }
    let mut table = output::table(["model", "[models]", "state", "size", "licence", "published as"]);
    for model in &manifest.models {
        let sources: Vec<String> = model.sources.iter().map(Source::to_string).collect();
        let row =
            [model.part.key().to_owned(), store.state(model).to_string(), size(model), model.licence.clone()];
        let [key, state, size, licence] = row;
        table.add_row([model.name.clone(), key, state, size, licence, sources.join("\n")]);
    }
    output::line(table)?;
    eprintln!(
        "in {}; `unprompt models pull MODEL` fetches one, and [models] takes its name",
        store.root().display()
    );
    Ok(())
}

fn size(model: &Model) -> String {
    let more = if model.files.iter().all(|file| file.bytes.is_some()) { "" } else { " and more" };
    format!("{:.1} MB{more}", model.bytes() as f64 / 1e6)
}

async fn pull(context: &Context, args: PullModels, stop: CancellationToken) -> anyhow::Result<()> {
    let manifest = context.manifest()?;
    let models =
        args.names.iter().map(|name| manifest.model(name).cloned()).collect::<Result<Vec<_>, _>>()?;
    for model in models {
        let name = model.name.clone();
        let from = args
            .from
            .as_ref()
            .map(|from| Some(from.join(&name)).filter(|own| own.is_dir()).unwrap_or(from.clone()));
        let stopping = stop.clone();
        let pulling = tokio::task::spawn_blocking(move || pull_one(&model, from, &stopping));
        // A silent server does not delay Ctrl-C, because the received bytes are already on disk.
        let pulled = tokio::select! {
            pulled = pulling => pulled??,
            () = stopped_for_long(&stop) => bail!("stopped; downloaded bytes are kept, and the same command resumes where it stopped"),
        };
        tell(context, &name, &pulled)?;
    }
    Ok(())
}

async fn stopped_for_long(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
}

/// Fetches one model with a progress bar.
fn pull_one(model: &Model, from: Option<PathBuf>, stop: &CancellationToken) -> anyhow::Result<Pulled> {
    let store = model_store();
    let progress = Progress::new(format!("pulling {} (bytes)", model.name), store.bytes_to_pull(model));
    let pull = Pull {
        sources: Sources::from_environment(),
        from,
        is_stopped: &|| stop.is_cancelled(),
        progress: &|come| progress.set(come),
        say: &|line| tracing::info!(target: unprompt_jobs::PROGRESS_TARGET, "{line}"),
    };
    Ok(store.pull(model, &pull)?)
}

fn tell(context: &Context, name: &str, pulled: &Pulled) -> anyhow::Result<()> {
    if context.json {
        let Pulled { folder, files, bytes } = pulled;
        return output::json(&json!({ "model": name, "folder": folder, "files": files, "bytes": bytes }));
    }
    let folder = pulled.folder.display();
    match pulled.files {
        0 => output::line(format!("{name} is already in {folder}")),
        files => output::line(format!("{name}: {files} files fetched to {folder}, {} bytes", pulled.bytes)),
    }
}

fn verify(context: &Context, names: &[String]) -> anyhow::Result<()> {
    let (manifest, store) = (context.manifest()?, model_store());
    let models: Vec<&Model> = match names {
        [] => manifest.models.iter().filter(|model| store.state(model) != ModelState::Absent).collect(),
        names => names.iter().map(|name| manifest.model(name)).collect::<Result<_, _>>()?,
    };
    ensure!(
        !models.is_empty(),
        "no model is in {}; `unprompt models pull MODEL` fetches one",
        store.root().display()
    );
    let mut wrong = 0;
    for model in models {
        eprintln!("reading {}, {}", model.name, size(model));
        let seen = store.verify(model);
        wrong += usize::from(seen.is_err());
        match (context.json, seen) {
            (true, seen) => output::json(&json!({
                "model": model.name, "ok": seen.is_ok(), "error": seen.err().map(|error| error.to_string()),
            }))?,
            (false, Ok(folder)) => {
                output::line(format!(
                    "{}: {} files are as published, in {}",
                    model.name,
                    model.files.len(),
                    folder.display()
                ))?;
            }
            (false, Err(error)) => output::line(error)?,
        }
    }
    ensure!(wrong == 0, "{wrong} of the models are not as published");
    Ok(())
}

fn pin(args: Pin) -> anyhow::Result<()> {
    let name =
        args.name.or_else(|| named(&args.folder)).context("the folder has no name; give one by --name")?;
    let sources =
        args.hub.map(|(repository, revision)| Source::Hub { repository, revision }).into_iter().collect();
    let model = Model::of_folder(&args.folder, name, args.part, args.licence, sources)?;
    output::json_pretty(&Manifest { models: vec![model] })
}

fn named(folder: &Path) -> Option<String> {
    Some(folder.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned())
}
