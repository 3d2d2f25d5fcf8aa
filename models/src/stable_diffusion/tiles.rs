//! Decoding in overlapping tiles, as diffusers' `AutoencoderKL.tiled_decode` does after
//! `enable_tiling()`.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use super::config::VaeConfig;
use crate::ModelError;
use crate::named::named;

/// The choice of decoding in tiles. Tiles take less memory, but each tile is normalised on
/// its own, so colours may differ a little between them. The choice depends on the picture's size
/// and the model, never on the batch or the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(try_from = "String", into = "&'static str")]
#[derive(Display, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case", parse_err_ty = ModelError, parse_err_fn = Self::unknown)]
pub enum VaeTiles {
    /// Tiles if the whole picture would take more than [`VaeTiles::WHOLE_BYTES`].
    #[default]
    Auto,
    /// Tiles if the picture is larger than a tile, like diffusers' `enable_tiling()`.
    Always,
    Never,
}

impl VaeTiles {
    /// The memory limit of a whole picture's activations with `auto`: 4 GiB, which is 1182 x 1182
    /// pixels of SD2.
    ///
    /// The estimate is that of the largest layer: the last block's first resnet, at full
    /// resolution. It holds its input, the normalised input and two hidden pictures, that is
    /// 2 * height * width * (`block_out_channels[1]` + `block_out_channels[0]`) values of 4 bytes,
    /// in any precision.
    pub const WHOLE_BYTES: usize = 4 << 30;
}

named!(VaeTiles, "vae_tiles");

/// The tiles of a decoder. They overlap by a quarter (`tile_overlap_factor`), in whole latents. If
/// a quarter is less than a latent, diffusers makes pictures whose size does not match the latents.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiling {
    /// The side of a tile in latents (`tile_latent_min_size`).
    side: usize,
    /// The distance in latents from the start of a tile to the start of the next.
    stride: usize,
    /// The side of a latent in pixels.
    scale: usize,
    /// Bytes of activations per pixel of a whole picture.
    pixel_bytes: usize,
}

impl Tiling {
    pub(super) fn of(config: &VaeConfig) -> Self {
        let (scale, channels) = (config.scale(), &config.block_out_channels);
        let side = (config.sample_size() / scale).max(1);
        let inner = channels.get(1).unwrap_or(&channels[0]);
        Self {
            side,
            stride: (side - side.div_ceil(4)).max(1),
            scale,
            pixel_bytes: 2 * (inner + channels[0]) * size_of::<f32>(),
        }
    }

    /// Returns whether a picture of this size in latents is decoded in tiles.
    pub(super) fn takes(&self, tiles: VaeTiles, (height, width): (usize, usize)) -> bool {
        let wanted = match tiles {
            VaeTiles::Auto => self.whole_bytes((height, width)) > VaeTiles::WHOLE_BYTES,
            VaeTiles::Always => true,
            VaeTiles::Never => false,
        };
        wanted && height.max(width) > self.side
    }

    /// Estimates the memory of the whole picture's activations, as [`VaeTiles::WHOLE_BYTES`]
    /// describes.
    fn whole_bytes(&self, (height, width): (usize, usize)) -> usize {
        let factors = [height, width, self.scale, self.scale, self.pixel_bytes];
        factors.into_iter().fold(1, usize::saturating_mul)
    }

    /// Maps latents [b, h, w, latent] to pictures [b, scale * h, scale * w, 3]. `decode` decodes
    /// one tile.
    pub(super) fn decode(
        &self,
        latents: &Tensor,
        decode: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (_, height, width, _) = latents.dims4()?;
        let (mut above, mut strips) = (Vec::new(), Vec::new());
        for top in (0..height).step_by(self.stride) {
            let strip = first(&latents.narrow(1, top, height - top)?, 1, self.side)?;
            let mut row: Vec<Tensor> = Vec::new();
            for left in (0..width).step_by(self.stride) {
                let tile = first(&strip.narrow(2, left, width - left)?, 2, self.side)?;
                let tile = self.blend(above.get(row.len()), decode(&tile.contiguous()?)?, 1)?;
                row.push(self.blend(row.last(), tile, 2)?);
            }
            strips.push(self.joined(&row)?);
            above = row;
        }
        Tensor::cat(&strips, 1)
    }

