//! Pillow's `Image.resize` for 8-bit pictures, bit for bit: antialiased, in fixed point, columns
//! first, with both passes rounded to 8 bits (Pillow, src/libImaging/Resample.c).

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

/// The source pixels of one target pixel: the first one, and their weights in fixed point.
struct Taps {
    begin: usize,
    weights: Vec<i32>,
}

fn taps(from: usize, to: usize, filter: Filter) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    (0..to)
        .map(|k| {
            let centre = (k as f64 + 0.5) * scale;
            let begin = ((centre - support + 0.5) as i64).max(0) as usize;
            let end = ((centre + support + 0.5) as i64).clamp(0, from as i64) as usize;
            let raw: Vec<f64> =
                (begin..end).map(|x| filter.at((x as f64 - centre + 0.5) * (1.0 / stretch))).collect();
            let sum: f64 = raw.iter().sum();
            let sum = if sum == 0.0 { 1.0 } else { sum };
            Taps { begin, weights: raw.iter().map(|weight| fixed(weight / sum)).collect() }
        })
        .collect()
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
    resize(picture, width, height, Filter::Lanczos)
}

/// Resizes a picture.
pub(super) fn resize(picture: &RgbImage, width: usize, height: usize, filter: Filter) -> RgbImage {
    let mut resized = picture.clone();
    if width != picture.width() as usize {
        resized = columns(&resized, width, filter);
    }
    if height != picture.height() as usize {
        resized = rows(&resized, height, filter);
    }
    resized
}

fn columns(picture: &RgbImage, width: usize, filter: Filter) -> RgbImage {
    let (from, height) = (picture.width() as usize, picture.height() as usize);
    let taps = taps(from, width, filter);
    let mut out = Vec::with_capacity(width * height * 3);
    for row in picture.as_raw().chunks_exact(from * 3) {
        for tap in &taps {
            let mut sums = [1i32 << (BITS - 1); 3];
            for (weight, pixel) in tap.weights.iter().zip(row[tap.begin * 3..].chunks_exact(3)) {
                (0..3).for_each(|c| sums[c] += weight * i32::from(pixel[c]));
            }
            out.extend(sums.map(to_u8));
        }
    }
    build(width, height, out)
}

fn rows(picture: &RgbImage, height: usize, filter: Filter) -> RgbImage {
    let (width, from) = (picture.width() as usize, picture.height() as usize);
    let line = width * 3;
    let mut out = Vec::with_capacity(line * height);
    let mut sums = vec![0i32; line];
    for tap in taps(from, height, filter) {
        sums.fill(1 << (BITS - 1));
        let source = picture.as_raw()[tap.begin * line..].chunks_exact(line);
        for (weight, row) in tap.weights.iter().zip(source) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * i32::from(*value));
        }
        out.extend(sums.iter().map(|&sum| to_u8(sum)));
    }
    build(width, height, out)
}

fn build(width: usize, height: usize, values: Vec<u8>) -> RgbImage {
    RgbImage::from_raw(width as u32, height as u32, values).expect("every pixel was written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_picture_stays_flat_at_any_size() {
        let flat = RgbImage::from_pixel(37, 23, image::Rgb([17, 130, 255]));
        for filter in [Filter::Lanczos, Filter::Bilinear, Filter::Bicubic, Filter::Box] {
            for (width, height) in [(224, 224), (5, 7), (37, 1), (1, 23)] {
                let resized = resize(&flat, width, height, filter);
                assert_eq!(resized.dimensions(), (width as u32, height as u32));
                assert!(resized.pixels().all(|pixel| pixel.0 == [17, 130, 255]), "{filter:?}");
            }
        }
    }

    #[test]
    fn halving_with_the_box_filter_is_the_mean() {
        let picture = RgbImage::from_fn(4, 2, |x, y| image::Rgb([(x * 10 + y * 100) as u8; 3]));
        let half = resize(&picture, 2, 1, Filter::Box);
        assert_eq!((half.get_pixel(0, 0).0[0], half.get_pixel(1, 0).0[0]), (55, 75));
    }
}
