//! A run over the rows of a corpus that can be stopped and resumed.
//!
//! A thread reads chunks ahead, the job processes and acknowledges them, and a checkpoint stores
//! the progress. It must not know what the job does with the rows.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use unprompt_corpus::checkpoint::{Checkpoint, Fingerprint};
use unprompt_corpus::report::CorpusReport;
use unprompt_corpus::{Clean, Corpus, CorpusError};

use crate::{JobError, Progress};

/// The chunks read ahead of the one in process.
const AHEAD: usize = 4;
/// The least time between two writes of the checkpoint.
const SAVE_EVERY: Duration = Duration::from_secs(1);

const RESUME: &str = "repeat the command to resume";
const BEGIN_AGAIN: &str = "nothing was saved: repeating the command starts over";
const PIPE: &str = "a pipe cannot be resumed: send all of it again";

/// The constants of a kind of job.
#[derive(Clone, Copy, Debug)]
pub struct RunSettings {
    /// The label of the progress, such as `importing (bytes)`.
    pub label: &'static str,
    /// The unit of the job's output, such as `prompts`.
    pub unit: &'static str,
    /// The rows of a chunk. Chunks end at multiples of it, whichever run reads them.
    pub chunk: usize,
    /// The folder of the checkpoints within the data directory.
    pub folder: &'static str,
}

/// The folder of the checkpoints, and whether to discard an earlier one.
#[derive(Clone, Debug)]
pub struct CheckpointSettings {
    pub data_dir: PathBuf,
    pub restart: bool,
}

/// Kept rows and their end.
#[derive(Debug)]
pub struct Chunk {
    pub rows: Vec<Clean>,
    pub end: ChunkEnd,
}

/// The end of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkEnd {
    /// The kept rows of the corpus up to here.
    pub rows: u64,
    /// The bytes of the inputs read up to here.
    pub bytes: u64,
}

/// A message from the reading thread: chunks, then the report.
#[derive(Debug)]
enum Read {
    Chunk(Chunk),
    End { report: CorpusReport, fault: Option<CorpusError> },
}

/// A run with the state `S`, which its checkpoint stores alongside the rows.
#[derive(Debug)]
pub struct ResumableRun<S> {
    settings: RunSettings,
    /// The corpus, until reading starts.
    unread: Option<(Corpus, mpsc::Sender<Read>)>,
    chunks: mpsc::Receiver<Read>,
    report: Option<CorpusReport>,
    progress: Option<Progress>,
    /// None if the run cannot be resumed.
    checkpoint: Option<Checkpoint>,
    /// The advice for the next run after a stop.
    advice: &'static str,
    acknowledged: u64,
    resumed_at: u64,
    made: u64,
    state: S,
    /// The time of the checkpoint's last write.
    saved: Option<Instant>,
    /// True if anything was acknowledged since then.
    is_unsaved: bool,
}

impl<S: Serialize + DeserializeOwned + Default> ResumableRun<S> {
    /// Opens a run. Resumes after the rows that an earlier run acknowledged.
    ///
    /// `fingerprint` covers everything that determines the run's rows and its output. Nothing is
    /// saved without `checkpoints`, or for a corpus that cannot be read again.
    ///
    /// # Errors
    /// [`CorpusError::OtherRun`] if an earlier run had other options or inputs, and
    /// [`CorpusError::Checkpoint`].
    pub fn open(
        mut corpus: Corpus,
        settings: RunSettings,
        fingerprint: Fingerprint,
        checkpoints: Option<&CheckpointSettings>,
    ) -> Result<Self, JobError> {
        let (checkpoint, acknowledged) = open_checkpoint(&corpus, settings, fingerprint, checkpoints)?;
        let advice = match (&checkpoint, checkpoints) {
            (Some(_), _) => RESUME,
            (None, None) => BEGIN_AGAIN,
            (None, Some(_)) => PIPE,
        };
        corpus.resume(acknowledged);
        let (send, chunks) = mpsc::channel(AHEAD);
        Ok(Self {
            settings,
            unread: Some((corpus, send)),
            chunks,
            report: None,
            progress: None,
            state: checkpoint.as_ref().and_then(Checkpoint::state).unwrap_or_default(),
            checkpoint,
            advice,
            acknowledged,
            resumed_at: acknowledged,
            made: 0,
            saved: None,
            is_unsaved: false,
        })
    }

    /// Discards the progress of an earlier run. Call it before the first chunk is read.
    ///
    /// # Errors
    /// [`CorpusError::Checkpoint`].
    pub fn restart(&mut self) -> Result<(), JobError> {
        if let Some(checkpoint) = &self.checkpoint {
            checkpoint.remove()?;
        }
        if let Some((corpus, _)) = &mut self.unread {
            corpus.resume(0);
        }
        (self.acknowledged, self.resumed_at, self.state) = (0, 0, S::default());
        Ok(())
    }

