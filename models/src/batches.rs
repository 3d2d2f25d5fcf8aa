//! Batches of texts of similar length: padding costs as much as text, so a batch is bounded by its padded tokens.

/// Tokens in a batch, padding included.
const TOKENS: usize = 1024;
/// Texts in a batch.
const TEXTS: usize = 64;

/// The indices of `ids`, longest first, cut into batches of at most [`TOKENS`] padded tokens (one text at least).
pub(crate) fn of_similar_length<T: AsRef<[u32]>>(ids: &[T]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(ids[i].as_ref().len()));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut longest = 0;
    for i in order {
        match batches.last_mut().filter(|batch| batch.len() < TEXTS && (batch.len() + 1) * longest <= TOKENS)
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
        let batches = of_similar_length(&ids);
        let mut seen: Vec<usize> = batches.concat();
        seen.sort_unstable();
        assert_eq!(seen, (0..500).collect::<Vec<_>>());
        for batch in &batches {
            let longest = batch.iter().map(|&i| ids[i].len()).max().unwrap();
            assert!(batch.len() == 1 || batch.len() * longest <= TOKENS);
            assert!(batch.len() <= TEXTS);
        }
    }

    #[test]
    fn no_texts_no_batches() {
        assert!(of_similar_length::<Vec<u32>>(&[]).is_empty());
    }
}
