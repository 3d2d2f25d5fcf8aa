//! Pictures: PNG, JPEG and WebP.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, RgbImage};
use unprompt_models::picture::{Limits, decode};

use crate::Target;

const LIMITS: Limits = Limits { max_bytes: 1 << 20, max_pixels: 256 * 256 };

/// A value of images.v1.
pub const PICTURE: Target = Target {
    name: "picture",
    run: |input| match decode(input, &LIMITS) {
        Ok(picture) => {
            let pixels = u64::from(picture.width()) * u64::from(picture.height());
            assert!(pixels > 0 && pixels <= LIMITS.max_pixels, "a picture of {pixels} pixels came through");
        }
        Err(error) => {
            assert!(!error.code().is_empty() && !error.to_string().is_empty());
            assert_ne!(error.code(), "decoder-failed", "{error}");
        }
    },
    seeds,
    memory_bytes: |_| LIMITS.memory_bytes(),
};

fn seeds() -> Vec<Vec<u8>> {
    let small = RgbImage::from_fn(24, 16, |x, y| image::Rgb([(x * 10) as u8, (y * 15) as u8, 90]));
    let small = DynamicImage::from(small);
    let encoded = |picture: DynamicImage, format| {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).expect("a picture is encoded");
        bytes.into_inner()
    };
    let mut seeds = vec![
        encoded(small.clone(), ImageFormat::Jpeg),
        encoded(small.clone(), ImageFormat::WebP),
        encoded(DynamicImage::from(small.to_luma_alpha8()), ImageFormat::Png),
        encoded(DynamicImage::from(small.to_rgba16()), ImageFormat::Png),
        encoded(small, ImageFormat::Png),
    ];
    let real: [&[u8]; 4] = [
        include_bytes!("../../../../models/tests/reference/pictures/cmyk.jpg"),
        include_bytes!("../../../../models/tests/reference/pictures/palette.png"),
        include_bytes!("../../../../models/tests/reference/pictures/photo.jpg"),
        include_bytes!("../../../../models/tests/reference/pictures/tiny.png"),
    ];
    seeds.extend(real.map(<[u8]>::to_vec));
    seeds
}
