//! Numbered records: pictures, some of them thin or with a wrong time, and one poisonous record in
//! a hundred.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use unprompt_schemas::topics::Topic;

use crate::Broker;
use crate::picture::{picture, thin};
use crate::poison::{KINDS, VectorSpace, poison};

/// The header by which the witness identifies a record; predictions copy it and dead letters keep
/// it.
pub const NUMBER_HEADER: &str = "chaos-number";
/// One in this many records is poison.
pub const POISON_ONE_IN: usize = 100;
/// One in this many good pictures is thin.
const THIN_ONE_IN: usize = 499;
/// One in this many good pictures has a wrong time.
const ODD_TIME_ONE_IN: usize = 251;
const KEYS: usize = 97;
const HALF_AN_HOUR: Duration = Duration::from_secs(1_800);
/// In the year 1653; Kafka's producers refuse times before 1970.
const LONG_AGO_MS: i64 = -10_000_000_000_000;

/// The records of a seed.
#[derive(Clone, Debug)]
pub struct Feed {
    pub seed: u64,
    pub broker: Broker,
    /// The vectors that the predictors expect.
    pub space: VectorSpace,
}

/// A record to publish.
#[derive(Clone, Debug)]
pub struct FeedRecord {
    pub topic: Topic,
    pub key: String,
    pub value: Vec<u8>,
    pub headers: [(&'static str, String); 2],
    /// Its CreateTime; `None` is the time of publication.
    pub timestamp_ms: Option<i64>,
}

impl Feed {
    /// Returns whether the record is poison: one in every hundred, at a random place in each
    /// hundred.
    pub fn is_poison(&self, number: usize) -> bool {
        let block = (number / POISON_ONE_IN) as u64;
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(block));
        rng.random_range(0..POISON_ONE_IN) == number % POISON_ONE_IN
    }

    pub fn record(&self, number: usize) -> FeedRecord {
        let (topic, value) = match self.is_poison(number) {
            true => poison(number / POISON_ONE_IN % KINDS, number, &self.space),
            false if number.is_multiple_of(THIN_ONE_IN) => (Topic::Images, thin(number)),
            false => (Topic::Images, picture(number)),
        };
        FeedRecord {
            topic,
            key: format!("key-{}", number % KEYS),
            value,
            headers: [
                ("ce_id", format!("chaos-{}-{number}", self.seed)),
                (NUMBER_HEADER, number.to_string()),
            ],
            timestamp_ms: number.is_multiple_of(ODD_TIME_ONE_IN).then(|| self.odd_time(number)),
        }
    }

    /// The beginning of 1970, a time before it, or one in the future: brokers refuse times more
    /// than an hour ahead.
    fn odd_time(&self, number: usize) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match (number / ODD_TIME_ONE_IN % 3, self.broker) {
            (0, _) => 0,
            (1, Broker::Embedded) => LONG_AGO_MS,
            _ => (now + HALF_AN_HOUR).as_millis() as i64,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn feed() -> Feed {
        let space = VectorSpace { model: "tiny@1".into(), dims: 8 };
        Feed { seed: 3, broker: Broker::Embedded, space }
    }

    #[test]
    fn one_record_in_a_hundred_is_poison() {
        let feed = feed();
        assert_eq!((0..10_000).filter(|&n| feed.is_poison(n)).count(), 100);
        let places: Vec<_> = (0..1_000).filter(|&n| feed.is_poison(n)).map(|n| n % 100).collect();
        assert!(places.windows(2).any(|two| two[0] != two[1]), "{places:?}");
    }

    #[test]
    fn pictures_are_good_unless_they_are_poison() {
        let feed = feed();
        for number in 0..1_000 {
            let record = feed.record(number);
            let is_good = record.topic == Topic::Images && image::load_from_memory(&record.value).is_ok();
            // The WebP of many groups is valid, but takes more memory than the services allow.
            let is_greedy = record.value.len() > 1 << 20;
            assert_eq!(is_good && !is_greedy, !feed.is_poison(number), "{number}");
        }
    }

    #[test]
    fn a_feed_has_poisonous_pictures_and_wrong_timestamps() {
        let feed = feed();
        let poison = |topic| (0..5_000).filter(move |&n| feed.is_poison(n) && feed.record(n).topic == topic);
        assert!(poison(Topic::Images).count() > 20);
        let feed = self::feed();
        let times: BTreeSet<_> = (0..1_000).filter_map(|n| feed.record(n).timestamp_ms).collect();
        assert!(times.contains(&0) && times.iter().any(|&time| time < 0), "{times:?}");
    }
}
