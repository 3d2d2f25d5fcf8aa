//! `unprompt publish`: publishes pictures from files and folders, or their URIs, to images.v1.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use unprompt_image_encoder::claim_check::Location;
use unprompt_schemas::Uuid;
use unprompt_schemas::cloudevents::{ImageEvent, names};
use unprompt_schemas::topics::Topic;
use unprompt_stream::{OutputRecord, Publisher, Start, Tail, Traces, ensure_topics};

use crate::cli::Publish;
use crate::context::Context;
use crate::image_result::{ImageResult, image_result_of};
use crate::output;
use unprompt_jobs::Progress;

/// Number of pictures to read and publish together.
const CHUNK: usize = 64;

/// Extensions of the files that a folder is searched for.
const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// A picture to publish: a file or a URI.
#[derive(Clone, Debug)]
enum Item {
    File(PathBuf),
    Uri(String, Location),
}

impl Item {
    fn record(&self, id: Uuid) -> anyhow::Result<OutputRecord> {
        match self {
            Self::File(file) => picture_record(file, id),
            Self::Uri(uri, _) => Ok(reference(uri, id)),
        }
    }

    /// Returns the printed line. A URI is printed without its query, which holds the signature of
    /// presigned URIs.
    fn line(&self, id: Uuid) -> Value {
        match self {
            Self::File(file) => json!({"image_id": id, "file": file}),
            Self::Uri(_, location) => json!({"image_id": id, "uri": location.to_string()}),
        }
    }
}

pub async fn run(context: &Context, args: Publish, stop: CancellationToken) -> anyhow::Result<()> {
    let traces = context.traces("publish")?;
    let done = publish(context, args, &traces, stop).await;
    traces.finish().await;
    done
}

async fn publish(
    context: &Context,
    args: Publish,
    traces: &Traces,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let items = collect(&args)?;
    let kafka = context.kafka();
    ensure_topics(&kafka).await?;
    let mut tail = match args.wait {
        true => Some(Tail::new(&kafka, &[Topic::Predictions, Topic::DeadLetters], Start::End).await?),
        false => None,
    };
    let publisher = Publisher::new(&kafka)?.traced(traces.clone());
    let progress = Progress::new("publishing", Some(items.len() as u64));
    let mut waiting = HashSet::new();
    for chunk in items.chunks(CHUNK) {
        let published = publish_chunk(&publisher, chunk).await?;
        waiting.extend(published);
        progress.set(waiting.len() as u64);
        if stop.is_cancelled() {
            bail!("stopped after {} of {} pictures; those printed are published", waiting.len(), items.len());
        }
    }
    progress.finish();
    match &mut tail {
        Some(tail) => wait(context, tail, waiting, stop).await,
        None => Ok(()),
    }
}

/// Publishes the pictures and, once all are acknowledged, prints the id of each.
async fn publish_chunk(publisher: &Publisher, items: &[Item]) -> anyhow::Result<Vec<Uuid>> {
    let ids: Vec<Uuid> = items.iter().map(|_| Uuid::new_v4()).collect();
    let records: Vec<_> =
        items.iter().zip(&ids).map(|(item, id)| item.record(*id)).collect::<Result<_, _>>()?;
    publisher.publish_many(records).await?;
    for (item, id) in items.iter().zip(&ids) {
        output::json(&item.line(*id))?;
    }
    Ok(ids)
}

/// Returns the record that publishes the picture in `file` under `id`.
pub fn picture_record(file: &Path, id: Uuid) -> anyhow::Result<OutputRecord> {
    let bytes = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    Ok(picture(bytes, id))
}

/// Returns the record that publishes an encoded picture under `id`.
pub fn picture(bytes: Vec<u8>, id: Uuid) -> OutputRecord {
    record(bytes, published(id))
}

/// Returns the record that publishes the URI of a picture under `id`.
fn reference(uri: &str, id: Uuid) -> OutputRecord {
    let event = ImageEvent { content_type: Some(names::URI_LIST.into()), ..published(id) };
    record(format!("{uri}\r\n").into_bytes(), event)
}

fn published(id: Uuid) -> ImageEvent {
    ImageEvent {
        id: Some(id.to_string()),
        source: Some("unprompt/publish".into()),
        event_type: Some(names::TYPE_IMAGE_PUBLISHED.into()),
        ..ImageEvent::default()
    }
}

fn record(value: Vec<u8>, event: ImageEvent) -> OutputRecord {
    OutputRecord { topic: Topic::Images, key: None, value: Some(value), headers: event.to_headers() }
}

async fn wait(
    context: &Context,
    tail: &mut Tail,
    mut waiting: HashSet<Uuid>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let codec = context.codec()?;
    let total = waiting.len();
    let progress = Progress::new("answered", Some(total as u64));
    let mut dead = 0;
    while !waiting.is_empty() {
        let record = tokio::select! {
            record = tail.next() => record?,
            () = stop.cancelled() => bail!("stopped while {} of {total} pictures were not answered yet", waiting.len()),
        };
        match image_result_of(&codec, &record)? {
            Some(ImageResult::Prediction(prediction)) => {
                waiting.remove(&prediction.image_id);
            }
            Some(ImageResult::DeadLetter { image_id, reason }) if waiting.remove(&image_id) => {
                dead += 1;
                eprintln!("{image_id}: {reason}");
            }
            _ => {}
        }
        progress.set((total - waiting.len()) as u64);
    }
    progress.finish();
    eprintln!("{} predicted, {dead} in the dead letters", total - dead);
    Ok(())
}

/// Collects files and folders, then URIs. Refuses a URI that the image-encoder would reject as
/// malformed.
fn collect(args: &Publish) -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    if !args.paths.is_empty() {
        items.extend(collect_files(&args.paths)?.into_iter().map(Item::File));
    }
    for (at, uri) in args.uri.iter().enumerate() {
        let location = Location::parse(uri)
            .map_err(|error| anyhow!("the URI number {} cannot be used: {error}", at + 1))?;
        items.push(Item::Uri(uri.clone(), location));
    }
    Ok(items)
}

/// Returns the given files, and the pictures of folders in the order of their names.
fn collect_files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() { collect_folder(path, &mut files)? } else { files.push(path.clone()) }
    }
    if files.is_empty() {
        bail!("no picture found; name files, or folders with {} files", EXTENSIONS.join(", "));
    }
    Ok(files)
}

fn collect_folder(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        if path.is_dir() {
            collect_folder(&path, files)?;
        } else if extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str())) {
            files.push(path);
        }
    }
    Ok(())
}
