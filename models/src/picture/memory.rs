//! The memory of decoding and preprocessing the worst pictures within the limits: at most what is
//! charged for it.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, RgbImage};

use super::webp_of_groups::of_groups;
use super::{Limits, Preprocessor, decode};

/// Small limits, so that a test needs little memory: 32 MiB of pixels and tables.
const LIMITS: Limits = Limits { max_bytes: 16 << 20, max_pixels: 1 << 20 };

fn preprocessor() -> Preprocessor {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("preprocessor_config.json");
    std::fs::write(&path, r#"{"size": 224, "crop_size": 224}"#).unwrap();
    Preprocessor::load(&path).unwrap()
}

fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Returns the most memory that decoding and preprocessing hold, and the error's code.
fn held(bytes: &[u8], limits: &Limits) -> (u64, Option<&'static str>) {
    let (steps, mut code) = (preprocessor(), None);
    let held = allocation_counter::measure(|| match decode(bytes, limits) {
        Ok(picture) => drop(steps.run(&picture)),
        Err(error) => code = Some(error.code()),
    });
    (held.bytes_max, code)
}

#[test]
fn a_picture_takes_at_most_the_memory_charged_for_it() {
    let noise = |width: u32, height: u32| {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([x as u8, (x.wrapping_mul(31) ^ y.wrapping_mul(17)) as u8, y as u8])
        })
    };
    let mut pictures = Vec::new();
    for (width, height) in [(1024, 1024), (1, 65_000), (65_000, 1), (3, 16_000), (16_000, 3), (1, 1)] {
        let picture = DynamicImage::from(noise(width, height));
        pictures.push((encoded(picture.clone(), ImageFormat::Png), "png"));
        pictures.push((encoded(picture.to_rgba16(), ImageFormat::Png), "wide png"));
        pictures.push((encoded(picture.clone(), ImageFormat::Jpeg), "jpeg"));
        if width.max(height) <= 16_383 {
            pictures.push((encoded(picture, ImageFormat::WebP), "webp"));
        }
    }
    // Extreme cases: blank pictures that compress well, with a million pixels in a column or row.
    pictures.push((encoded(DynamicImage::from(RgbImage::new(1, 1 << 20)), ImageFormat::Png), "tall"));
    pictures.push((encoded(DynamicImage::from(RgbImage::new(1 << 20, 1)), ImageFormat::Png), "thin"));
    pictures.push((of_groups(1_000), "webp of many groups"));
    for (bytes, name) in pictures {
        let (held, code) = held(&bytes, &LIMITS);
        let charged = LIMITS.memory_bytes_of(&bytes);
        assert_eq!(code, None, "{name}");
        assert!(held <= charged, "{name}: {held} bytes are held, {charged} are charged");
        assert!(held <= LIMITS.memory_bytes(), "{name}: {held} are more than the largest picture's");
    }
}

#[test]
fn a_webp_with_too_many_groups_is_refused_before_its_tables_are_built() {
    let bytes = of_groups(65_536);
    let (held, code) = held(&bytes, &LIMITS);
    assert_eq!(code, Some("too-much-memory"));
    assert!(held < 1 << 20, "{held} bytes");
    assert!(LIMITS.memory_bytes_of(&bytes) > LIMITS.memory_bytes());
}
