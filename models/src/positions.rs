//! Resizes the learned positions of a grid of patches to another picture size than the trained one:
//! torch's bicubic interpolation (`torch.nn.functional.interpolate(mode="bicubic")`), in the
//! variants of transformers and of timm and open_clip.

use candle_core::{Device, Result, Tensor};

/// The interpolation of a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resampling {
    /// transformers: four taps at any scale.
    Plain,
    /// timm and open_clip: `antialias=True`, which uses wider taps if the grid gets smaller.
    Antialias,
}

/// Resizes positions [prefix + from * from, width] to [prefix + to * to, width]. The first `prefix`
/// positions do not belong to patches.
pub(crate) fn resized(
    positions: &Tensor,
    prefix: usize,
    from: usize,
    to: usize,
    resampling: Resampling,
) -> Result<Tensor> {
    if from == to {
        return Ok(positions.clone());
    }
    let (count, width) = positions.dims2()?;
    if count != prefix + from * from {
        candle_core::bail!("{count} positions are not {prefix} and a square of {from}");
    }
    let taps = matrix(from, to, resampling)?;
    let (dtype, device) = (positions.dtype(), positions.device());
    let grid = positions.narrow(0, prefix, from * from)?.to_device(&Device::Cpu)?;
    let grid = grid.to_dtype(taps.dtype())?.contiguous()?;
    let rows = taps.matmul(&grid.reshape((from, from * width))?)?.reshape((to, from, width))?;
    let columns = taps.matmul(&rows.transpose(0, 1)?.contiguous()?.reshape((from, to * width))?)?;
    let grid = columns.reshape((to, to, width))?.transpose(0, 1)?.contiguous()?.reshape((to * to, width))?;
    Tensor::cat(&[&positions.narrow(0, 0, prefix)?, &grid.to_dtype(dtype)?.to_device(device)?], 0)
}

/// Returns the weights [to, from] of one axis.
fn matrix(from: usize, to: usize, resampling: Resampling) -> Result<Tensor> {
    let mut weights = vec![0f64; to * from];
    for (k, row) in weights.chunks_exact_mut(from).enumerate() {
        match resampling {
            Resampling::Plain => plain(row, (k as f64 + 0.5) * from as f64 / to as f64 - 0.5),
            Resampling::Antialias => antialias(row, k, from as f64 / to as f64),
        }
    }
    Tensor::from_vec(weights, (to, from), &Device::Cpu)?.to_dtype(candle_core::DType::F32)
}

/// Writes four taps around `centre`. Positions beyond the edge count as the edge.
fn plain(row: &mut [f64], centre: f64) {
    let last = row.len() as i64 - 1;
    for at in centre.floor() as i64 - 1..=centre.floor() as i64 + 2 {
        row[at.clamp(0, last) as usize] += cubic(at as f64 - centre, -0.75);
    }
}

/// Writes Pillow's taps, without the positions beyond the edge.
fn antialias(row: &mut [f64], k: usize, scale: f64) {
    let (stretch, centre) = (scale.max(1.0), scale * (k as f64 + 0.5));
    let begin = ((centre - 2.0 * stretch + 0.5) as i64).max(0) as usize;
    let end = ((centre + 2.0 * stretch + 0.5) as usize).min(row.len());
    for (at, weight) in row.iter_mut().enumerate().take(end).skip(begin) {
        *weight = cubic((at as f64 - centre + 0.5) / stretch, -0.5);
    }
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|weight| *weight /= sum);
}

/// The cubic convolution kernel (Keys, 1981).
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{close, random};

    #[test]
    fn flat_positions_stay_flat_and_the_class_token_is_unchanged() {
        let class = random(&[1, 5], 1);
        let flat = random(&[1, 5], 2).broadcast_as((16, 5)).unwrap().contiguous().unwrap();
        let positions = Tensor::cat(&[&class, &flat], 0).unwrap();
        for resampling in [Resampling::Plain, Resampling::Antialias] {
            for to in [2, 3, 7, 9] {
                let found = resized(&positions, 1, 4, to, resampling).unwrap();
                assert_eq!(found.dims(), [1 + to * to, 5]);
                close(&found.narrow(0, 0, 1).unwrap(), &class, 0.0);
                let expected = flat.narrow(0, 0, 1).unwrap().broadcast_as((to * to, 5)).unwrap();
                close(&found.narrow(0, 1, to * to).unwrap(), &expected, 1e-6);
            }
        }
    }

    #[test]
    fn rows_and_columns_are_not_exchanged() {
        let grid =
            Tensor::new(&[[0f32], [0.0], [0.0], [1.0], [1.0], [1.0], [2.0], [2.0], [2.0]], &Device::Cpu);
        let found = resized(&grid.unwrap(), 0, 3, 2, Resampling::Antialias).unwrap();
        let found = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(found[0] == found[1] && found[2] > found[0] + 0.5, "{found:?}");
    }
}
