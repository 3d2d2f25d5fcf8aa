//! Many searches: a request a line in, an answer a line out, in the same order. A bad line is alone with its error.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;
use unprompt_index::{Hit, PromptIndex, SearchRequest, resolve_batch};
use unprompt_jobs::Progress;

use super::models::Models;
use super::requests::{self, MAX_REQUEST_BYTES};
use crate::cli::Query;
use crate::output;

/// Lines answered at once, and the bytes after which it is as many.
const LINES: usize = 256;
const BYTES: usize = 64 << 20;

/// What is printed for a line.
#[derive(Debug, Serialize)]
struct Answer {
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    hits: Option<Vec<Hit>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub async fn run(
    index: &PromptIndex,
    mut models: Models<'_>,
    file: &Path,
    args: &Query,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let defaults = requests::defaults(args)?;
    let mut lines = Lines::open(file)?;
    let progress = Progress::new("searching (bytes of requests)", lines.size);
    let (mut answered, mut failed) = (0_u64, 0_u64);
    loop {
        let chunk = block_in_place(|| lines.next_chunk(&defaults))?;
        if chunk.is_empty() {
            break;
        }
        let answers = stop.run_until_cancelled(answer(index, &mut models, chunk)).await;
        for answer in answers.transpose()?.unwrap_or_default() {
            *(if answer.error.is_some() { &mut failed } else { &mut answered }) += 1;
            output::json(&answer)?;
        }
        progress.set(lines.read);
        if stop.is_cancelled() {
            bail!("stopped after {} searches", answered + failed);
        }
    }
    progress.finish();
    if failed > 0 {
        bail!("{failed} of {} searches failed; their lines say why", answered + failed);
    }
    Ok(())
}

type Parsed = (u64, anyhow::Result<SearchRequest>);

async fn answer(
    index: &PromptIndex,
    models: &mut Models<'_>,
    chunk: Vec<Parsed>,
) -> anyhow::Result<Vec<Answer>> {
    let mut answers: Vec<Answer> = Vec::with_capacity(chunk.len());
    let (mut requests, mut places) = (Vec::new(), Vec::new());
    for (line, request) in chunk {
        let error = request.map(|request| requests.push(request)).err().map(|error| format!("{error:#}"));
        if error.is_none() {
            places.push(answers.len());
        }
        answers.push(Answer { line, hits: None, error });
    }
    let (mut queries, mut asked) = (Vec::new(), Vec::new());
    let resolved = block_in_place(|| resolve_batch(&requests, models));
    for (place, query) in places.into_iter().zip(resolved) {
        match query {
            Ok(query) => {
                queries.push(query);
                asked.push(place);
            }
            Err(error) => answers[place].error = Some(error.to_string()),
        }
    }
    models.check_against(&index.info().await?)?;
    for (place, found) in asked.into_iter().zip(index.search_each(&queries).await?) {
        match found {
            Ok(hits) => answers[place].hits = Some(hits),
            Err(error) => answers[place].error = Some(error.to_string()),
        }
    }
    Ok(answers)
}

/// The lines of a file or of standard input; empty ones are passed over.
struct Lines {
    reader: Box<dyn BufRead + Send>,
    number: u64,
    read: u64,
    size: Option<u64>,
}

impl Lines {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let (reader, size): (Box<dyn BufRead + Send>, _) = if path == Path::new("-") {
            (Box::new(BufReader::new(io::stdin())), None)
        } else {
            let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
            let size = file.metadata()?.len();
            (Box::new(BufReader::new(file)), Some(size))
        };
        Ok(Self { reader, number: 0, read: 0, size })
    }

    fn next_chunk(&mut self, defaults: &Map<String, Value>) -> anyhow::Result<Vec<Parsed>> {
        let (mut chunk, from) = (Vec::new(), self.read);
        while chunk.len() < LINES && self.read - from < BYTES as u64 {
            let Some(line) = self.next_line().context("the requests cannot be read further")? else { break };
            let parsed = line.and_then(|line| {
                let text = String::from_utf8(line).map_err(|_| anyhow!("the line is not UTF-8"))?;
                Ok((!text.trim().is_empty()).then_some(text))
            });
            match parsed {
                Ok(None) => {}
                Ok(Some(text)) => chunk.push((self.number, requests::of_json(defaults, &text))),
                Err(error) => chunk.push((self.number, Err(error))),
            }
        }
        Ok(chunk)
    }

    /// The next line; inside, an error where it is too long. Its rest is passed over.
    fn next_line(&mut self) -> io::Result<Option<anyhow::Result<Vec<u8>>>> {
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
        Ok(Some(Err(anyhow!("the line is longer than {MAX_REQUEST_BYTES} bytes"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Lines {
        Lines { reader: Box::new(io::Cursor::new(bytes.to_vec())), number: 0, read: 0, size: None }
    }

    #[test]
    fn every_line_keeps_its_number_and_a_bad_one_its_error() {
        let defaults = Map::new();
        let chunk = lines(b"{\"text\": \"a\"}\n\n\xff\n{\"tex\": 1}\n{\"vector\": [1]}")
            .next_chunk(&defaults)
            .unwrap();
        let found: Vec<_> = chunk.iter().map(|(line, request)| (*line, request.is_ok())).collect();
        assert_eq!(found, [(1, true), (3, false), (4, false), (5, true)]);
    }

    #[test]
    fn a_line_too_long_is_passed_over_whole() {
        let mut bytes = vec![b' '; MAX_REQUEST_BYTES as usize + 10];
        bytes.extend(b"\n{\"text\": \"a\"}\n");
        let chunk = lines(&bytes).next_chunk(&Map::new()).unwrap();
        assert!(chunk[0].1.as_ref().unwrap_err().to_string().contains("longer"));
        assert_eq!((chunk.len(), chunk[1].0, chunk[1].1.is_ok()), (2, 2, true));
    }

    #[test]
    fn chunks_are_bounded() {
        let text = "{\"text\": \"a\"}\n".repeat(600);
        let mut lines = lines(text.as_bytes());
        let mut next = || lines.next_chunk(&Map::new()).unwrap().len();
        assert_eq!([next(), next(), next(), next()], [256, 256, 88, 0]);
    }
}
