//! Decodes PNG, JPEG and WebP. Checks the number of bytes and the header's size before any pixel is
//! decoded.
//!
//! Colours equal those of Pillow's `convert("RGB")`: alpha is dropped, palettes are expanded, and
//! the upper 8 of 16 bits are used. Unlike in Pillow, the EXIF orientation is applied.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, RgbImage};

use super::webp_tables::table_bytes;

/// The limits on pictures, from the configuration's `[images]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Maximum size of the encoded picture.
    pub max_bytes: usize,
    /// Maximum width times height.
    pub max_pixels: u64,
}

/// Maximum bytes per pixel during decoding: four channels of 16 bits, twice.
const PIXEL_BYTES: u64 = 16;
/// Bytes besides the pixels: the decoders' tables and a colour profile.
const BESIDE_BYTES: u64 = 16 * 1024 * 1024;
/// The largest block that a decoder completes at the edges: a JPEG's of 4 x 4 samples of 8 x 8.
const BLOCK_PIXELS: u32 = 32;

impl Limits {
    /// Returns the maximum memory of decoding, besides the encoded picture. A picture whose
    /// decoding takes more is refused.
    pub fn memory_bytes(&self) -> u64 {
        // The JPEG decoder keeps a copy of the encoded picture.
        memory_bytes(self.max_pixels).saturating_add(self.max_bytes as u64)
    }

    /// Returns the maximum memory of decoding `bytes`, from the picture's header; if the header
    /// cannot be read, the memory of the largest permitted picture.
    pub fn memory_bytes_of(&self, bytes: &[u8]) -> u64 {
        let most = self.memory_bytes();
        let Some((width, height)) = dimensions(bytes) else { return most };
        let (block, tables) = match image::guess_format(bytes) {
            Ok(ImageFormat::Jpeg) => (BLOCK_PIXELS, 0),
            Ok(ImageFormat::WebP) => (BLOCK_PIXELS, table_bytes(bytes, most).unwrap_or(most)),
            _ => (1, 0),
        };
        let whole = |side: u32| u64::from(side.next_multiple_of(block));
        memory_bytes(whole(width).saturating_mul(whole(height)))
            .saturating_add(tables)
            .saturating_add(bytes.len() as u64)
    }
}

fn memory_bytes(pixels: u64) -> u64 {
    pixels.saturating_mul(PIXEL_BYTES).saturating_add(BESIDE_BYTES)
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 20 * 1024 * 1024, max_pixels: 50_000_000 }
    }
}

/// The reason why a picture is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    #[error("the record is empty: send the encoded picture as its value")]
    Empty,
    #[error("the picture has {bytes} bytes where {max_bytes} are allowed: compress it or make it smaller")]
    TooManyBytes { bytes: usize, max_bytes: usize },
    #[error(
        "the picture has {width} x {height} pixels where {max_pixels} in all are allowed: make it smaller"
    )]
    TooManyPixels { width: u32, height: u32, max_pixels: u64 },
    #[error("the picture has no pixels ({width} x {height}): send one with at least one pixel")]
    NoPixels { width: u32, height: u32 },
    #[error(
        "decoding the {format} takes at least {mib} MiB besides its pixels, and the limits allow {max_mib} MiB in all: save it again with another program"
    )]
    TooMuchMemory { format: &'static str, mib: u64, max_mib: u64 },
    #[error("the bytes are not a picture (they start with {start}): send a PNG, JPEG or WebP file")]
    NotAPicture { start: String },
    #[error("{format} is not supported: send the picture as PNG, JPEG or WebP")]
    UnsupportedFormat { format: &'static str },
    #[error("the {format} is animated: send one frame as a still picture")]
    Animated { format: &'static str },
    #[error("the {format} ends before its picture does: send the whole file")]
    Truncated { format: &'static str },
    #[error("the {format} cannot be decoded ({reason}): save it again with another program")]
    Broken { format: &'static str, reason: String },
    #[error(
        "the picture's decoder failed ({reason}): save it again with another program, and report it with the picture"
    )]
    DecoderFailed { reason: String },
}

impl PictureError {
    /// A stable code for dead letters and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty-image",
            Self::TooManyBytes { .. } => "image-too-large",
            Self::TooManyPixels { .. } => "too-many-pixels",
            Self::NotAPicture { .. } => "not-an-image",
            Self::UnsupportedFormat { .. } => "unsupported-image-format",
            Self::Animated { .. } => "animated-image",
            Self::Truncated { .. } => "truncated-image",
            Self::NoPixels { .. } => "broken-image",
            Self::TooMuchMemory { .. } => "too-much-memory",
            Self::Broken { .. } => "broken-image",
            Self::DecoderFailed { .. } => "decoder-failed",
        }
    }
}

