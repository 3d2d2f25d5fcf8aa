//! Decodes pictures into the pixels that the networks take, wherever the bytes came from.

use std::sync::Arc;

use unprompt_models::encoder::{Pixels, VisionTower};
use unprompt_models::picture::{self, Limits};
use unprompt_stream::Rejection;

use crate::budget::Budget;

/// A picture preprocessed for each encoder, in order.
pub(crate) type Views = Vec<Pixels>;

/// Decodes pictures on several threads; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    pub towers: Arc<[VisionTower]>,
    pub limits: Limits,
    /// A small file may hold a large picture: together, pictures being decoded take at most as much
    /// memory as the largest permitted one.
    memory: Arc<Budget>,
}

impl Decoder {
    pub fn new(towers: Vec<VisionTower>, limits: Limits) -> Self {
        Self { towers: towers.into(), limits, memory: Arc::new(Budget::new(limits.memory_bytes())) }
    }

    /// Decodes and preprocesses a picture of at most `max_bytes`, once there is memory for it.
    pub fn decode(&self, bytes: &[u8], max_bytes: usize) -> Result<Views, Rejection> {
        let limits = Limits { max_bytes, ..self.limits };
        let _memory = self.memory.take(self.limits.memory_bytes_of(bytes));
        let picture = picture::decode(bytes, &limits).map_err(|e| Rejection::new(e.code(), e.to_string()))?;
        Ok(self.towers.iter().map(|tower| tower.preprocess(&picture)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::path::Path;
    use std::thread;

    use image::{ImageFormat, RgbImage};
    use unprompt_models::encoder::VisionSettings;

    use super::*;

    fn decoder() -> Decoder {
        let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-world/checkpoints/clip");
        let tower = VisionTower::load(&clip, &VisionSettings::default()).unwrap();
        Decoder::new(vec![tower], Limits::default())
    }

    fn png(side: u32) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::new(side, side).write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn a_picture_is_not_decoded_while_others_take_the_memory() {
        let (decoder, picture) = (decoder(), png(50));
        let others = decoder.memory.take(u64::MAX);
        thread::scope(|scope| {
            let decoding = scope.spawn(|| decoder.decode(&picture, picture.len()).is_ok());
            while !decoder.memory.is_waited_for() {
                assert!(!decoding.is_finished(), "it was decoded although there was no memory");
                thread::yield_now();
            }
            drop(others);
            assert!(decoding.join().unwrap());
        });
    }

    #[test]
    fn a_pictures_memory_estimate_depends_on_its_pixels_not_its_bytes() {
        let (decoder, picture) = (decoder(), png(3000));
        let weight = decoder.limits.memory_bytes_of(&picture);
        assert!(weight > 9_000_000 * 16, "{weight} bytes for a PNG of {}", picture.len());
        assert!(decoder.limits.memory_bytes_of(&png(50)) < weight / 5);
        assert!(decoder.limits.memory_bytes_of(b"no picture") > weight, "unknown data counts most");
    }
}
