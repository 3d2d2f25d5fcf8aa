//! Tests of invalid pictures: each kind is refused with its own code, and nothing is decoded before
//! its size is known.

use std::io::Cursor;

use image::codecs::png::PngEncoder;
use image::{DynamicImage, ImageEncoder, ImageFormat, RgbImage};
use unprompt_models::picture::{Limits, decode};

fn encoded(format: ImageFormat) -> Vec<u8> {
    let picture = RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 6) as u8, (y * 8) as u8, 90]));
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(picture).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn code(bytes: &[u8]) -> &'static str {
    decode(bytes, &Limits::default()).expect_err("it is refused").code()
}

const FORMATS: [ImageFormat; 3] = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP];

#[test]
fn the_three_formats_are_decoded() {
    for format in FORMATS {
        let picture = decode(&encoded(format), &Limits::default()).unwrap();
        assert_eq!(picture.dimensions(), (40, 30));
        let pixel = picture.get_pixel(20, 15).0;
        assert!(pixel.iter().zip([120u8, 120, 90]).all(|(a, b)| a.abs_diff(b) < 6), "{format:?} {pixel:?}");
    }
}

#[test]
fn the_memory_of_decoding_is_known_from_the_header_alone() {
    let limits = Limits::default();
    for format in FORMATS {
        let whole = encoded(format);
        // A PNG by its pixels, the others in whole blocks of 32 x 32.
        let pixels = if format == ImageFormat::Png { 40 * 30 } else { 64 * 32 };
        let pixels = pixels * 16..pixels * 16 + (1 << 20);
        let beside = 16 << 20;
        assert!(pixels.contains(&(limits.memory_bytes_of(&whole) - beside)), "{format:?}");
        assert_eq!(limits.memory_bytes_of(&whole[..14]), limits.memory_bytes(), "{format:?}");
    }
    assert_eq!(limits.memory_bytes_of(b"not a picture"), limits.memory_bytes());
}

#[test]
fn a_truncated_picture_is_refused_wherever_it_is_cut() {
    for format in FORMATS {
        let whole = encoded(format);
        for share in [0.3, 0.6, 0.9] {
            let part = &whole[..(whole.len() as f64 * share) as usize];
            assert!(["truncated-image", "broken-image"].contains(&code(part)), "{format:?} {share}");
        }
        assert_eq!(code(&whole[..whole.len() - 14]), "truncated-image", "{format:?}");
    }
}

#[test]
fn each_kind_of_invalid_picture_has_its_own_error_code() {
    assert_eq!(code(b""), "empty-image");
    assert_eq!(code(b"a prompt sent to the wrong topic"), "not-an-image");
    assert_eq!(code(b"\x89PNG\r\n\x1a\n"), "truncated-image");
    assert_eq!(code(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"), "unsupported-image-format");
    assert_eq!(
        code(b"GIF89a\x01\x00\x01\x00\x00\x00\x00!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"),
        "animated-image"
    );
    assert_eq!(code(b"\x00\x00\x00\x20ftypavif\x00\x00\x00\x00"), "unsupported-image-format");
    assert_eq!(code(b"RIFF\x0c\x00\x00\x00WEBPVP8 "), "truncated-image");
}

/// A PNG whose header gives a size but whose data has no pixels.
fn png_of(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR".to_vec();
    bytes.extend(width.to_be_bytes());
    bytes.extend(height.to_be_bytes());
    bytes.extend([8, 2, 0, 0, 0]);
    bytes.extend([0; 64]);
    bytes
}

#[test]
fn an_oversized_picture_is_refused_by_its_header_alone() {
    assert_eq!(code(&png_of(40_000, 40_000)), "too-many-pixels");
    assert_eq!(code(&png_of(u32::MAX, u32::MAX)), "too-many-pixels");
}

#[test]
fn a_decompression_bomb_is_refused() {
    // A flat picture of 8,000 x 8,000 is 192 MB decoded and about 200 kB encoded.
    let flat = vec![7u8; 8_000 * 8_000];
    let mut bomb = Vec::new();
    PngEncoder::new(&mut bomb).write_image(&flat, 8_000, 8_000, image::ExtendedColorType::L8).unwrap();
    assert!(bomb.len() < 1_000_000, "{}", bomb.len());
    assert_eq!(code(&bomb), "too-many-pixels");
}

#[test]
fn the_callers_limits_apply() {
    let bytes = encoded(ImageFormat::Png);
    let refused = |limits| decode(&bytes, &limits).unwrap_err().code();
    assert_eq!(refused(Limits { max_bytes: 10, max_pixels: 1_000_000 }), "image-too-large");
    assert_eq!(refused(Limits { max_bytes: 1_000_000, max_pixels: 1_199 }), "too-many-pixels");
    assert!(decode(&bytes, &Limits { max_bytes: bytes.len(), max_pixels: 1_200 }).is_ok());
}

/// Inserts a chunk after a PNG's header.
fn with_chunk(png: &[u8], name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut chunk = (data.len() as u32).to_be_bytes().to_vec();
    chunk.extend(name);
    chunk.extend(data);
    let crc = chunk[4..].iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1)))
    });
    chunk.extend((!crc).to_be_bytes());
    [&png[..33], &chunk, &png[33..]].concat()
}

#[test]
fn an_animated_png_is_refused() {
    let frames = [0, 0, 0, 2, 0, 0, 0, 0];
    assert_eq!(code(&with_chunk(&encoded(ImageFormat::Png), b"acTL", &frames)), "animated-image");
}

#[test]
fn an_animated_webp_is_refused() {
    // VP8X with the animation flag, 40 x 30, then ANIM.
    let mut body =
        b"WEBPVP8X\x0a\x00\x00\x00\x02\x00\x00\x00\x27\x00\x00\x1d\x00\x00ANIM\x06\x00\x00\x00".to_vec();
    body.extend([0; 6]);
    let frame = &encoded(ImageFormat::WebP)[12..];
    let mut data = vec![0; 6];
    data.extend([39, 0, 0, 29, 0, 0, 100, 0, 0, 0]);
    data.extend(frame);
    body.extend(b"ANMF");
    body.extend((data.len() as u32).to_le_bytes());
    body.extend(data);
    let file = [b"RIFF".as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat();
    assert_eq!(code(&file), "animated-image");
}

#[test]
fn the_exif_orientation_is_applied() {
    // A little-endian TIFF header with one entry: orientation (0x0112) 6, "rotate 90 degrees
    // clockwise".
    let exif =
        b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00";
    let turned = decode(&with_chunk(&encoded(ImageFormat::Png), b"eXIf", exif), &Limits::default()).unwrap();
    assert_eq!(turned.dimensions(), (30, 40));
    // The top left pixel of the file is now at the top right.
    assert_eq!(turned.get_pixel(29, 0).0, [0, 0, 90]);
}

#[test]
fn sixteen_bit_channels_keep_their_upper_eight_bits() {
    let wide =
        image::ImageBuffer::<image::Rgb<u16>, _>::from_pixel(2, 2, image::Rgb([0x1234, 0xffff, 0x00ff]));
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(wide).write_to(&mut bytes, ImageFormat::Png).unwrap();
    assert_eq!(decode(bytes.get_ref(), &Limits::default()).unwrap().get_pixel(0, 0).0, [0x12, 0xff, 0x00]);
}
