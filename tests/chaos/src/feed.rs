//! Numbered pictures, one in a hundred of them poison, published until the chaos is over.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use unprompt_schemas::topics::Topic;
use unprompt_stream::OutputRecord;

/// The header by which the witness identifies a picture; predictions copy it and dead letters keep
/// it.
pub const NUMBER_HEADER: &str = "chaos-number";
/// One in this many pictures is poison.
pub const POISON_ONE_IN: usize = 100;
/// The size of the tiny world's pictures.
const SIDE: u32 = 64;
const KEYS: usize = 97;

/// The pictures of a seed.
#[derive(Clone, Copy, Debug)]
pub struct Feed {
    pub seed: u64,
}

impl Feed {
    /// Returns whether the picture is poison: one in every hundred, at a random place in each
    /// hundred.
    pub fn is_poison(&self, number: usize) -> bool {
        let block = (number / POISON_ONE_IN) as u64;
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(block));
        rng.random_range(0..POISON_ONE_IN) == number % POISON_ONE_IN
    }

    pub fn record(&self, number: usize) -> OutputRecord {
        let value = if self.is_poison(number) { poison(number) } else { picture(number) };
        let header = |name: &str, text: String| (name.to_owned(), text.into_bytes());
        OutputRecord {
            topic: Topic::Images,
            key: Some(format!("key-{}", number % KEYS).into_bytes()),
            value: Some(value),
            headers: vec![
                header("ce_id", format!("chaos-{}-{number}", self.seed)),
                header(NUMBER_HEADER, number.to_string()),
            ],
        }
    }
}

/// The picture of a number; no two numbers give the same one.
fn picture(number: usize) -> Vec<u8> {
    let [a, b, c, _] = (number as u32).to_le_bytes();
    let image = RgbImage::from_fn(SIDE, SIDE, |x, y| match (x + y) % 2 {
        0 => Rgb([a, b, c]),
        _ => Rgb([(x * 4) as u8, (y * 4) as u8, a.wrapping_mul(31)]),
    });
    let mut png = Vec::new();
    image.write_to(&mut Cursor::new(&mut png), ImageFormat::Png).expect("a PNG can be written to memory");
    png
}

/// A truncated picture, text, nothing, a picture of no or of a billion pixels, the beginning of a
/// JPEG, or noise.
fn poison(number: usize) -> Vec<u8> {
    match number % 7 {
        0 => picture(number)[..60].to_vec(),
        1 => b"this is not a picture".to_vec(),
        2 => Vec::new(),
        3 => with_side(picture(number), 0),
        4 => with_side(picture(number), 1 << 30),
        5 => [&[0xff, 0xd8, 0xff, 0xe0][..], &[0; 200]].concat(),
        _ => (0..512u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect(),
    }
}

/// Changes the width in a PNG's header, with its checksum.
fn with_side(mut png: Vec<u8>, width: u32) -> Vec<u8> {
    png[16..20].copy_from_slice(&width.to_be_bytes());
    let mut sum = !0u32;
    for &byte in &png[12..29] {
        sum ^= u32::from(byte);
        (0..8).for_each(|_| sum = if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 });
    }
    png[29..33].copy_from_slice(&(!sum).to_be_bytes());
    png
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_picture_in_a_hundred_is_poison() {
        let feed = Feed { seed: 3 };
        assert_eq!((0..10_000).filter(|&n| feed.is_poison(n)).count(), 100);
        let places: Vec<_> = (0..1_000).filter(|&n| feed.is_poison(n)).map(|n| n % 100).collect();
        assert!(places.windows(2).any(|two| two[0] != two[1]), "{places:?}");
    }

    #[test]
    fn good_pictures_are_good_and_poison_is_not() {
        let feed = Feed { seed: 3 };
        for number in 0..1_000 {
            let value = feed.record(number).value.unwrap();
            assert_eq!(image::load_from_memory(&value).is_err(), feed.is_poison(number), "{number}");
        }
    }
}
