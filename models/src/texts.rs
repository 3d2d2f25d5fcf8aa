//! Embeds many texts: each distinct text once, tokenized on a separate thread ahead of the network,
//! in batches of similar length that the network's workers share. It must not know networks or
//! engines.

use std::collections::HashMap;
use std::sync::mpsc;
use std::thread;

use crate::tokenizer::TextTokenizer;
use crate::{ModelError, batches, workers};

/// A text network: maps rows of token ids of similar length to one unit vector per row.
pub(crate) trait TextNetwork: Send + std::fmt::Debug {
    fn embed(&mut self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError>;
}

/// One or more copies of a network. The workers run different batches at the same time.
///
/// If a network runs on several cores, they wait for each other at every layer, and for any other
/// work on one of them. Workers with one core each do not wait.
pub(crate) type TextWorkers = Vec<Box<dyn TextNetwork>>;

/// The token that pads rows of a causal network to the longest row. The end token does not see what
/// follows it, so any token that every vocabulary has works.
pub(crate) const PADDING: u32 = 0;

/// The number of texts in the first slab; texts are sorted by length within a slab. The network
/// waits for the first slab, so it is smaller than [`SLAB`].
const FIRST: usize = 1024;
const SLAB: usize = 8192;

/// Returns one vector per text, in order. Holds the tokens of at most two slabs besides the
/// vectors.
pub(crate) fn embed(
    tokenizer: &TextTokenizer,
    workers: &mut TextWorkers,
    texts: &[&str],
) -> Result<Vec<Vec<f32>>, ModelError> {
    let (distinct, places) = distinct(texts);
    let vectors = embed_distinct(tokenizer, workers, &distinct)?;
    if distinct.len() == texts.len() {
        return Ok(vectors);
    }
    Ok(places.into_iter().map(|place| vectors[place].clone()).collect())
}

/// Returns the distinct texts, and the index of each text among them.
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
    workers: &mut TextWorkers,
    texts: &[&str],
) -> Result<Vec<Vec<f32>>, ModelError> {
    if texts.len() <= FIRST {
        return embed_slab(workers, &tokenizer.encode(texts)?);
    }
    let (first, rest) = texts.split_at(FIRST);
    let slabs = std::iter::once(first).chain(rest.chunks(SLAB));
    let mut vectors = Vec::with_capacity(texts.len());
    thread::scope(|scope| {
        let (sender, tokenized) = mpsc::sync_channel(0);
        scope.spawn(move || {
            // Sending fails once the network has failed, because the receiver is gone.
            slabs.map(|slab| tokenizer.encode(slab)).try_for_each(|ids| sender.send(ids))
        });
        for ids in tokenized {
            vectors.extend(embed_slab(workers, &ids?)?);
        }
        Ok(vectors)
    })
}

fn embed_slab(workers: &mut TextWorkers, ids: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, ModelError> {
    let batches = batches::of_similar_length(ids, workers.len());
    let done = workers::share(workers, batches.len(), |network, at| {
        let rows: Vec<&[u32]> = batches[at].iter().map(|&i| ids[i].as_slice()).collect();
        network.embed(&rows)
    })?;
    let mut vectors = vec![Vec::new(); ids.len()];
    for (&i, vector) in batches.iter().flatten().zip(done.into_iter().flatten()) {
        vectors[i] = vector;
    }
    Ok(vectors)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    /// A network whose vectors are the texts' ids. Of all workers, the one that gets the
    /// `fails_on`th row fails; the others are slow from then on.
    #[derive(Debug, Clone)]
    struct Counting {
        rows: Arc<AtomicUsize>,
        fails_on: usize,
    }

    impl Counting {
        fn workers(count: usize, fails_on: usize) -> (TextWorkers, Arc<AtomicUsize>) {
            let rows = Arc::new(AtomicUsize::new(0));
            let worker = || Box::new(Self { rows: rows.clone(), fails_on }) as Box<dyn TextNetwork>;
            ((0..count).map(|_| worker()).collect(), rows)
        }
    }

    impl TextNetwork for Counting {
        fn embed(&mut self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
            let before = self.rows.fetch_add(ids.len(), Ordering::Relaxed);
            match (before > self.fails_on, before + ids.len() > self.fails_on) {
                (true, _) => thread::sleep(Duration::from_millis(20)),
                (false, true) => return Err(ModelError::Parameters("enough".to_owned())),
                (false, false) => {}
            }
            Ok(ids.iter().map(|ids| ids.iter().map(|&id| id as f32).collect()).collect())
        }
    }

    fn tokenizer() -> TextTokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny-world/checkpoints/clip");
        TextTokenizer::load(&folder, 40).unwrap()
    }

    /// Makes `count` texts, every tenth of which is repeated.
    fn texts(count: usize) -> Vec<String> {
        (0..count).map(|at| format!("a red {} star", if at % 10 == 9 { 0 } else { at })).collect()
    }

    #[test]
    fn each_distinct_text_is_embedded_once_and_vectors_keep_the_text_order() {
        let (tokenizer, texts) = (tokenizer(), texts(2 * FIRST + SLAB));
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let repeated = texts.iter().filter(|text| **text == texts[0]).count() - 1;
        let ids = tokenizer.encode(&texts).unwrap();
        for workers in [1, 3] {
            let (mut workers, rows) = Counting::workers(workers, usize::MAX);
            let vectors = embed(&tokenizer, &mut workers, &texts).unwrap();
            assert_eq!(rows.load(Ordering::Relaxed), texts.len() - repeated);
            for (vector, ids) in vectors.iter().zip(&ids) {
                assert_eq!(*vector, ids.iter().map(|&id| id as f32).collect::<Vec<_>>());
            }
        }
    }

    /// A network that returns once three workers are running.
    #[derive(Debug)]
    struct Waiting(Arc<AtomicUsize>);

    impl TextNetwork for Waiting {
        fn embed(&mut self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
            let began = Instant::now();
            self.0.fetch_add(1, Ordering::Relaxed);
            while self.0.load(Ordering::Relaxed) < 3 {
                if began.elapsed() > Duration::from_secs(30) {
                    return Err(ModelError::Parameters("the other workers did not start".to_owned()));
                }
                thread::yield_now();
            }
            Ok(vec![vec![1.0]; ids.len()])
        }
    }

    #[test]
    fn workers_run_in_parallel_even_on_a_few_texts() {
        let at_work = Arc::new(AtomicUsize::new(0));
        let mut workers: TextWorkers = (0..3).map(|_| Box::new(Waiting(at_work.clone())) as _).collect();
        let vectors = embed(&tokenizer(), &mut workers, &["a star", "a red star", "a ring"]).unwrap();
        assert_eq!(vectors, vec![vec![1.0]; 3]);
    }

    #[test]
    fn a_network_error_ends_the_call_early() {
        let texts = texts(3 * SLAB);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        for workers in [1, 3] {
            let (mut workers, rows) = Counting::workers(workers, FIRST + 10);
            let error = embed(&tokenizer(), &mut workers, &texts).unwrap_err();
            assert!(error.to_string().contains("enough"), "{error}");
            assert!(rows.load(Ordering::Relaxed) < FIRST + SLAB / 2, "the other workers continued");
        }
    }

    #[test]
    fn no_texts_give_no_vectors() {
        let (mut workers, _) = Counting::workers(2, 0);
        assert!(embed(&tokenizer(), &mut workers, &[]).unwrap().is_empty());
    }
}
