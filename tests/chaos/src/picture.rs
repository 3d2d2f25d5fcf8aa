//! The pictures of a run.

use std::io::Cursor;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage};

/// The size of the tiny world's pictures.
const SIDE: u32 = 64;
/// The long side of a thin picture.
const LENGTH: u32 = 1_000_000;

/// The picture of a number; no two numbers give the same one.
pub fn picture(number: usize) -> Vec<u8> {
    let [a, b, c, _] = (number as u32).to_le_bytes();
    let image = RgbImage::from_fn(SIDE, SIDE, |x, y| match (x + y) % 2 {
        0 => Rgb([a, b, c]),
        _ => Rgb([(x * 4) as u8, (y * 4) as u8, a.wrapping_mul(31)]),
    });
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png).expect("a PNG can be written to memory");
    png.into_inner()
}

/// A picture of a million pixels in one row or column, in some kilobytes: valid, and 12 GB if it
/// were resized before it is cropped.
pub fn thin(number: usize) -> Vec<u8> {
    let (width, height) = if number.is_multiple_of(2) { (1, LENGTH) } else { (LENGTH, 1) };
    let mut png = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Best, FilterType::NoFilter);
    let image = GrayImage::from_pixel(width, height, Luma([number as u8]));
    image.write_with_encoder(encoder).expect("a PNG can be written to memory");
    png
}

/// Changes the width in a PNG's header, with its checksum.
pub fn with_side(mut png: Vec<u8>, width: u32) -> Vec<u8> {
    png[16..20].copy_from_slice(&width.to_be_bytes());
    let mut sum = !0u32;
    for &byte in &png[12..29] {
        sum ^= u32::from(byte);
        (0..8).for_each(|_| sum = if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 });
    }
    png[29..33].copy_from_slice(&(!sum).to_be_bytes());
    png
}
