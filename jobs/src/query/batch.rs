//! Batch searches: one request per line, one result per line, in the same order. An error concerns
//! only its line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::Serialize;
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;
use unprompt_index::{Hit, PromptIndex, SearchRequest, resolve_batch};

use super::requests::MAX_REQUEST_BYTES;
use super::{QueryEncoder, RequestDefaults};
use crate::{JobError, Progress};

/// The most lines answered at once.
const LINES: usize = 256;
/// The bytes of requests that end a chunk before it has [`LINES`] lines.
const BYTES: u64 = 64 << 20;

/// The result of a line: hits, or the error.
#[derive(Clone, Debug, Serialize)]
pub struct LineResult {
    /// The number of the line, from 1.
    pub line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hits: Option<Vec<Hit>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A batch in progress. It needs Tokio's multi-threaded runtime.
#[derive(Debug)]
pub struct BatchSearch {
    requests: RequestLines,
    defaults: RequestDefaults,
    encoder: QueryEncoder,
    progress: Progress,
    searches: u64,
    failed: u64,
}

impl BatchSearch {
    /// Opens a file of requests; `-` is standard input.
    ///
    /// # Errors
    /// [`JobError::Unreadable`].
    pub fn open(file: &Path, defaults: RequestDefaults, encoder: QueryEncoder) -> Result<Self, JobError> {
        let requests = RequestLines::open(file)
            .map_err(|reason| JobError::Unreadable { path: file.to_owned(), reason })?;
        let progress = Progress::new("searching (bytes of requests)", requests.size);
        Ok(Self { requests, defaults, encoder, progress, searches: 0, failed: 0 })
    }

    /// Returns the results of the next lines; None at the end.
    ///
    /// # Errors
    /// [`JobError::SearchesStopped`], [`JobError::Unreadable`], and errors that concern all
    /// searches, such as an unreachable index.
    pub async fn next(
        &mut self,
        index: &PromptIndex,
        stop: &CancellationToken,
    ) -> Result<Option<Vec<LineResult>>, JobError> {
        let chunk = block_in_place(|| self.requests.next_chunk(&self.defaults))?;
        if chunk.is_empty() {
            self.progress.finish();
            return Ok(None);
        }
        let answering = answer(index, &mut self.encoder, chunk);
        let Some(results) = stop.run_until_cancelled(answering).await.transpose()? else {
            return Err(JobError::SearchesStopped { searches: self.searches });
        };
        self.searches += results.len() as u64;
        self.failed += results.iter().filter(|result| result.error.is_some()).count() as u64;
        self.progress.set(self.requests.read);
        Ok(Some(results))
    }

    /// Ends the batch.
    ///
    /// # Errors
    /// [`JobError::SearchesFailed`] if a line could not be answered.
    pub fn finish(self) -> Result<(), JobError> {
        match self.failed {
            0 => Ok(()),
            failed => Err(JobError::SearchesFailed { failed, searches: self.searches }),
        }
    }
}

/// A line's number and its request.
type ParsedLine = (u64, Result<SearchRequest, JobError>);

async fn answer(
    index: &PromptIndex,
    encoder: &mut QueryEncoder,
    chunk: Vec<ParsedLine>,
) -> Result<Vec<LineResult>, JobError> {
    let mut results: Vec<LineResult> = Vec::with_capacity(chunk.len());
    // The valid requests, and the slots of their results.
    let (mut requests, mut slots) = (Vec::new(), Vec::new());
    for (line, request) in chunk {
        let error = request.map(|request| requests.push(request)).err().map(|error| error.to_string());
        if error.is_none() {
            slots.push(results.len());
        }
        results.push(LineResult { line, hits: None, error });
    }
    let (mut queries, mut asked) = (Vec::new(), Vec::new());
    let resolved = block_in_place(|| resolve_batch(&requests, encoder));
    for (slot, query) in slots.into_iter().zip(resolved) {
        match query {
            Ok(query) => {
                queries.push(query);
                asked.push(slot);
            }
            Err(error) => results[slot].error = Some(error.to_string()),
        }
    }
    encoder.check_against(&index.info().await?)?;
    for (slot, hits) in asked.into_iter().zip(index.search_each(&queries).await?) {
        match hits {
            Ok(hits) => results[slot].hits = Some(hits),
            Err(error) => results[slot].error = Some(error.to_string()),
        }
    }
    Ok(results)
}

/// The lines of a file or of standard input, except empty ones.
struct RequestLines {
    reader: Box<dyn BufRead + Send>,
    name: std::path::PathBuf,
    number: u64,
    read: u64,
    size: Option<u64>,
}

impl std::fmt::Debug for RequestLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestLines").field("name", &self.name).field("number", &self.number).finish()
    }
}

