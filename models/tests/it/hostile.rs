//! Tests of hostile files and pictures: whatever the bytes are, reading ends with a value or an
//! error, within the documented memory. `tests/fuzz` runs the picture decoder on millions of
//! inputs.

use std::io::Cursor;

use image::codecs::png::PngEncoder;
use image::{DynamicImage, ImageEncoder, ImageFormat, RgbImage, RgbaImage};
use proptest::prelude::*;
use unprompt_models::head::{RidgeHead, Samples};
use unprompt_models::picture::{Limits, decode};

const LIMITS: Limits = Limits { max_bytes: 4 << 20, max_pixels: 1 << 20 };

/// Returns the peak memory of decoding a picture, and its outcome as text.
fn held(bytes: &[u8], limits: &Limits) -> (u64, String) {
    let mut said = String::new();
    let held = allocation_counter::measure(|| {
        said = match decode(bytes, limits) {
            Ok(picture) => format!("{} x {}", picture.width(), picture.height()),
            Err(error) => error.code().to_owned(),
        };
    });
    (held.bytes_max, said)
}

fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A picture that encoders cannot compress well.
fn picture(width: u32, height: u32) -> RgbaImage {
    RgbaImage::from_fn(width, height, |x, y| {
        image::Rgba([x as u8, y as u8, (x.wrapping_mul(31) ^ y.wrapping_mul(17)) as u8, 200])
    })
}

#[test]
fn decoding_the_largest_pictures_stays_within_the_memory_limit() {
    let rgb = DynamicImage::from(picture(1024, 1024)).to_rgb8();
    let wide = DynamicImage::from(picture(1024, 1024)).to_rgba16();
    let pictures = [
        encoded(rgb.clone(), ImageFormat::Jpeg),
        encoded(rgb.clone(), ImageFormat::WebP),
        encoded(rgb, ImageFormat::Png),
        encoded(wide, ImageFormat::Png),
    ];
    let limits = Limits { max_bytes: 16 << 20, ..LIMITS };
    for bytes in pictures {
        let (held, said) = held(&bytes, &limits);
        assert_eq!(said, "1024 x 1024");
        assert!(held <= limits.memory_bytes(), "it used {held} bytes of {}", limits.memory_bytes());
    }
}

/// Inserts a chunk after a PNG's header.
fn with_chunk(png: &[u8], name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let named = [&name[..], data].concat();
    let crc = named.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1)))
    });
    [&png[..33], &(data.len() as u32).to_be_bytes(), &named, &(!crc).to_be_bytes(), &png[33..]].concat()
}

#[test]
fn a_colour_profile_bomb_stays_within_the_memory_limit() {
    // The data of a flat PNG is a deflated stream of zeros: 160 kB that expand to 160 MB. Here it
    // is used as a profile.
    let mut flat = Vec::new();
    let zeros = vec![0u8; 160_000_000];
    PngEncoder::new(&mut flat).write_image(&zeros, 16_000, 10_000, image::ExtendedColorType::L8).unwrap();
    let profile = [b"p\0\0".as_slice(), &idat(&flat)].concat();
    let bytes = with_chunk(&encoded(RgbImage::new(4, 4), ImageFormat::Png), b"iCCP", &profile);
    let (held, said) = held(&bytes, &LIMITS);
    assert!(held <= LIMITS.memory_bytes(), "it used {held} bytes; outcome: {said}");
}

/// Returns the content of all IDAT chunks.
fn idat(mut png: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    png = &png[8..];
    while let Some((length, rest)) = png.split_first_chunk::<4>() {
        let (chunk, next) = rest.split_at(4 + u32::from_be_bytes(*length) as usize);
        if chunk.starts_with(b"IDAT") {
            data.extend(&chunk[4..]);
        }
        png = &next[4..];
    }
    data
}

fn changed() -> impl Strategy<Value = Vec<u8>> {
    let small = picture(24, 16);
    let rgb = DynamicImage::from(small.clone()).to_rgb8();
    let seeds = vec![
        encoded(rgb.clone(), ImageFormat::Jpeg),
        encoded(rgb, ImageFormat::WebP),
        encoded(small, ImageFormat::Png),
        include_bytes!("../reference/pictures/cmyk.jpg").to_vec(),
        include_bytes!("../reference/pictures/palette.png").to_vec(),
        Vec::new(),
    ];
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    let tail = proptest::collection::vec(any::<u8>(), 0..40);
    (proptest::sample::select(seeds), edits, tail).prop_map(|(mut bytes, edits, tail)| {
        bytes.extend(tail);
        for (place, byte) in edits {
            if !bytes.is_empty() {
                let at = place.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes
    })
}

fn head() -> Vec<u8> {
    let inputs: Vec<Vec<f32>> = (0..6).map(|i| vec![1.0, i as f32, (i * i) as f32]).collect();
    let rows: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let head = RidgeHead::fit(&Samples { inputs: rows.clone(), targets: rows }, 1.0).unwrap();
    head.to_bytes("encoder@1", "minilm@1").unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn arbitrary_bytes_are_a_head_that_predicts_or_an_error(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        kept in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = head();
        for (place, byte) in edits {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(kept.index(bytes.len()));
        }
        let held = allocation_counter::measure(|| {
            if let Ok(head) = RidgeHead::from_bytes(&bytes) {
                let vector = head.predict(&vec![0.5; head.dims().0]).unwrap();
                assert_eq!(vector.len(), head.dims().1);
            }
        });
        prop_assert!(held.bytes_max < 1 << 20, "it used {} bytes", held.bytes_max);
    }

    #[test]
    fn arbitrary_bytes_are_a_picture_or_an_error(bytes in changed()) {
        let (held, said) = held(&bytes, &LIMITS);
        prop_assert!(held <= LIMITS.memory_bytes(), "it used {held} bytes; outcome: {said}");
    }
}
