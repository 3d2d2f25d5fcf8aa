//! Pairs of an image vector and its prompt's MiniLM vector, joined from the topics by prompt_id.

use std::collections::{BTreeSet, HashMap};

use unprompt_schemas::Uuid;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{ImageEmbedding, PromptEmbedding};
use unprompt_stream::{KafkaConfig, read_records};

use crate::TrainError;

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
    /// `name@revision` of the MiniLM that made the prompt vectors.
    pub minilm: String,
    /// The encoders of pictures that have no vector of the requested one.
    pub others: Vec<String>,
}

/// Image vectors by image_id, so that a picture encoded twice counts once.
type Images = HashMap<Uuid, (Uuid, Vec<f32>)>;

/// Reads both topics to their ends, keeping only vectors of `encoder` and prompts that have a
/// picture.
pub(crate) async fn read(kafka: &KafkaConfig, codec: &Codec, encoder: &str) -> Result<Joined, TrainError> {
    let (mut images, mut others) = (Images::new(), BTreeSet::new());
    read_records(kafka, codec, |embedding| collect_image(&mut images, &mut others, encoder, embedding))
        .await?;
    let mut prompts: HashMap<Uuid, Option<PromptEmbedding>> =
        images.values().map(|(id, _)| (*id, None)).collect();
    read_records(kafka, codec, |embedding| collect_prompt(&mut prompts, embedding)).await?;
    Ok(Joined { others: others.into_iter().collect(), ..join(images, prompts) })
}

fn collect_image(
    images: &mut Images,
    others: &mut BTreeSet<String>,
    encoder: &str,
    mut embedding: ImageEmbedding,
) {
    let Some(prompt_id) = embedding.prompt_id else { return };
    match embedding.vectors.iter().position(|vector| vector.model == encoder) {
        Some(at) => {
            images.insert(embedding.image_id, (prompt_id, embedding.vectors.swap_remove(at).values));
        }
        None => others.extend(embedding.vectors.into_iter().map(|vector| vector.model)),
    }
}

fn collect_prompt(prompts: &mut HashMap<Uuid, Option<PromptEmbedding>>, embedding: PromptEmbedding) {
    if let Some(slot) = prompts.get_mut(&embedding.prompt_id) {
        *slot = Some(embedding);
    }
}

fn join(images: Images, prompts: HashMap<Uuid, Option<PromptEmbedding>>) -> Joined {
    let minilm =
        prompts.values().flatten().map(|prompt| prompt.minilm.model.clone()).next().unwrap_or_default();
    let mut images: Vec<_> = images.into_iter().collect();
    images.sort_by_key(|(image_id, _)| *image_id);
    let pairs = images.into_iter().filter_map(|(_, (prompt_id, image))| {
        let prompt = prompts.get(&prompt_id)?.as_ref()?;
        (prompt.minilm.model == minilm).then(|| Pair {
            prompt_id,
            image,
            prompt: prompt.minilm.values.clone(),
        })
    });
    Joined { pairs: pairs.collect(), minilm, others: Vec::new() }
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
    fn the_split_keeps_its_share_and_never_parts_a_prompt() {
        let pairs: Vec<Pair> = (0..2000)
            .map(|i| Pair {
                prompt_id: unprompt_schemas::identity::prompt_id(&format!("prompt {}", i / 2)),
                image: Vec::new(),
                prompt: Vec::new(),
            })
            .collect();
        let joined = Joined { pairs, minilm: String::new(), others: Vec::new() };
        let (train, validation) = joined.split(0.25);
        assert!((430..570).contains(&validation.len()), "a quarter of 2000, but {}", validation.len());
        let held: std::collections::HashSet<_> = validation.iter().map(|pair| pair.prompt_id).collect();
        assert!(train.iter().all(|pair| !held.contains(&pair.prompt_id)));
    }
}