impl RequestLines {
    fn open(path: &Path) -> io::Result<Self> {
        let (reader, size): (Box<dyn BufRead + Send>, _) = if path == Path::new("-") {
            (Box::new(BufReader::new(io::stdin())), None)
        } else {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            (Box::new(BufReader::new(file)), Some(size))
        };
        Ok(Self { reader, name: path.to_owned(), number: 0, read: 0, size })
    }

    fn next_chunk(&mut self, defaults: &RequestDefaults) -> Result<Vec<ParsedLine>, JobError> {
        let (mut chunk, from) = (Vec::new(), self.read);
        while chunk.len() < LINES && self.read - from < BYTES {
            let line = self.next_line();
            let line = line.map_err(|reason| JobError::Unreadable { path: self.name.clone(), reason })?;
            let Some(line) = line else { break };
            match line.and_then(text_of) {
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => chunk.push((self.number, defaults.parse(&text))),
                Err(error) => chunk.push((self.number, Err(error))),
            }
        }
        Ok(chunk)
    }

    /// Returns the next line; none at the end. The inner error is a line that is too long, which is
    /// skipped to its end.
    fn next_line(&mut self) -> io::Result<Option<Result<Vec<u8>, JobError>>> {
        let mut line = Vec::new();
        let read = self.reader.by_ref().take(MAX_REQUEST_BYTES + 1).read_until(b'\n', &mut line)? as u64;
        if read == 0 {
            return Ok(None);
        }
        (self.number, self.read) = (self.number + 1, self.read + read);
        if read <= MAX_REQUEST_BYTES || line.ends_with(b"\n") {
            return Ok(Some(Ok(line)));
        }
        drop(line);
        self.read += self.reader.skip_until(b'\n')? as u64;
        let reason = format!("the line is longer than {MAX_REQUEST_BYTES} bytes");
        Ok(Some(Err(JobError::Request(reason))))
    }
}

fn text_of(line: Vec<u8>) -> Result<String, JobError> {
    String::from_utf8(line).map_err(|_| JobError::Request("the line is not UTF-8".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> RequestLines {
        let reader = Box::new(io::Cursor::new(bytes.to_vec()));
        RequestLines { reader, name: "requests.jsonl".into(), number: 0, read: 0, size: None }
    }

    #[test]
    fn every_line_keeps_its_number_and_invalid_lines_are_errors() {
        let defaults = RequestDefaults::default();
        let chunk = lines(b"{\"text\": \"a\"}\n\n\xff\n{\"tex\": 1}\n{\"vector\": [1]}")
            .next_chunk(&defaults)
            .unwrap();
        let found: Vec<_> = chunk.iter().map(|(line, request)| (*line, request.is_ok())).collect();
        assert_eq!(found, [(1, true), (3, false), (4, false), (5, true)]);
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_whole() {
        let mut bytes = vec![b' '; MAX_REQUEST_BYTES as usize + 10];
        bytes.extend(b"\n{\"text\": \"a\"}\n");
        let chunk = lines(&bytes).next_chunk(&RequestDefaults::default()).unwrap();
        assert!(chunk[0].1.as_ref().unwrap_err().to_string().contains("longer"));
        assert_eq!((chunk.len(), chunk[1].0, chunk[1].1.is_ok()), (2, 2, true));
    }

    #[test]
    fn chunks_are_bounded() {
        let text = "{\"text\": \"a\"}\n".repeat(600);
        let mut lines = lines(text.as_bytes());
        let mut next = || lines.next_chunk(&RequestDefaults::default()).unwrap().len();
        assert_eq!([next(), next(), next(), next()], [256, 256, 88, 0]);
    }
}
