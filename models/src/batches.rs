//! Batches of texts of similar length. Padding costs as much as text, so a batch is bounded by its
//! padded tokens.

/// Maximum number of tokens, padding included, in a batch of a single worker, which has all cores.
const TOKENS: usize = 1024;
/// Maximum number of tokens in a batch of several workers. It is smaller because the worker with
/// the last batch keeps the others waiting.
const TOKENS_OF_WORKER: usize = 256;
/// Maximum number of texts in a batch.
const TEXTS: usize = 64;

/// Returns the indices of `ids`, longest first, in batches of at most [`TOKENS`] padded tokens or,
/// for several workers, [`TOKENS_OF_WORKER`], and at least one text. There are at least `workers`
/// batches if there are as many texts.
pub(crate) fn of_similar_length<T: AsRef<[u32]>>(ids: &[T], workers: usize) -> Vec<Vec<usize>> {
    let texts = TEXTS.min(ids.len().div_ceil(workers.max(1)));
    let tokens = if workers > 1 { TOKENS_OF_WORKER } else { TOKENS };
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(ids[i].as_ref().len()));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut longest = 0;
    for i in order {
        match batches.last_mut().filter(|batch| batch.len() < texts && (batch.len() + 1) * longest <= tokens)
        {
            Some(batch) => batch.push(i),
            None => {
                longest = ids[i].as_ref().len();
                batches.push(vec![i]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_in_one_batch_and_no_batch_is_too_large() {
        let ids: Vec<Vec<u32>> = (0..500).map(|i| vec![0; 1 + (i * 37) % 256]).collect();
        for (workers, tokens) in [(1, TOKENS), (2, TOKENS_OF_WORKER)] {
            let batches = of_similar_length(&ids, workers);
            let mut seen: Vec<usize> = batches.concat();
            seen.sort_unstable();
            assert_eq!(seen, (0..500).collect::<Vec<_>>());
            for batch in &batches {
                let longest = batch.iter().map(|&i| ids[i].len()).max().unwrap();
                assert!(batch.len() == 1 || batch.len() * longest <= tokens);
                assert!(batch.len() <= TEXTS);
            }
        }
    }

    #[test]
    fn a_few_texts_are_shared_by_all_workers() {
        let ids = vec![vec![0u32; 5]; 7];
        let sizes = |workers| of_similar_length(&ids, workers).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(1), [7]);
        assert_eq!(sizes(2), [4, 3]);
        assert_eq!(sizes(3), [3, 3, 1]);
        assert_eq!(sizes(9), [1; 7]);
    }

    #[test]
    fn no_texts_give_no_batches() {
        assert!(of_similar_length::<Vec<u32>>(&[], 2).is_empty());
    }
}