    /// Returns the next chunk; None at the end, when [`Self::report`] is known.
    ///
    /// The future may be dropped without losing a chunk.
    ///
    /// # Errors
    /// [`JobError::Stopped`] if `stop` came first; [`JobError::ReadingEnded`] after the last chunk
    /// before an error of the corpus.
    pub async fn next(&mut self, stop: &CancellationToken) -> Result<Option<Chunk>, JobError> {
        if self.report.is_some() {
            return Ok(None);
        }
        self.start_reading();
        match stop.run_until_cancelled(self.chunks.recv()).await {
            None => Err(self.stopped()),
            Some(Some(Read::Chunk(chunk))) => Ok(Some(chunk)),
            Some(Some(Read::End { report, fault })) => {
                self.report = Some(report);
                fault.map_or(Ok(None), |reason| {
                    Err(JobError::ReadingEnded { rows: self.acknowledged, reason })
                })
            }
            Some(None) => Err(JobError::ThreadEnded { doing: "reads" }),
        }
    }

    fn start_reading(&mut self) {
        let Some((corpus, send)) = self.unread.take() else { return };
        let progress = Progress::new(self.settings.label, corpus.bytes_total());
        self.progress = Some(if self.resumed_at == 0 { progress } else { progress.going_on() });
        let rows = self.settings.chunk;
        tokio::task::spawn_blocking(move || read_ahead(corpus, rows, &send));
    }

    /// Acknowledges the rows up to `end.rows` and `made` more items of the job's unit, and updates
    /// the state accordingly. Writes the checkpoint at most once a second.
    ///
    /// # Errors
    /// [`CorpusError::Checkpoint`].
    pub fn acknowledge(
        &mut self,
        end: ChunkEnd,
        made: u64,
        update: impl FnOnce(&mut S),
    ) -> Result<(), JobError> {
        update(&mut self.state);
        self.acknowledged = end.rows;
        self.made += made;
        self.is_unsaved = true;
        if let Some(progress) = &self.progress {
            progress.set_made(end.bytes, self.made, self.settings.unit);
        }
        match self.saved {
            Some(saved) if saved.elapsed() < SAVE_EVERY => Ok(()),
            _ => self.save(),
        }
    }

    /// Writes the checkpoint now.
    ///
    /// # Errors
    /// [`CorpusError::Checkpoint`].
    pub fn save(&mut self) -> Result<(), JobError> {
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.save_with(self.acknowledged, &self.state)?;
        }
        (self.saved, self.is_unsaved) = (Some(Instant::now()), false);
        Ok(())
    }

    /// Ends the run. After a success calls [`Self::finish`]; otherwise writes the checkpoint as of
    /// the last acknowledgement, and adds the number of acknowledged rows to the error.
    ///
    /// # Errors
    /// The error given, and [`CorpusError::Checkpoint`].
    pub fn end(&mut self, done: Result<(), JobError>) -> Result<(), JobError> {
        let Err(error) = done else { return self.finish() };
        if self.is_unsaved {
            self.save()?;
        }
        Err(error.at(self.acknowledged))
    }

    /// Ends the progress and removes the checkpoint, because nothing is left to resume.
    ///
    /// # Errors
    /// [`CorpusError::Checkpoint`].
    pub fn finish(&mut self) -> Result<(), JobError> {
        self.end_progress();
        match self.checkpoint.take() {
            Some(checkpoint) => Ok(checkpoint.remove()?),
            None => Ok(()),
        }
    }

    /// Ends the progress if the job has more to do after its rows.
    pub fn end_progress(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.finish();
        }
    }

    /// Returns the error of a run that is stopped now.
    pub fn stopped(&self) -> JobError {
        JobError::Stopped { rows: self.acknowledged, advice: self.advice }
    }

    /// Returns the advice for the next run after a stop.
    pub fn advice(&self) -> &'static str {
        self.advice
    }

    /// Returns the report on the rows; None until all are read.
    pub fn report(&self) -> Option<&CorpusReport> {
        self.report.as_ref()
    }

    /// Returns the number of rows acknowledged by this run and earlier ones.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Returns the number of rows acknowledged by earlier runs.
    pub fn resumed_at(&self) -> u64 {
        self.resumed_at
    }

    /// Returns the number of items of the job's unit that this run made.
    pub fn made(&self) -> u64 {
        self.made
    }

    pub fn state(&self) -> &S {
        &self.state
    }

    /// Returns the file of the checkpoint; None if the run cannot be resumed.
    pub fn checkpoint_path(&self) -> Option<&Path> {
        self.checkpoint.as_ref().map(Checkpoint::path)
    }
}

