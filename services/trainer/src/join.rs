//! Pairs of an image vector and its prompt's MiniLM vector, joined from the topics by prompt_id.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use unprompt_index::MINILM_DIM;
use unprompt_schemas::Uuid;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{ImageEmbedding, NamedVector, PromptEmbedding};
use unprompt_stream::{KafkaConfig, TableChange, read_changes, read_records};

use crate::{Settings, TrainError};

/// A picture whose prompt is known.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The prompt's id; all pictures of a prompt are on the same side of the split.
    pub prompt_id: Uuid,
    /// The encoder's vector, [d].
    pub image: Vec<f32>,
    /// The prompt's MiniLM vector, [384].
    pub prompt: Vec<f32>,
}

/// All pairs of the topics, in a fixed order.
#[derive(Clone, Debug, Default)]
pub struct Joined {
    /// Sorted by image_id, so that a run over the same topics gives the same head.
    pub pairs: Vec<Pair>,
    /// The encoders of pictures that have no vector of the requested one.
    pub others: Vec<String>,
    pub skipped: Skipped,
}

/// The numbers of records that are not trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Pictures and prompts whose vector is not finite, has no direction or another dimension.
    pub bad_vectors: usize,
    /// Prompts whose vector is of another MiniLM.
    pub other_minilm: usize,
    /// Pictures whose prompt was deleted.
    pub deleted: usize,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bad_vectors, other_minilm, deleted } = self;
        if *self == Self::default() {
            return Ok(());
        }
        write!(
            f,
            "; skipped: {bad_vectors} with a faulty vector, {other_minilm} of another MiniLM, {deleted} whose prompt was deleted"
        )
    }
}

/// Image vectors by image_id, so that a picture encoded twice counts once.
type Images = HashMap<Uuid, (Uuid, Vec<f32>)>;

/// The state of a picture's prompt on prompt-embeddings.
#[derive(Clone, Debug)]
enum KnownPrompt {
    Unknown,
    Deleted,
    Vector(NamedVector),
}

/// Reads both topics to their ends, keeping only vectors of the encoder and prompts that have a
/// picture.
pub(crate) async fn read(
    kafka: &KafkaConfig,
    codec: &Codec,
    settings: &Settings,
) -> Result<Joined, TrainError> {
    let (mut images, mut others, mut skipped) = (Images::new(), BTreeSet::new(), Skipped::default());
    read_records(kafka, codec, |embedding| {
        collect_image(&mut images, &mut others, &mut skipped, settings, embedding);
    })
    .await?;
    let mut prompts: HashMap<Uuid, KnownPrompt> =
        images.values().map(|(id, _)| (*id, KnownPrompt::Unknown)).collect();
    read_changes(kafka, codec, |change| collect_prompt(&mut prompts, change)).await?;
    let pairs = join(images, &prompts, &settings.minilm, &mut skipped);
    Ok(Joined { pairs, others: others.into_iter().collect(), skipped })
}

fn collect_image(
    images: &mut Images,
    others: &mut BTreeSet<String>,
    skipped: &mut Skipped,
    settings: &Settings,
    mut embedding: ImageEmbedding,
) {
    let Some(prompt_id) = embedding.prompt_id else { return };
    match embedding.vectors.iter().position(|vector| vector.model == settings.encoder) {
        Some(at) => {
            let vector = embedding.vectors.swap_remove(at);
            match vector.check(settings.dims) {
                Ok(()) => drop(images.insert(embedding.image_id, (prompt_id, vector.values))),
                Err(_) => skipped.bad_vectors += 1,
            }
        }
        None => others.extend(embedding.vectors.into_iter().map(|vector| vector.model)),
    }
}

fn collect_prompt(prompts: &mut HashMap<Uuid, KnownPrompt>, change: TableChange<PromptEmbedding>) {
    let (id, known) = match change {
        TableChange::Written(embedding) => (Some(embedding.prompt_id), KnownPrompt::Vector(embedding.minilm)),
        TableChange::Deleted(key) => (id_of(&key), KnownPrompt::Deleted),
    };
    if let Some(slot) = id.and_then(|id| prompts.get_mut(&id)) {
        *slot = known;
    }
}

fn id_of(key: &[u8]) -> Option<Uuid> {
    Uuid::parse_str(str::from_utf8(key).ok()?).ok()
}

