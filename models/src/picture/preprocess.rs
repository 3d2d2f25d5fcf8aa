//! Preprocessing of pictures: resize, centre crop, rescale, normalise. It follows transformers'
//! CLIPImageProcessor and BlipImageProcessor (on Pillow) by preprocessor_config.json, and
//! open_clip's torchvision transforms by its preprocess_cfg.

use std::ops::Range;
use std::path::Path;

use image::RgbImage;
use serde::Deserialize;

use super::resize::{Filter, Side, resize};
use crate::{ModelError, files};

/// A picture as the input of a vision network: [height, width, 3], normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    pub values: Vec<f32>,
    pub height: usize,
    pub width: usize,
}

/// The steps of a picture's preprocessing.
#[derive(Debug, Clone)]
pub struct Preprocessor {
    resize: Option<(Size, Filter)>,
    crop: Option<(usize, usize)>,
    rounding: Rounding,
    rescale: f64,
    mean: [f32; 3],
    std: [f32; 3],
}

/// The rounding of the crop's offset if an odd number of pixels is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rounding {
    /// transformers
    Down,
    /// torchvision, which uses Python's `round`
    HalfEven,
}

/// open_clip's preprocess_cfg.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct TorchvisionSettings {
    mean: [f32; 3],
    std: [f32; 3],
    interpolation: String,
    resize_mode: String,
}

impl Default for TorchvisionSettings {
    fn default() -> Self {
        let Settings { image_mean: mean, image_std: std, .. } = Settings::default();
        Self { mean, std, interpolation: "bicubic".to_owned(), resize_mode: "shortest".to_owned() }
    }
}

/// A size in the file: a number, a shortest edge, or both sides.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Size {
    Number(usize),
    ShortestEdge { shortest_edge: usize },
    Sides { height: usize, width: usize },
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Settings {
    do_resize: bool,
    size: Size,
    resample: u8,
    do_center_crop: Option<bool>,
    crop_size: Size,
    do_rescale: bool,
    rescale_factor: f64,
    do_normalize: bool,
    image_mean: [f32; 3],
    image_std: [f32; 3],
    image_processor_type: Option<String>,
}

/// CLIPImageProcessor's defaults.
impl Default for Settings {
    fn default() -> Self {
        Self {
            do_resize: true,
            size: Size::ShortestEdge { shortest_edge: 224 },
            resample: 3,
            do_center_crop: None,
            crop_size: Size::Number(224),
            do_rescale: true,
            rescale_factor: 1.0 / 255.0,
            do_normalize: true,
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
            image_processor_type: None,
        }
    }
}

