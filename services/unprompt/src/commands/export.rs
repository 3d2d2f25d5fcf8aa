//! `unprompt index export`: writes the collection, or the prompts that pass a filter, as a table.

use anyhow::bail;
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use unprompt_corpus::CorpusError;
use unprompt_corpus::table::{Columns, ExportRow, TableWriter};
use unprompt_index::{Filter, Hit, IndexError, PromptIndex, PromptPoint, Space, Uuid};
use unprompt_jobs::Progress;

use crate::cli::Export;
use crate::context::Context;
use crate::index_access::IndexAccess;
use crate::output;

/// Number of prompts to read together.
const PAGE: u64 = 1_000;

pub async fn run(
    context: &Context,
    index: &IndexAccess,
    args: Export,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let columns = Columns { vectors: args.with_vectors, ..Columns::default() };
    let writer = TableWriter::create(&args.to, columns)?;
    let pages = Pages { index, filter: args.filter.filter(), with_vectors: args.with_vectors };
    let limit = args.limit.unwrap_or(u64::MAX);
    let progress =
        Progress::new("exporting prompts", Some(pages.index.count(&pages.filter).await?.min(limit)));
    let rows = tokio::select! {
        rows = export(&pages, writer, limit, &progress) => rows?,
        () = stop.cancelled() => bail!("stopped; {} is unchanged", args.to.display()),
    };
    progress.finish();
    if context.json {
        return output::json(&json!({"exported": rows, "file": args.to}));
    }
    output::line(format!("{rows} prompts in {}", args.to.display()))
}

/// The part of the index to export.
struct Pages<'a> {
    index: &'a PromptIndex,
    filter: Filter,
    with_vectors: bool,
}

/// A page, and the start of the next one, if there is one.
type Page = (Vec<PromptPoint>, Option<Uuid>);

impl Pages<'_> {
    async fn read(&self, from: Option<Uuid>, limit: u64) -> Result<Page, IndexError> {
        let spaces: &[Space] = if self.with_vectors { &[Space::MiniLm, Space::Clip] } else { &[] };
        let limit = u32::try_from(limit.min(PAGE)).unwrap_or(u32::MAX);
        self.index.page(&self.filter, from, limit, spaces).await
    }
}

/// Writes each page while the next one is read. Returns the number of rows.
async fn export(
    pages: &Pages<'_>,
    mut writer: TableWriter,
    limit: u64,
    progress: &Progress,
) -> anyhow::Result<u64> {
    let mut left = limit;
    let mut from = None;
    let mut rows: Vec<ExportRow> = Vec::new();
    let mut last = limit == 0;
    loop {
        let written = spawn_blocking(move || writer.write(&rows).map(|()| writer));
        let read = async { if last { Ok((Vec::new(), None)) } else { pages.read(from, left).await } };
        let (written, page) = tokio::join!(written, read);
        writer = written??;
        progress.set(writer.rows());
        if last {
            return spawn_blocking(move || writer.finish()).await?.map_err(CorpusError::into);
        }
        let (points, next) = page?;
        left -= points.len() as u64;
        rows = points.into_iter().map(row_of_point).collect();
        (from, last) = (next, next.is_none() || left == 0);
    }
}

/// Converts a hit of a search to a row.
pub fn row_of_hit(hit: Hit) -> ExportRow {
    let similarity = Some(hit.similarity);
    ExportRow { similarity, ..row_of_point(hit.into()) }
}

fn row_of_point(point: PromptPoint) -> ExportRow {
    let vector = |vector: Vec<f32>| (!vector.is_empty()).then_some(vector);
    ExportRow {
        prompt_id: point.prompt_id,
        text: point.text,
        sources: point.sources,
        created_at_ms: Some(point.created_at_ms),
        attributes: point.attributes,
        minilm: vector(point.minilm),
        clip: vector(point.clip),
        ..ExportRow::default()
    }
}
