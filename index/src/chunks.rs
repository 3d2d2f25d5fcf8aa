//! Runs of items that are bounded by number and size.

/// Splits items into runs of at most `count` items and `bytes` bytes; a larger item is alone.
pub(crate) fn chunks<T>(
    items: impl IntoIterator<Item = T>,
    (count, bytes): (usize, usize),
    size: impl Fn(&T) -> usize,
) -> impl Iterator<Item = Vec<T>> {
    let mut items = items.into_iter().peekable();
    std::iter::from_fn(move || {
        let (mut chunk, mut total) = (Vec::new(), 0);
        while let Some(next) = items.next_if(|next| {
            total += size(next);
            chunk.is_empty() || (chunk.len() < count && total <= bytes)
        }) {
            chunk.push(next);
        }
        (!chunk.is_empty()).then_some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_bounded_by_count_and_size() {
        let of = |items: &[usize], limits| chunks(items.to_vec(), limits, |item| *item).collect::<Vec<_>>();
        assert_eq!(of(&[1, 1, 1, 1, 1], (2, 100)), [vec![1, 1], vec![1, 1], vec![1]]);
        assert_eq!(of(&[5, 5, 11, 3, 4, 3], (9, 10)), [vec![5, 5], vec![11], vec![3, 4, 3]]);
        assert!(of(&[], (9, 10)).is_empty());
    }
}