/// Returns width and height from the picture's header, without decoding; `None` if the header
/// cannot be read.
fn dimensions(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?;
    reader.limits(allocation(0));
    catch_unwind(AssertUnwindSafe(|| reader.into_dimensions().ok())).ok()?
}

/// Decodes an encoded picture. A decoder that panics is that picture's error.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, PictureError> {
    if bytes.is_empty() {
        return Err(PictureError::Empty);
    }
    if bytes.len() > limits.max_bytes {
        return Err(PictureError::TooManyBytes { bytes: bytes.len(), max_bytes: limits.max_bytes });
    }
    or_failed(|| decode_by_format(bytes, limits))
}

/// Decodes, and turns a panic into an error.
fn or_failed(decode: impl FnOnce() -> Result<RgbImage, PictureError>) -> Result<RgbImage, PictureError> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|panic| {
        let reason = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let reason = reason.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(PictureError::DecoderFailed { reason: reason.unwrap_or_else(|| "it panicked".to_owned()) })
    })
}

fn decode_by_format(bytes: &[u8], limits: &Limits) -> Result<RgbImage, PictureError> {
    match image::guess_format(bytes) {
        Ok(ImageFormat::Png) => decode_png(bytes, limits),
        Ok(ImageFormat::Jpeg) => decode_jpeg(bytes, limits),
        Ok(ImageFormat::WebP) => decode_webp(bytes, limits),
        Ok(ImageFormat::Gif) if contains(bytes, b"NETSCAPE2.0") => {
            Err(PictureError::Animated { format: "GIF" })
        }
        Ok(other) => Err(PictureError::UnsupportedFormat { format: name_of(other) }),
        Err(_) => Err(not_a_picture(bytes)),
    }
}

fn decode_png(bytes: &[u8], limits: &Limits) -> Result<RgbImage, PictureError> {
    const FORMAT: &str = "PNG";
    // The header comes first in the file, so the size is known before the decoder reads the rest.
    let mut pixels = 0;
    if let Some(header) = bytes.get(16..24) {
        let side =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        pixels = check_pixels(side(0), side(4), limits)?;
    }
    let decoder =
        PngDecoder::with_limits(Cursor::new(bytes), allocation(pixels)).map_err(|e| failed(FORMAT, &e))?;
    if decoder.is_apng().map_err(|error| failed(FORMAT, &error))? {
        return Err(PictureError::Animated { format: FORMAT });
    }
    finish(decoder, FORMAT, limits)
}

fn decode_jpeg(bytes: &[u8], limits: &Limits) -> Result<RgbImage, PictureError> {
    const FORMAT: &str = "JPEG";
    let decoder = JpegDecoder::new(Cursor::new(bytes)).map_err(|error| failed(FORMAT, &error))?;
    let (width, height) = decoder.dimensions();
    check_pixels(width, height, limits)?;
    // The decoder fills missing parts with grey, so the end of the last scan must be checked here.
    let (scan, end) = (last(bytes, [0xff, 0xda]), last(bytes, [0xff, 0xd9]));
    if end.is_none() || end < scan {
        return Err(PictureError::Truncated { format: FORMAT });
    }
    finish(decoder, FORMAT, limits)
}

fn decode_webp(bytes: &[u8], limits: &Limits) -> Result<RgbImage, PictureError> {
    const FORMAT: &str = "WebP";
    let promised =
        bytes.get(4..8).map_or(u64::MAX, |b| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])) + 8);
    if promised > bytes.len() as u64 {
        return Err(PictureError::Truncated { format: FORMAT });
    }
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|error| failed(FORMAT, &error))?;
    if decoder.has_animation() {
        return Err(PictureError::Animated { format: FORMAT });
    }
    check_tables(bytes, FORMAT, limits)?;
    finish(decoder, FORMAT, limits)
}

