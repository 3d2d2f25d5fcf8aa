//! Requests that would need a larger message than gRPC's limit allows are split into parts.
//!
//! The size of an answer is known only when it has arrived: a prompt's text may have 64 KiB, and
//! most have a hundred bytes.

use crate::IndexError;

/// The parts of a request that are still to be sent; at first, one part holds all items.
#[derive(Debug)]
pub(super) struct RequestParts<'a, T> {
    /// The last one is sent next.
    waiting: Vec<&'a [T]>,
}

impl<'a, T> RequestParts<'a, T> {
    pub fn of(items: &'a [T]) -> Self {
        Self { waiting: vec![items] }
    }

    /// Returns the items of the next request. The parts come in the order of the items.
    pub fn next(&mut self) -> Option<&'a [T]> {
        self.waiting.pop().filter(|part| !part.is_empty())
    }

    /// Divides a request that was too large.
    ///
    /// # Errors
    /// The error, if it is another one or the request was for a single item.
    pub fn halve(&mut self, part: &'a [T], error: IndexError) -> Result<(), IndexError> {
        if part.len() < 2 || !error.is_too_large() {
            return Err(error);
        }
        let (first, second) = part.split_at(part.len() / 2);
        self.waiting.extend([second, first]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn too_large() -> IndexError {
        let message = "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes".into();
        IndexError::Server { operation: "search", code: Code::OutOfRange, message }
    }

    #[test]
    fn a_request_that_is_too_large_is_halved_in_order() {
        let items: Vec<u32> = (0..7).collect();
        let (mut parts, mut asked, mut answers) = (RequestParts::of(&items), Vec::new(), Vec::new());
        while let Some(part) = parts.next() {
            asked.push(part.len());
            match part.len() > 2 {
                true => parts.halve(part, too_large()).unwrap(),
                false => answers.extend_from_slice(part),
            }
        }
        assert_eq!(asked, [7, 3, 1, 2, 4, 2, 2]);
        assert_eq!(answers, items);
        assert!(RequestParts::<u32>::of(&[]).next().is_none());
    }

    #[test]
    fn an_oversized_single_item_and_any_other_error_are_returned() {
        let mut parts = RequestParts::of(&[1, 2]);
        assert!(parts.halve(&[1], too_large()).unwrap_err().is_too_large());
        let other = IndexError::NotAcknowledged { status: "asked once".into() };
        assert!(matches!(parts.halve(&[1, 2], other), Err(IndexError::NotAcknowledged { .. })));
    }
}
