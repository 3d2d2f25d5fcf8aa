//! Imports prompts from a corpus into prompts.v1. A second run publishes only the prompts that were
//! not acknowledged in the first one.

use tokio_util::sync::CancellationToken;
use unprompt_corpus::report::CorpusReport;
use unprompt_corpus::{Clean, Corpus};
use unprompt_schemas::SchemaError;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::identity::prompt_id;
use unprompt_schemas::records::Prompt;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{KafkaConfig, OutputRecord, Publisher, ensure_topics};

use crate::{CheckpointSettings, Chunk, JobError, ResumableRun, RunSettings};

/// The prompts of a chunk, which are published together.
const CHUNK: usize = 1_000;
const IMPORT: RunSettings =
    RunSettings { label: "importing (bytes)", unit: "prompts", chunk: CHUNK, folder: "imports" };
const DRY_RUN: RunSettings = RunSettings { label: "reading (bytes)", ..IMPORT };

/// An import in progress. Its checkpoint has no state besides the rows.
#[derive(Debug)]
pub struct Import {
    run: ResumableRun<()>,
    /// None in a dry run.
    target: Option<(KafkaConfig, Codec)>,
}

/// The summary of an import.
#[derive(Clone, Debug)]
pub struct ImportSummary {
    pub published: u64,
    /// The prompts published by earlier runs.
    pub published_before: u64,
    /// None if reading did not reach the end.
    pub report: Option<CorpusReport>,
}

impl Import {
    /// Opens an import. Resumes after the prompts that an earlier run of the same corpus published.
    ///
    /// # Errors
    /// Those of [`ResumableRun::open`].
    pub fn open(
        corpus: Corpus,
        kafka: KafkaConfig,
        codec: Codec,
        checkpoints: &CheckpointSettings,
    ) -> Result<Self, JobError> {
        let fingerprint = corpus.fingerprint();
        let run = ResumableRun::open(corpus, IMPORT, fingerprint, Some(checkpoints))?;
        Ok(Self { run, target: Some((kafka, codec)) })
    }

    /// Opens an import that reads and cleans but publishes nothing.
    ///
    /// # Errors
    /// None are expected, because nothing is saved.
    pub fn dry_run(corpus: Corpus) -> Result<Self, JobError> {
        let fingerprint = corpus.fingerprint();
        Ok(Self { run: ResumableRun::open(corpus, DRY_RUN, fingerprint, None)?, target: None })
    }

    /// Returns the number of prompts that earlier runs published.
    pub fn resumed_at(&self) -> u64 {
        self.run.resumed_at()
    }

    /// Imports the rest of the corpus.
    ///
    /// # Errors
    /// Those of [`ResumableRun::next`], and of a Kafka that does not accept the prompts.
    pub async fn run(&mut self, stop: &CancellationToken) -> Result<(), JobError> {
        let done = match self.target.clone() {
            Some((kafka, codec)) => self.publish_all(&kafka, &codec, stop).await,
            None => self.read_all(stop).await,
        };
        self.run.end(done)
    }

    async fn publish_all(
        &mut self,
        kafka: &KafkaConfig,
        codec: &Codec,
        stop: &CancellationToken,
    ) -> Result<(), JobError> {
        ensure_topics(kafka).await?;
        let (publisher, topic_name) = (Publisher::new(kafka)?, kafka.prefix.name(Topic::Prompts));
        while let Some(Chunk { rows, end }) = self.run.next(stop).await? {
            let prompts = rows.into_iter().map(prompt);
            let records: Result<Vec<_>, _> =
                prompts.map(|prompt| prompt_record(codec, &topic_name, &prompt)).collect();
            let published = publisher.publish_many(records?).await? as u64;
            self.run.acknowledge(end, published, |()| ())?;
        }
        Ok(())
    }

    async fn read_all(&mut self, stop: &CancellationToken) -> Result<(), JobError> {
        while let Some(Chunk { rows, end }) = self.run.next(stop).await? {
            self.run.acknowledge(end, rows.len() as u64, |()| ())?;
        }
        Ok(())
    }

    pub fn summary(&self) -> ImportSummary {
        ImportSummary {
            published: if self.target.is_some() { self.run.made() } else { 0 },
            published_before: self.run.resumed_at(),
            report: self.run.report().cloned(),
        }
    }
}

fn prompt(clean: Clean) -> Prompt {
    let row = clean.row;
    Prompt { text: row.text, source: row.source, seeds: row.seeds, attributes: row.attributes }
}

/// Returns the record that publishes a prompt on prompts.v1.
///
/// # Errors
/// Those of [`Codec::encode`]: a record that is too large, or a schema registry that gives no id.
pub fn prompt_record(codec: &Codec, topic_name: &str, prompt: &Prompt) -> Result<OutputRecord, SchemaError> {
    Ok(OutputRecord {
        topic: Topic::Prompts,
        key: Some(prompt_id(&prompt.text).to_string().into_bytes()),
        value: Some(codec.encode(topic_name, prompt)?),
        headers: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use unprompt_corpus::Options;

    use super::*;

    #[tokio::test]
    async fn a_dry_run_reads_everything_and_publishes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.txt");
        std::fs::write(&path, "a red star\na blue fish\na red star\n").unwrap();
        let options = Options { sources: vec![path.display().to_string()], ..Options::default() };
        let mut import = Import::dry_run(Corpus::open(options, None).unwrap()).unwrap();
        import.run(&CancellationToken::new()).await.unwrap();
        let summary = import.summary();
        assert_eq!((summary.published, summary.published_before), (0, 0));
        let report = summary.report.unwrap();
        assert_eq!((report.kept, report.dropped()), (2, 1));
    }
}
