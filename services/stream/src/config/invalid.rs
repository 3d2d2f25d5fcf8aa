//! A value that has the right type and cannot be used.

use std::fmt::Display;

/// Which key is wrong, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// With its section: `runner.batch_records`. Empty if several keys contradict each other and
    /// the text names them.
    pub key: String,
    /// The fault and the advice, such as `0 is out of range (give 1 or more)`.
    pub what: String,
}

impl Invalid {
    /// The value of `key` is wrong.
    pub fn new(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self { key: key.into(), what: what.into() }
    }

    /// Several keys contradict each other; `what` names them.
    pub fn contradiction(what: impl Into<String>) -> Self {
        Self::new("", what)
    }

    /// Refuses a number that is not in a range.
    ///
    /// # Errors
    /// The number, and what it may be.
    pub fn unless_in<T: PartialOrd + Display>(
        key: &str,
        given: T,
        range: impl std::ops::RangeBounds<T>,
        allowed: &str,
    ) -> Result<(), Self> {
        match range.contains(&given) {
            true => Ok(()),
            false => Err(Self::new(key, format!("{given} is out of range (give {allowed})"))),
        }
    }
}
