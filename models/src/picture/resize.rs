//! Pillow's `Image.resize` for 8-bit pictures, bit for bit: antialiased, in fixed point, columns
//! first, with both passes rounded to 8 bits (Pillow, src/libImaging/Resample.c). If the result is
//! cropped, only the remaining part is computed.

use std::borrow::Cow;
use std::ops::Range;

use image::RgbImage;

/// Pillow's resampling filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    Lanczos,
    Bilinear,
    Bicubic,
    Box,
}

impl Filter {
    /// Returns the filter with Pillow's number, as in preprocessor_config.json.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Lanczos),
            2 => Some(Self::Bilinear),
            3 => Some(Self::Bicubic),
            4 => Some(Self::Box),
            _ => None,
        }
    }

    fn support(self) -> f64 {
        match self {
            Self::Lanczos => 3.0,
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Box => 0.5,
        }
    }

    fn at(self, x: f64) -> f64 {
        let z = x.abs();
        match self {
            Self::Lanczos if z < 3.0 => sinc(x) * sinc(x / 3.0),
            Self::Bilinear if z < 1.0 => 1.0 - z,
            Self::Bicubic if z < 1.0 => (1.5 * z - 2.5) * z * z + 1.0,
            Self::Bicubic if z < 2.0 => ((-0.5 * z + 2.5) * z - 4.0) * z + 2.0,
            Self::Box if x > -0.5 && x <= 0.5 => 1.0,
            _ => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}

/// Pillow's PRECISION_BITS.
const BITS: u32 = 32 - 8 - 2;
/// The number of weights that are kept at once for the columns: 4 MiB.
const WEIGHTS_AT_ONCE: usize = 1 << 20;

/// The source pixels of one target pixel: the first one, and their weights in fixed point.
struct Taps {
    begin: usize,
    weights: Vec<i32>,
}

impl Taps {
    /// Returns the index after the last source pixel.
    fn end(&self) -> usize {
        self.begin + self.weights.len()
    }
}

/// One side of a resize: its length before and after, and the part of the result that is wanted.
#[derive(Debug, Clone)]
pub(super) struct Side {
    pub from: usize,
    pub to: usize,
    /// Target pixels, within `0..to`.
    pub part: Range<usize>,
}

impl Side {
    /// The whole side.
    pub fn whole(from: usize, to: usize) -> Self {
        Self { from, to, part: 0..to }
    }

    /// Returns the source pixels and weights of each target pixel in `part`. The weights are
    /// computed lazily, because together they can take many times the memory of the picture.
    fn taps(&self, filter: Filter) -> impl Iterator<Item = Taps> {
        let (from, scale) = (self.from, self.from as f64 / self.to as f64);
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        self.part.clone().map(move |k| {
            let centre = (k as f64 + 0.5) * scale;
            let begin = ((centre - support + 0.5) as i64).max(0) as usize;
            let end = ((centre + support + 0.5) as i64).clamp(0, from as i64) as usize;
            let raw: Vec<f64> =
                (begin..end).map(|x| filter.at((x as f64 - centre + 0.5) * (1.0 / stretch))).collect();
            let sum: f64 = raw.iter().sum();
            let sum = if sum == 0.0 { 1.0 } else { sum };
            Taps { begin, weights: raw.iter().map(|weight| fixed(weight / sum)).collect() }
        })
    }

    /// Returns the source pixels that the part is computed from.
    fn source(&self, filter: Filter) -> Range<usize> {
        if self.from == self.to {
            return self.part.clone();
        }
        let edge = |k: usize| Self { part: k..k + 1, ..self.clone() }.taps(filter).next();
        let (first, last) = (edge(self.part.start), edge(self.part.end.saturating_sub(1)));
        first.map_or(0, |taps| taps.begin)..last.map_or(0, |taps| taps.end())
    }
}

fn fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1u32 << BITS);
    (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

fn to_u8(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Resizes a picture to a height and width with the Lanczos filter.
pub(crate) fn resize_to(picture: &RgbImage, (height, width): (usize, usize)) -> RgbImage {
    let columns = Side::whole(picture.width() as usize, width);
    let rows = Side::whole(picture.height() as usize, height);
    resize(picture, &columns, &rows, Filter::Lanczos).into_owned()
}

/// Resizes a picture and returns the wanted part of the result. Only that part is computed, so that
/// time and memory depend on the picture and the part, and not on the size of the whole result.
pub(super) fn resize<'a>(
    picture: &'a RgbImage,
    columns: &Side,
    rows: &Side,
    filter: Filter,
) -> Cow<'a, RgbImage> {
    let whole = columns.part == (0..columns.from) && rows.part == (0..rows.from);
    if columns.from == columns.to && rows.from == rows.to && whole {
        return Cow::Borrowed(picture);
    }
    let source = rows.source(filter);
    let line = columns.from * 3;
    let lines = &picture.as_raw()[source.start * line..source.end * line];
    let narrow = resize_columns(lines, columns, filter);
    let values = match rows.from == rows.to {
        true => narrow,
        false => resize_rows(&narrow, columns.part.len(), source.start, rows, filter),
    };
    Cow::Owned(build(columns.part.len(), rows.part.len(), values))
}

