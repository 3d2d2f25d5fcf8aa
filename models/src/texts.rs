//! Many texts through a network: a repeated text once, tokenized ahead of the network on threads of its own, in
//! batches of similar length. It knows no network and no engine.

use std::collections::HashMap;
use std::sync::mpsc;

use crate::tokenizer::TextTokenizer;
use crate::{ModelError, batches};

/// Rows of token ids of similar length in, as many unit vectors out.
pub(crate) trait TextNetwork: Send + std::fmt::Debug {
    fn embed(&mut self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError>;
}

/// Texts that are sorted by length together. The network waits for the first ones, so they are fewer.
const FIRST: usize = 1024;
const SLAB: usize = 8192;

/// A vector a text, in their order. At most two slabs' tokens are held beside the vectors.
pub(crate) fn embed(
    tokenizer: &TextTokenizer,
    network: &mut dyn TextNetwork,
    texts: &[&str],
) -> Result<Vec<Vec<f32>>, ModelError> {
    let (distinct, places) = distinct(texts);
    let vectors = embed_distinct(tokenizer, network, &distinct)?;
    if distinct.len() == texts.len() {
        return Ok(vectors);
    }
    Ok(places.into_iter().map(|place| vectors[place].clone()).collect())
}

/// The texts without repetition, and where each text is among them.
fn distinct<'a>(texts: &[&'a str]) -> (Vec<&'a str>, Vec<usize>) {
    let mut known = HashMap::with_capacity(texts.len());
    let mut distinct = Vec::with_capacity(texts.len());
    let places = texts.iter().map(|&text| {
        *known.entry(text).or_insert_with(|| {
            distinct.push(text);
            distinct.len() - 1
        })
    });
    let places = places.collect();
    (distinct, places)
}

fn embed_distinct(
    tokenizer: &TextTokenizer,
    network: &mut dyn TextNetwork,
    texts: &[&str],
) -> Result<Vec<Vec<f32>>, ModelError> {
    if texts.len() <= FIRST {
        return embed_slab(network, &tokenizer.encode(texts)?);
    }
    let (first, rest) = texts.split_at(FIRST);
    let slabs = std::iter::once(first).chain(rest.chunks(SLAB));
    let mut vectors = Vec::with_capacity(texts.len());
    std::thread::scope(|scope| {
        let (sender, tokenized) = mpsc::sync_channel(0);
        scope.spawn(move || {
            // Nobody receives any more once the network has failed.
            slabs.map(|slab| tokenizer.encode(slab)).try_for_each(|ids| sender.send(ids))
        });
        for ids in tokenized {
            vectors.extend(embed_slab(network, &ids?)?);
        }
        Ok(vectors)
    })
}

fn embed_slab(network: &mut dyn TextNetwork, ids: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, ModelError> {
    let mut vectors = vec![Vec::new(); ids.len()];
    for batch in batches::of_similar_length(ids) {
        let rows: Vec<&[u32]> = batch.iter().map(|&i| ids[i].as_slice()).collect();
        for (&i, vector) in batch.iter().zip(network.embed(&rows)?) {
            vectors[i] = vector;
        }
    }
    Ok(vectors)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Its vector is a text's ids; it fails on the `fails_on`th row.
    #[derive(Debug)]
    struct Counting {
        rows: usize,
        fails_on: usize,
    }

    impl TextNetwork for Counting {
        fn embed(&mut self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
            self.rows += ids.len();
            if self.rows > self.fails_on {
                return Err(ModelError::Parameters("enough".to_owned()));
            }
            Ok(ids.iter().map(|ids| ids.iter().map(|&id| id as f32).collect()).collect())
        }
    }

    fn tokenizer() -> TextTokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny-world/checkpoints/clip");
        TextTokenizer::load(&folder, 40).unwrap()
    }

    /// So many texts, every tenth of which is repeated.
    fn texts(count: usize) -> Vec<String> {
        (0..count).map(|at| format!("a red {} star", if at % 10 == 9 { 0 } else { at })).collect()
    }

    #[test]
    fn a_text_is_embedded_once_and_every_vector_is_where_its_text_is() {
        let (tokenizer, texts) = (tokenizer(), texts(2 * FIRST + SLAB));
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut network = Counting { rows: 0, fails_on: usize::MAX };
        let vectors = embed(&tokenizer, &mut network, &texts).unwrap();
        let repeated = texts.iter().filter(|text| **text == texts[0]).count() - 1;
        assert_eq!(network.rows, texts.len() - repeated);
        let ids = tokenizer.encode(&texts).unwrap();
        for (vector, ids) in vectors.iter().zip(&ids) {
            assert_eq!(*vector, ids.iter().map(|&id| id as f32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_network_that_fails_in_the_middle_ends_the_call() {
        let texts = texts(3 * SLAB);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut network = Counting { rows: 0, fails_on: FIRST + 10 };
        let error = embed(&tokenizer(), &mut network, &texts).unwrap_err();
        assert!(error.to_string().contains("enough"), "{error}");
    }

    #[test]
    fn no_texts_no_vectors() {
        let mut network = Counting { rows: 0, fails_on: 0 };
        assert!(embed(&tokenizer(), &mut network, &[]).unwrap().is_empty());
    }
}