fn join(
    images: Images,
    prompts: &HashMap<Uuid, KnownPrompt>,
    minilm: &str,
    skipped: &mut Skipped,
) -> Vec<Pair> {
    let mut images: Vec<_> = images.into_iter().collect();
    images.sort_by_key(|(image_id, _)| *image_id);
    let mut pairs = Vec::with_capacity(images.len());
    for (_, (prompt_id, image)) in images {
        match prompts.get(&prompt_id) {
            None | Some(KnownPrompt::Unknown) => {}
            Some(KnownPrompt::Deleted) => skipped.deleted += 1,
            Some(KnownPrompt::Vector(vector)) if vector.model != minilm => skipped.other_minilm += 1,
            Some(KnownPrompt::Vector(vector)) if vector.check(MINILM_DIM).is_err() => {
                skipped.bad_vectors += 1
            }
            Some(KnownPrompt::Vector(vector)) => {
                pairs.push(Pair { prompt_id, image, prompt: vector.values.clone() });
            }
        }
    }
    pairs
}

impl Joined {
    /// Splits the pairs into train and validation by a hash of the prompt: a prompt is always on
    /// the same side.
    pub fn split(&self, validation: f64) -> (Vec<&Pair>, Vec<&Pair>) {
        self.pairs.iter().partition(|pair| !is_validation(pair.prompt_id, validation))
    }
}

/// Returns whether a prompt is in the validation part. A prompt_id is a SHA-1, so its last eight
/// bytes serve as the hash.
fn is_validation(prompt_id: Uuid, share: f64) -> bool {
    let (_, low) = prompt_id.as_u64_pair();
    // Drops the two highest bits of the low half: they are the UUID's variant, the same in all ids.
    (low << 2) as f64 / u64::MAX as f64 <= share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faulty_foreign_and_deleted_records_are_counted_and_left_out() {
        let prompt = |text: &str| unprompt_schemas::identity::prompt_id(text);
        let minilm = |model: &str, values: Vec<f32>| {
            let minilm = NamedVector { model: model.to_owned(), values };
            PromptEmbedding { minilm, ..PromptEmbedding::default() }
        };
        let unit = || [vec![1.0], vec![0.0; MINILM_DIM - 1]].concat();
        let names = ["good", "nan", "other", "deleted", "restored", "unknown"];
        let images: Images =
            names.iter().map(|name| (prompt(&format!("image {name}")), (prompt(name), vec![1.0]))).collect();
        let mut prompts = names.iter().map(|name| (prompt(name), KnownPrompt::Unknown)).collect();
        let mut change = |name: &str, embedding: Option<PromptEmbedding>| {
            let written =
                embedding.map(|one| TableChange::Written(PromptEmbedding { prompt_id: prompt(name), ..one }));
            let deleted = || TableChange::Deleted(prompt(name).to_string().into_bytes());
            collect_prompt(&mut prompts, written.unwrap_or_else(deleted));
        };
        change("good", Some(minilm("m@1", unit())));
        change("nan", Some(minilm("m@1", vec![f32::NAN; MINILM_DIM])));
        change("other", Some(minilm("m@2", unit())));
        change("deleted", Some(minilm("m@1", unit())));
        change("deleted", None);
        change("restored", None);
        change("restored", Some(minilm("m@1", unit())));
        let mut skipped = Skipped::default();
        let pairs = join(images, &prompts, "m@1", &mut skipped);
        let joined: Vec<Uuid> = pairs.iter().map(|pair| pair.prompt_id).collect();
        assert!(
            joined.len() == 2 && joined.contains(&prompt("good")) && joined.contains(&prompt("restored"))
        );
        assert_eq!(skipped, Skipped { bad_vectors: 1, other_minilm: 1, deleted: 1 });
        assert!(skipped.to_string().contains("1 of another MiniLM"));
        assert_eq!(Skipped::default().to_string(), "");
    }

    #[test]
    fn the_split_keeps_its_share_and_all_pairs_of_a_prompt_together() {
        let pairs: Vec<Pair> = (0..2000)
            .map(|i| Pair {
                prompt_id: unprompt_schemas::identity::prompt_id(&format!("prompt {}", i / 2)),
                image: Vec::new(),
                prompt: Vec::new(),
            })
            .collect();
        let joined = Joined { pairs, ..Joined::default() };
        let (train, validation) = joined.split(0.25);
        assert!((430..570).contains(&validation.len()), "a quarter of 2000, but {}", validation.len());
        let held: std::collections::HashSet<_> = validation.iter().map(|pair| pair.prompt_id).collect();
        assert!(train.iter().all(|pair| !held.contains(&pair.prompt_id)));
    }
}