/// Resizes every line of a picture that is `columns.from` pixels wide.
fn resize_columns(lines: &[u8], columns: &Side, filter: Filter) -> Vec<u8> {
    let (line, width) = (columns.from * 3, columns.part.len());
    if columns.from == columns.to {
        let part = columns.part.start * 3..columns.part.end * 3;
        return lines.chunks_exact(line).flat_map(|row| &row[part.clone()]).copied().collect();
    }
    let mut out = vec![0; lines.len() / line * width * 3];
    let (mut taps, mut first) = (columns.taps(filter).peekable(), 0);
    while taps.peek().is_some() {
        // A picture of millions of columns has more weights than pixels.
        let mut weights = 0;
        let block: Vec<Taps> = std::iter::from_fn(|| {
            taps.next_if(|next| {
                weights += next.weights.len();
                weights <= WEIGHTS_AT_ONCE || weights == next.weights.len()
            })
        })
        .collect();
        for (row, out) in lines.chunks_exact(line).zip(out.chunks_exact_mut(width * 3)) {
            for (tap, pixel) in block.iter().zip(out[first * 3..].chunks_exact_mut(3)) {
                let mut sums = [1i32 << (BITS - 1); 3];
                for (weight, from) in tap.weights.iter().zip(row[tap.begin * 3..].chunks_exact(3)) {
                    (0..3).for_each(|c| add(&mut sums[c], *weight, from[c]));
                }
                pixel.copy_from_slice(&sums.map(to_u8));
            }
        }
        first += block.len();
    }
    out
}

/// Resizes a picture in height. `lines` are `width` pixels wide; the first is the row `top` of the
/// source.
fn resize_rows(lines: &[u8], width: usize, top: usize, rows: &Side, filter: Filter) -> Vec<u8> {
    let line = width * 3;
    let mut out = Vec::with_capacity(line * rows.part.len());
    let mut sums = vec![0i32; line];
    for tap in rows.taps(filter) {
        sums.fill(1 << (BITS - 1));
        let source = lines[(tap.begin - top) * line..].chunks_exact(line);
        for (weight, row) in tap.weights.iter().zip(source) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| add(sum, *weight, *value));
        }
        out.extend(sums.iter().map(|&sum| to_u8(sum)));
    }
    out
}

/// Adds a weighted level. Like Pillow's, the sum of millions of rounded weights is not checked for
/// overflow.
fn add(sum: &mut i32, weight: i32, level: u8) {
    *sum = sum.wrapping_add(weight.wrapping_mul(i32::from(level)));
}

fn build(width: usize, height: usize, values: Vec<u8>) -> RgbImage {
    RgbImage::from_raw(width as u32, height as u32, values).expect("every pixel was written")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resized(picture: &RgbImage, width: usize, height: usize, filter: Filter) -> RgbImage {
        let (columns, rows) = sides(picture, width, height);
        resize(picture, &columns, &rows, filter).into_owned()
    }

    fn sides(picture: &RgbImage, width: usize, height: usize) -> (Side, Side) {
        (Side::whole(picture.width() as usize, width), Side::whole(picture.height() as usize, height))
    }

    fn noise(width: u32, height: u32) -> RgbImage {
        let mut state = 1u32;
        RgbImage::from_fn(width, height, |_, _| {
            image::Rgb(std::array::from_fn(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            }))
        })
    }

    #[test]
    fn a_part_equals_that_part_of_the_whole() {
        let picture = noise(41, 29);
        for filter in [Filter::Lanczos, Filter::Bilinear, Filter::Bicubic, Filter::Box] {
            for (width, height) in [(97, 64), (13, 9), (41, 64), (97, 29), (41, 29), (3, 200)] {
                let whole = resized(&picture, width, height, filter);
                for (left, top) in [(0, 0), (width / 3, height / 2), (width - 1, height - 1)] {
                    let (mut columns, mut rows) = sides(&picture, width, height);
                    columns.part = left..(left + 5).min(width);
                    rows.part = top..(top + 7).min(height);
                    let part = resize(&picture, &columns, &rows, filter).into_owned();
                    let (w, h) = (columns.part.len() as u32, rows.part.len() as u32);
                    let wanted = image::imageops::crop_imm(&whole, left as u32, top as u32, w, h).to_image();
                    assert_eq!(part, wanted, "{filter:?} {width} x {height} at {left}, {top}");
                }
            }
        }
    }

    #[test]
    fn a_wide_picture_is_resized_in_blocks_of_columns() {
        // 4 weights for each of the 600,000 columns: three blocks.
        let picture = noise(600_000, 1);
        let narrow = resized(&picture, 3, 1, Filter::Bicubic);
        let row: RgbImage = resized(&picture, 600_000, 1, Filter::Bicubic);
        assert_eq!(row, picture);
        let mean = |at: u32| {
            let part = image::imageops::crop_imm(&picture, at * 200_000, 0, 200_000, 1).to_image();
            part.pixels().map(|pixel| f64::from(pixel.0[0])).sum::<f64>() / 200_000.0
        };
        for at in 0..3 {
            let level = f64::from(narrow.get_pixel(at, 0).0[0]);
            assert!((level - mean(at)).abs() < 3.0, "{level} where the mean is {}", mean(at));
        }
    }

    #[test]
    fn a_flat_picture_stays_flat_at_any_size() {
        let flat = RgbImage::from_pixel(37, 23, image::Rgb([17, 130, 255]));
        for filter in [Filter::Lanczos, Filter::Bilinear, Filter::Bicubic, Filter::Box] {
            for (width, height) in [(224, 224), (5, 7), (37, 1), (1, 23)] {
                let resized = resized(&flat, width, height, filter);
                assert_eq!(resized.dimensions(), (width as u32, height as u32));
                assert!(resized.pixels().all(|pixel| pixel.0 == [17, 130, 255]), "{filter:?}");
            }
        }
    }

    #[test]
    fn halving_with_the_box_filter_is_the_mean() {
        let picture = RgbImage::from_fn(4, 2, |x, y| image::Rgb([(x * 10 + y * 100) as u8; 3]));
        let half = resized(&picture, 2, 1, Filter::Box);
        assert_eq!((half.get_pixel(0, 0).0[0], half.get_pixel(1, 0).0[0]), (55, 75));
    }
}