impl Preprocessor {
    /// Reads preprocessor_config.json.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let settings: Settings = files::read_settings(path)?;
        let filter = Filter::from_number(settings.resample).ok_or_else(|| {
            ModelError::unsupported(path, format!("the resampling filter {}", settings.resample))
        })?;
        // BlipImageProcessor does not crop.
        let blip = settings.image_processor_type.is_some_and(|name| name.starts_with("Blip"));
        let crops = settings.do_center_crop.unwrap_or(true) && !blip;
        Ok(Self {
            resize: settings.do_resize.then_some((settings.size, filter)),
            crop: crops.then_some(sides(settings.crop_size)),
            rounding: Rounding::Down,
            rescale: if settings.do_rescale { settings.rescale_factor } else { 1.0 },
            mean: if settings.do_normalize { settings.image_mean } else { [0.0; 3] },
            std: if settings.do_normalize { settings.image_std } else { [1.0; 3] },
        })
    }

    /// Returns the steps of an open_clip_config.json for pictures of `side` pixels.
    pub(crate) fn torchvision(
        path: &Path,
        settings: &TorchvisionSettings,
        side: usize,
    ) -> Result<Self, ModelError> {
        let filter = match settings.interpolation.as_str() {
            "bicubic" => Filter::Bicubic,
            "bilinear" => Filter::Bilinear,
            other => return Err(ModelError::unsupported(path, format!("interpolation = {other}"))),
        };
        let size = match settings.resize_mode.as_str() {
            "shortest" => Size::ShortestEdge { shortest_edge: side },
            "squash" => Size::Sides { height: side, width: side },
            other => return Err(ModelError::unsupported(path, format!("resize_mode = {other}"))),
        };
        Ok(Self {
            resize: Some((size, filter)),
            crop: Some((side, side)),
            rounding: Rounding::HalfEven,
            rescale: 1.0 / 255.0,
            mean: settings.mean,
            std: settings.std,
        })
    }

    /// Returns the same steps for pictures of another side.
    pub(crate) fn with_side(self, side: usize) -> Self {
        let to = |size| match size {
            Size::Sides { .. } => Size::Sides { height: side, width: side },
            Size::Number(_) | Size::ShortestEdge { .. } => Size::ShortestEdge { shortest_edge: side },
        };
        let resize = self.resize.map(|(size, filter)| (to(size), filter));
        Self { resize, crop: self.crop.map(|_| (side, side)), ..self }
    }

    /// The height and width of every preprocessed picture; `None` if they depend on the picture.
    pub(crate) fn sides(&self) -> Option<(usize, usize)> {
        match (self.crop, self.resize) {
            (Some(crop), _) => Some(crop),
            (None, Some((size @ Size::Sides { .. }, _))) => Some(sides(size)),
            _ => None,
        }
    }

    /// Runs all steps.
    pub fn run(&self, picture: &RgbImage) -> Pixels {
        let cropped = self.resize_and_crop(picture);
        let (width, height) = (cropped.width() as usize, cropped.height() as usize);
        let table: Vec<[f32; 256]> = (0..3).map(|channel| self.levels(channel)).collect();
        let values =
            cropped.as_raw().iter().enumerate().map(|(k, &value)| table[k % 3][usize::from(value)]).collect();
        Pixels { values, height, width }
    }

    /// Returns the value of each of the 256 levels of a channel.
    fn levels(&self, channel: usize) -> [f32; 256] {
        let (mean, std) = (self.mean[channel], self.std[channel]);
        std::array::from_fn(|level| ((level as f64 * self.rescale) as f32 - mean) / std)
    }

    /// Runs the steps before the levels are changed. The result equals that of resizing first and
    /// then cropping, but only the pixels that the crop keeps are computed.
    pub fn resize_and_crop(&self, picture: &RgbImage) -> RgbImage {
        let from = (picture.height() as usize, picture.width() as usize);
        let to = self.resize.map_or(from, |(size, _)| target(size, from.0, from.1));
        let filter = self.resize.map_or(Filter::Box, |(_, filter)| filter);
        let crop = self.crop.unwrap_or(to);
        let rows = Cut::middle(to.0, crop.0, self.rounding);
        let columns = Cut::middle(to.1, crop.1, self.rounding);
        let kept = resize(
            picture,
            &Side { from: from.1, to: to.1, part: columns.part.clone() },
            &Side { from: from.0, to: to.0, part: rows.part.clone() },
            filter,
        );
        pad(kept.into_owned(), &rows, &columns)
    }
}

/// The part of one side that a centre crop keeps, and the side after the crop.
#[derive(Debug, Clone)]
struct Cut {
    part: Range<usize>,
    /// Black pixels before the part, for a crop that is larger than the picture.
    before: usize,
    side: usize,
}

impl Cut {
    fn middle(from: usize, side: usize, rounding: Rounding) -> Self {
        if side > from {
            return Self { part: 0..from, before: (side - from).div_ceil(2), side };
        }
        let start = match rounding {
            Rounding::HalfEven => ((from - side) as f64 / 2.0).round_ties_even() as usize,
            Rounding::Down => (from - side) / 2,
        };
        Self { part: start..start + side, before: 0, side }
    }
}

/// Pads the kept part with black.
fn pad(kept: RgbImage, rows: &Cut, columns: &Cut) -> RgbImage {
    if (kept.height() as usize, kept.width() as usize) == (rows.side, columns.side) {
        return kept;
    }
    let mut padded = RgbImage::new(columns.side as u32, rows.side as u32);
    image::imageops::replace(&mut padded, &kept, columns.before as i64, rows.before as i64);
    padded
}

fn sides(size: Size) -> (usize, usize) {
    match size {
        Size::Number(side) | Size::ShortestEdge { shortest_edge: side } => (side, side),
        Size::Sides { height, width } => (height, width),
    }
}