/// Refuses a picture whose Huffman tables take more memory than the largest permitted picture.
fn check_tables(bytes: &[u8], format: &'static str, limits: &Limits) -> Result<(), PictureError> {
    const MIB: u64 = 1 << 20;
    let most = limits.memory_bytes();
    match table_bytes(bytes, most) {
        Some(tables) if tables > most => {
            Err(PictureError::TooMuchMemory { format, mib: tables.div_ceil(MIB), max_mib: most / MIB })
        }
        _ => Ok(()),
    }
}

fn finish(
    mut decoder: impl ImageDecoder,
    format: &'static str,
    limits: &Limits,
) -> Result<RgbImage, PictureError> {
    let (width, height) = decoder.dimensions();
    let pixels = check_pixels(width, height, limits)?;
    decoder.set_limits(allocation(pixels)).map_err(|error| failed(format, &error))?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| failed(format, &error))?;
    picture.apply_orientation(orientation);
    Ok(to_rgb(picture))
}

/// Returns the limits of a decoder's allocations.
fn allocation(pixels: u64) -> image::Limits {
    let mut allocation = image::Limits::default();
    allocation.max_alloc = Some(memory_bytes(pixels));
    allocation
}

fn check_pixels(width: u32, height: u32, limits: &Limits) -> Result<u64, PictureError> {
    let max_pixels = limits.max_pixels;
    match u64::from(width) * u64::from(height) {
        0 => Err(PictureError::NoPixels { width, height }),
        pixels if pixels > max_pixels => Err(PictureError::TooManyPixels { width, height, max_pixels }),
        pixels => Ok(pixels),
    }
}

fn to_rgb(picture: DynamicImage) -> RgbImage {
    match picture {
        DynamicImage::ImageRgb8(picture) => picture,
        DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_)
        | DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_) => {
            let wide = picture.to_rgb16();
            RgbImage::from_fn(wide.width(), wide.height(), |x, y| {
                image::Rgb(wide.get_pixel(x, y).0.map(|value| (value >> 8) as u8))
            })
        }
        other => other.to_rgb8(),
    }
}

fn failed(format: &'static str, error: &ImageError) -> PictureError {
    let reason = error.to_string().trim_end().replace('\n', " ");
    let ends_early =
        |text: &str| ["unexpected end", "eof", "truncat", "exhausted"].iter().any(|t| text.contains(t));
    match error {
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            PictureError::Truncated { format }
        }
        _ if ends_early(&reason.to_lowercase()) => PictureError::Truncated { format },
        _ => PictureError::Broken { format, reason },
    }
}

fn not_a_picture(bytes: &[u8]) -> PictureError {
    match bytes.get(4..12) {
        Some(b"ftypavif") => PictureError::UnsupportedFormat { format: "AVIF" },
        Some(b"ftypheic" | b"ftypheix" | b"ftypmif1") => PictureError::UnsupportedFormat { format: "HEIC" },
        _ => PictureError::NotAPicture { start: bytes[..bytes.len().min(16)].escape_ascii().to_string() },
    }
}

fn name_of(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Gif => "GIF",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Tiff => "TIFF",
        ImageFormat::Avif => "AVIF",
        ImageFormat::Ico => "ICO",
        _ => "this picture format",
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn last(bytes: &[u8], marker: [u8; 2]) -> Option<usize> {
    bytes.windows(2).rposition(|window| window == marker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_panic_becomes_an_error() {
        let formatted = or_failed(|| panic!("row {} is missing", 7)).unwrap_err();
        assert_eq!(formatted.code(), "decoder-failed");
        assert!(formatted.to_string().contains("row 7 is missing"), "{formatted}");
        let plain = or_failed(|| panic!("no rows")).unwrap_err();
        assert!(plain.to_string().contains("no rows"), "{plain}");
        assert_eq!(or_failed(|| Err(PictureError::Empty)), Err(PictureError::Empty));
    }
}