    /// Blends the start of `tile` with the end of the previous one along `dim` (`blend_v`,
    /// `blend_h`).
    fn blend(&self, before: Option<&Tensor>, tile: Tensor, dim: usize) -> Result<Tensor> {
        let Some(before) = before else { return Ok(tile) };
        let (ends, size) = (before.dim(dim)?, tile.dim(dim)?);
        let extent = ((self.side - self.stride) * self.scale).min(ends).min(size);
        if extent == 0 {
            return Ok(tile);
        }
        let mut shape = [1; 4];
        shape[dim] = extent;
        let ramp = |share: &dyn Fn(f64) -> f64| {
            let shares: Vec<f32> = (0..extent).map(|k| share(k as f64 / extent as f64) as f32).collect();
            Tensor::from_vec(shares, &shape, tile.device())?.to_dtype(tile.dtype())
        };
        let leaving =
            before.narrow(dim, ends - extent, extent)?.broadcast_mul(&ramp(&|share| 1.0 - share)?)?;
        let entering = tile.narrow(dim, 0, extent)?.broadcast_mul(&ramp(&|share| share)?)?;
        Tensor::cat(&[&(leaving + entering)?, &tile.narrow(dim, extent, size - extent)?], dim)
    }

    /// Joins a row of tiles, each cut at the start of the next tile and of the next row.
    fn joined(&self, row: &[Tensor]) -> Result<Tensor> {
        let limit = self.stride * self.scale;
        let kept: Vec<Tensor> =
            row.iter().map(|tile| first(&first(tile, 1, limit)?, 2, limit)).collect::<Result<_>>()?;
        Tensor::cat(&kept, 2)
    }
}

/// Returns the first `count` elements along `dim`, or all if there are fewer.
fn first(x: &Tensor, dim: usize, count: usize) -> Result<Tensor> {
    x.narrow(dim, 0, count.min(x.dim(dim)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(config: &str) -> Tiling {
        Tiling::of(&serde_json::from_str(config).unwrap())
    }

    fn sd_2_1() -> Tiling {
        let config = crate::full_size::folder("sd21/vae").join("config.json");
        Tiling::of(&VaeConfig::load(&config).unwrap())
    }

    #[test]
    fn sd_2_1_decodes_its_own_size_whole_and_larger_ones_in_tiles() {
        let tiling = sd_2_1();
        let takes = |tiles, height: usize, width: usize| tiling.takes(tiles, (height / 8, width / 8));
        for (height, width) in [(512, 512), (768, 768), (1024, 1024), (768, 1536)] {
            assert!(!takes(VaeTiles::Auto, height, width), "{height} x {width}");
        }
        for (height, width) in [(2048, 2048), (1024, 2048), (64, 32_768)] {
            assert!(takes(VaeTiles::Auto, height, width), "{height} x {width}");
            assert!(!takes(VaeTiles::Never, height, width), "{height} x {width}");
        }
        assert!(takes(VaeTiles::Always, 768, 776) && !takes(VaeTiles::Always, 768, 768));
        assert_eq!(tiling.whole_bytes((96, 96)), 768 * 768 * 3072);
        assert!(takes(VaeTiles::Auto, usize::MAX, usize::MAX));
    }

    #[test]
    fn a_tile_has_the_decoders_trained_size() {
        let tiling = sd_2_1();
        assert_eq!((tiling.side, tiling.stride, tiling.scale), (96, 72, 8));
        let vae = |sample_size: &str| {
            let blocks = r#""block_out_channels": [8, 8, 16], "layers_per_block": 1"#;
            of(&format!(r#"{{"out_channels": 3, "latent_channels": 4, {blocks}{sample_size}}}"#)).side
        };
        assert_eq!(vae(""), 8);
        assert_eq!(vae(r#", "sample_size": 64"#), 16);
        assert_eq!(vae(r#", "sample_size": [128, 64]"#), 32);
        assert_eq!(vae(r#", "sample_size": 0"#), 1);
    }

    #[test]
    fn tiles_reassemble_the_picture_at_any_picture_and_tile_size() {
        for (side, stride) in [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (8, 6)] {
            let tiling = Tiling { side, stride, scale: 2, pixel_bytes: 1 };
            for (height, width) in [(1, 9), (8, 8), (9, 7), (13, 20)] {
                let latents = Tensor::arange(0f32, (2 * height * width) as f32, &candle_core::Device::Cpu);
                let latents = latents.unwrap().reshape((2, height, width, 1)).unwrap();
                let enlarge = |x: &Tensor| {
                    let (_, height, width, _) = x.dims4()?;
                    crate::ops::upsample_nearest(x, 2 * height, 2 * width)
                };
                let (ours, whole) = (tiling.decode(&latents, enlarge).unwrap(), enlarge(&latents).unwrap());
                crate::ops::testing::close(&ours, &whole, 1e-4);
            }
        }
    }
}