/// Returns the height and width after the resize. A shortest edge keeps the proportions, rounded
/// down.
fn target(size: Size, height: usize, width: usize) -> (usize, usize) {
    let (Size::Number(edge) | Size::ShortestEdge { shortest_edge: edge }) = size else { return sides(size) };
    let long = |long: usize, short: usize| (edge as u64 * long as u64 / short.max(1) as u64) as usize;
    if width <= height { (long(height, width), edge) } else { (edge, long(width, height)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preprocessor(json: &str) -> Result<Preprocessor, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("preprocessor_config.json");
        std::fs::write(&path, json).unwrap();
        Preprocessor::load(&path)
    }

    #[test]
    fn the_shortest_edge_keeps_the_proportions() {
        assert_eq!(target(Size::ShortestEdge { shortest_edge: 224 }, 480, 641), (224, 299));
        assert_eq!(target(Size::Number(64), 641, 480), (85, 64));
        assert_eq!(target(Size::Sides { height: 5, width: 9 }, 641, 480), (5, 9));
    }

    fn centre_crop(picture: &RgbImage, height: usize, width: usize, rounding: Rounding) -> RgbImage {
        let crop = Some((height, width));
        let steps =
            Preprocessor { resize: None, crop, rounding, rescale: 1.0, mean: [0.0; 3], std: [1.0; 3] };
        steps.resize_and_crop(picture)
    }

    #[test]
    fn a_thin_picture_is_cropped_without_resizing_all_of_it() {
        // Resized first, its longest side would have 64,000,000 pixels.
        let steps = preprocessor(r#"{"size": 64, "crop_size": 64}"#).unwrap();
        for (width, height) in [(1, 1_000_000), (1_000_000, 1)] {
            let grey = RgbImage::from_pixel(width, height, image::Rgb([7, 80, 250]));
            let cropped = steps.resize_and_crop(&grey);
            assert_eq!(cropped, RgbImage::from_pixel(64, 64, image::Rgb([7, 80, 250])));
        }
    }

    #[test]
    fn the_crop_is_the_middle_and_pads_with_black() {
        let picture = RgbImage::from_fn(4, 2, |x, _| image::Rgb([10 * x as u8 + 10; 3]));
        let cropped = centre_crop(&picture, 4, 2, Rounding::Down);
        let reds: Vec<u8> = cropped.pixels().map(|pixel| pixel.0[0]).collect();
        assert_eq!(reds, [0, 0, 20, 30, 20, 30, 0, 0]);
    }

    #[test]
    fn torchvision_rounds_a_half_crop_offset_to_even() {
        let picture = RgbImage::from_fn(7, 1, |x, _| image::Rgb([x as u8; 3]));
        let first = |width, rounding| centre_crop(&picture, 1, width, rounding).get_pixel(0, 0).0[0];
        assert_eq!((first(6, Rounding::Down), first(6, Rounding::HalfEven)), (0, 0));
        assert_eq!((first(4, Rounding::Down), first(4, Rounding::HalfEven)), (1, 2));
    }

    #[test]
    fn another_side_is_used_with_and_without_a_crop() {
        let picture = RgbImage::from_fn(50, 41, |x, y| image::Rgb([(x * 5) as u8, (y * 6) as u8, 7]));
        let blip = r#"{"image_processor_type": "BlipImageProcessor", "size": {"height": 300, "width": 280}}"#;
        let blip = preprocessor(blip).unwrap();
        let pixels = blip.run(&picture);
        assert_eq!((pixels.height, pixels.width), (300, 280));
        let pixels = blip.with_side(42).run(&picture);
        assert_eq!((pixels.height, pixels.width), (42, 42));
        let clip = preprocessor(r#"{"size": 32, "crop_size": 30}"#).unwrap().with_side(24).run(&picture);
        assert_eq!((clip.height, clip.width), (24, 24));
    }

    #[test]
    fn every_way_of_writing_sizes_is_read() {
        let old = preprocessor(r#"{"size": 32, "crop_size": 30, "resample": 3}"#).unwrap();
        let new = preprocessor(
            r#"{"size": {"shortest_edge": 32}, "crop_size": {"height": 30, "width": 30}, "image_processor_type": "x"}"#,
        );
        let picture = RgbImage::from_fn(50, 41, |x, y| image::Rgb([(x * 5) as u8, (y * 6) as u8, 7]));
        let (old, new) = (old.run(&picture), new.unwrap().run(&picture));
        assert_eq!((old.height, old.width), (30, 30));
        assert_eq!(old, new);
        assert!(matches!(preprocessor(r#"{"resample": 0}"#), Err(ModelError::Unsupported { .. })));
    }

    #[test]
    fn levels_are_rescaled_and_normalised() {
        let plain = preprocessor(
            r#"{"do_resize": false, "do_center_crop": false, "image_mean": [0, 0.5, 0],
            "image_std": [1, 0.5, 1]}"#,
        );
        let pixels = plain.unwrap().run(&RgbImage::from_pixel(1, 1, image::Rgb([255, 0, 51])));
        assert_eq!(pixels.values, [1.0, -1.0, 0.2]);
    }
}