fn open_checkpoint(
    corpus: &Corpus,
    settings: RunSettings,
    fingerprint: Fingerprint,
    checkpoints: Option<&CheckpointSettings>,
) -> Result<(Option<Checkpoint>, u64), JobError> {
    let Some(checkpoints) = checkpoints.filter(|_| corpus.is_repeatable()) else { return Ok((None, 0)) };
    let folder = checkpoints.data_dir.join(settings.folder);
    let (checkpoint, acknowledged) = Checkpoint::open(&folder, fingerprint, checkpoints.restart)?;
    Ok((Some(checkpoint), acknowledged))
}

/// Sends chunks of `rows` rows and then the report. Ends early if the receiver is gone.
fn read_ahead(mut corpus: Corpus, rows: usize, send: &mpsc::Sender<Read>) {
    let fault = loop {
        match corpus.next_chunk(rows) {
            Ok(rows) if rows.is_empty() => break None,
            Ok(rows) => {
                let end = rows.last().map_or(0, |last| last.seq + 1);
                let end = ChunkEnd { rows: end, bytes: corpus.bytes_read() };
                if send.blocking_send(Read::Chunk(Chunk { rows, end })).is_err() {
                    return;
                }
            }
            Err(fault) => break Some(fault),
        }
    };
    // The receiver is gone only if the job has already failed.
    let _ = send.blocking_send(Read::End { report: corpus.report(), fault });
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use unprompt_corpus::Options;
    use unprompt_corpus::reader::{Format, Reading};

    use super::*;

    const SETTINGS: RunSettings =
        RunSettings { label: "counting (bytes)", unit: "letters", chunk: 2, folder: "counts" };

    /// The letters counted so far.
    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Count(u64);

    /// A file of prompts, and a data directory next to it.
    struct Setup {
        folder: tempfile::TempDir,
    }

    impl Setup {
        fn new(prompts: &[&str]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("prompts.txt"), prompts.join("\n")).unwrap();
            Self { folder }
        }

        fn corpus(&self, min_chars: Option<usize>) -> Corpus {
            let sources = vec![self.folder.path().join("prompts.txt").display().to_string()];
            let mut options = Options { sources, ..Options::default() };
            options.cleaning.min_chars = min_chars;
            Corpus::open(options, None).unwrap()
        }

        fn open(&self, min_chars: Option<usize>, restart: bool) -> Result<ResumableRun<Count>, JobError> {
            let corpus = self.corpus(min_chars);
            let checkpoints = CheckpointSettings { data_dir: self.folder.path().to_owned(), restart };
            let fingerprint = corpus.fingerprint();
            ResumableRun::open(corpus, SETTINGS, fingerprint, Some(&checkpoints))
        }

        /// Returns the checkpoint as JSON, if there is one.
        fn kept(&self) -> Option<serde_json::Value> {
            let files = std::fs::read_dir(self.folder.path().join("counts")).ok()?;
            let file = files.flatten().next()?;
            Some(serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap())
        }
    }

    fn texts(chunk: &Chunk) -> Vec<&str> {
        chunk.rows.iter().map(|clean| clean.row.text.as_str()).collect()
    }

    async fn count_chunk(run: &mut ResumableRun<Count>) -> Vec<String> {
        let chunk = run.next(&CancellationToken::new()).await.unwrap().unwrap();
        let letters = texts(&chunk).iter().map(|text| text.len() as u64).sum();
        run.acknowledge(chunk.end, letters, |count| count.0 += letters).unwrap();
        texts(&chunk).iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn a_stopped_run_resumes_at_the_row_after_the_last_acknowledged_one() {
        let setup = Setup::new(&["a", "bb", "ccc", "dddd", "eeeee"]);
        let mut first = setup.open(None, false).unwrap();
        count_chunk(&mut first).await;
        count_chunk(&mut first).await;
        let stop = CancellationToken::new();
        stop.cancel();
        let stopped = first.next(&stop).await.map(drop);
        let said = first.end(stopped).unwrap_err().to_string();
        assert!(
            said.contains("stopped after 4 prompts") && said.contains("repeat the command to resume"),
            "{said}"
        );

        let mut second = setup.open(None, false).unwrap();
        assert_eq!((second.resumed_at(), second.state()), (4, &Count(10)));
        assert_eq!(count_chunk(&mut second).await, ["eeeee"]);
        assert_eq!((second.made(), second.acknowledged(), second.state()), (5, 5, &Count(15)));
        assert!(second.next(&CancellationToken::new()).await.unwrap().is_none());
        assert_eq!(second.report().unwrap().kept, 5, "the report is of all rows");
        second.end(Ok(())).unwrap();
        assert_eq!(setup.kept(), None, "a run that is done leaves no checkpoint");
    }

    #[tokio::test]
    async fn the_checkpoint_is_written_at_once_then_once_a_second_and_at_the_end() {
        let setup = Setup::new(&["a", "bb", "ccc", "dddd", "eeeee"]);
        let mut run = setup.open(None, false).unwrap();
        assert_eq!(setup.kept(), None, "nothing is acknowledged yet");
        count_chunk(&mut run).await;
        count_chunk(&mut run).await;
        let kept = setup.kept().unwrap();
        assert_eq!((&kept["acknowledged"], &kept["state"]), (&2.into(), &3.into()));
        let failed = run.end(Err(JobError::EmptyIndex));
        assert!(matches!(failed, Err(JobError::EmptyIndex)));
        assert_eq!(setup.kept().unwrap()["acknowledged"], 4);
    }

    #[tokio::test]
    async fn a_run_that_fails_before_it_acknowledges_anything_leaves_no_checkpoint() {
        let setup = Setup::new(&["a"]);
        let mut run = setup.open(None, false).unwrap();
        assert!(run.end(Err(JobError::EmptyIndex)).is_err());
        assert_eq!(setup.kept(), None);
    }

    #[tokio::test]
    async fn other_options_are_refused_unless_the_run_restarts() {
        let setup = Setup::new(&["a", "bb", "ccc"]);
        count_chunk(&mut setup.open(None, false).unwrap()).await;
        let refused = setup.open(Some(2), false).unwrap_err().to_string();
        assert!(refused.contains("--restart") && refused.contains("min_chars"), "{refused}");
        let mut restarted = setup.open(Some(2), true).unwrap();
        assert_eq!((restarted.resumed_at(), restarted.state()), (0, &Count(0)));
        assert_eq!(count_chunk(&mut restarted).await, ["bb", "ccc"]);
    }

    #[tokio::test]
    async fn a_restart_forgets_rows_and_state() {
        let setup = Setup::new(&["a", "bb", "ccc"]);
        count_chunk(&mut setup.open(None, false).unwrap()).await;
        let mut run = setup.open(None, false).unwrap();
        run.restart().unwrap();
        assert_eq!((run.resumed_at(), run.state(), setup.kept()), (0, &Count(0), None));
        assert_eq!(count_chunk(&mut run).await, ["a", "bb"]);
    }

    #[tokio::test]
    async fn a_corpus_that_cannot_be_read_again_has_no_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let reading = Reading { format: Some(Format::Text), ..Reading::default() };
        let options = Options { sources: vec!["-".into()], reading, ..Options::default() };
        let corpus = Corpus::open(options, None).unwrap();
        let checkpoints = CheckpointSettings { data_dir: folder.path().to_owned(), restart: false };
        let fingerprint = corpus.fingerprint();
        let mut run: ResumableRun<Count> =
            ResumableRun::open(corpus, SETTINGS, fingerprint, Some(&checkpoints)).unwrap();
        assert_eq!(run.checkpoint_path(), None);
        run.acknowledge(ChunkEnd { rows: 3, bytes: 9 }, 3, |count| count.0 = 3).unwrap();
        let stopped = run.stopped();
        let said = run.end(Err(stopped)).unwrap_err().to_string();
        assert!(said.contains("stopped after 3 prompts; a pipe cannot be resumed"), "{said}");
        assert!(!folder.path().join("counts").exists());
    }

    #[tokio::test]
    async fn a_checkpoint_of_an_earlier_build_without_a_state_is_resumed() {
        let setup = Setup::new(&["a", "bb", "ccc"]);
        let corpus = setup.corpus(None);
        let folder = setup.folder.path().join("counts");
        let (checkpoint, _) = Checkpoint::open(&folder, corpus.fingerprint(), false).unwrap();
        checkpoint.save(2).unwrap();
        let run = setup.open(None, false).unwrap();
        assert_eq!((run.resumed_at(), run.state()), (2, &Count(0)));
    }

    #[tokio::test]
    async fn a_damaged_input_ends_the_run_after_its_last_whole_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.jsonl.gz");
        std::fs::write(&path, [0x1f, 0x8b, 8, 0]).unwrap();
        let options = Options { sources: vec![path.display().to_string()], ..Options::default() };
        let corpus = Corpus::open(options, None).unwrap();
        let fingerprint = corpus.fingerprint();
        let mut run: ResumableRun<Count> = ResumableRun::open(corpus, SETTINGS, fingerprint, None).unwrap();
        let ended = run.next(&CancellationToken::new()).await.map(drop);
        let said = run.end(ended).unwrap_err().to_string();
        assert!(said.contains("reading ended early, after 0 prompts") && said.contains("jsonl.gz"), "{said}");
        assert!(run.report().is_some(), "what was read before is reported");
    }
}
