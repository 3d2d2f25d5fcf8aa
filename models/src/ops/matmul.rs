//! Matrix products with a constant right side, which is packed once.
//!
//! candle multiplies with the gemm crate, whose AVX-512 kernel keeps its accumulators in memory under today's rustc:
//! 38 GFLOP/s on a core where torch reaches 126. This plain Rust kernel, compiled for the processor's vectors by
//! `pulp`, keeps them in registers and reaches 150 (72 with AVX2).

use candle_core::{DType, Result, Tensor, bail};
use half::{bf16, f16};

use super::kernels::Inlined;

/// Columns of a panel.
const PANEL: usize = 32;
/// Lines of a panel that are worked through before the next panel: they and the rows stay in the cache.
const LINES: usize = 1024;

/// A number that a weight is kept as; products and their sums are f32.
trait Element: Copy {
    fn wide(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Element for f16 {
    /// Of what is finite only: the exponent is moved by a multiplication, which loops of vectors can do.
    #[inline(always)]
    fn wide(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
        f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
    }
}

/// Lines of [`PANEL`] columns.
#[derive(Clone)]
enum Lines {
    F32(Vec<[f32; PANEL]>),
    Bf16(Vec<[bf16; PANEL]>),
    F16(Vec<[f16; PANEL]>),
}

/// The right side [inputs, outputs] in panels of [`PANEL`] columns, each [inputs, PANEL], the last filled with zeros.
#[derive(Clone)]
pub(super) struct Packed {
    lines: Lines,
    inputs: usize,
    outputs: usize,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed([{}, {}])", self.inputs, self.outputs)
    }
}

fn pack<E: Element>(rows: &[E], zero: E, inputs: usize, outputs: usize) -> Vec<[E; PANEL]> {
    let mut lines = vec![[zero; PANEL]; inputs * outputs.div_ceil(PANEL)];
    for (n, row) in rows.chunks_exact(inputs).enumerate() {
        let (panel, column) = (n / PANEL, n % PANEL);
        for (line, &value) in lines[panel * inputs..][..inputs].iter_mut().zip(row) {
            line[column] = value;
        }
    }
    lines
}

impl Packed {
    /// From the transposed matrix [outputs, inputs], as weights are stored, kept in its own precision: f32, bf16 or f16.
    ///
    /// # Errors
    /// Another type, or values that are not finite.
    pub(super) fn from_rows(rows: &Tensor) -> Result<Self> {
        let (outputs, inputs) = rows.dims2()?;
        let rows = rows.flatten_all()?;
        let lines = match rows.dtype() {
            DType::F32 => Lines::F32(pack(&finite(rows.to_vec1()?, f32::is_finite)?, 0.0, inputs, outputs)),
            DType::BF16 => {
                Lines::Bf16(pack(&finite(rows.to_vec1()?, bf16::is_finite)?, bf16::ZERO, inputs, outputs))
            }
            DType::F16 => {
                Lines::F16(pack(&finite(rows.to_vec1()?, f16::is_finite)?, f16::ZERO, inputs, outputs))
            }
            other => bail!("a weight of {other:?} is not multiplied with"),
        };
        Ok(Self { lines, inputs, outputs })
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// The inverse of [`Packed::from_rows`], in f32.
    pub(super) fn to_rows(&self) -> Vec<f32> {
        let place = |n: usize, k: usize| (n / PANEL * self.inputs + k, n % PANEL);
        let value = |n: usize, k: usize| match (&self.lines, place(n, k)) {
            (Lines::F32(lines), (line, column)) => lines[line][column],
            (Lines::Bf16(lines), (line, column)) => lines[line][column].wide(),
            (Lines::F16(lines), (line, column)) => lines[line][column].wide(),
        };
        (0..self.outputs).flat_map(|n| (0..self.inputs).map(move |k| value(n, k))).collect()
    }

    /// `x` [rows, inputs] times the matrix into `out` [rows, outputs].
    pub(super) fn product(&self, x: &[f32], out: &mut [f32]) {
        match &self.lines {
            Lines::F32(lines) => self.dispatch(lines, x, out),
            Lines::Bf16(lines) => self.dispatch(lines, x, out),
            Lines::F16(lines) => self.dispatch(lines, x, out),
        }
    }

    fn dispatch<E: Element>(&self, lines: &[[E; PANEL]], x: &[f32], out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(avx512) = pulp::x86::V4::try_new() {
                return avx512.vectorize(Inlined(
                    #[inline(always)]
                    || self.run::<E, 12, 32>(lines, x, out),
                ));
            }
            if let Some(avx2) = pulp::x86::V3::try_new() {
                return avx2.vectorize(Inlined(
                    #[inline(always)]
                    || self.run::<E, 6, 16>(lines, x, out),
                ));
            }
        }
        pulp::Arch::new().dispatch(Inlined(
            #[inline(always)]
            || self.run::<E, 4, 8>(lines, x, out),
        ));
    }

    /// In tiles of `ROWS` x `WIDTH`, as many as the processor has registers for.
    #[inline(always)]
    fn run<E: Element, const ROWS: usize, const WIDTH: usize>(
        &self,
        all: &[[E; PANEL]],
        x: &[f32],
        out: &mut [f32],
    ) {
        let count = out.len() / self.outputs;
        for begin in (0..self.inputs).step_by(LINES) {
            let lines = begin..(begin + LINES).min(self.inputs);
            for row in (0..count).step_by(ROWS) {
                // Past the last row, the last row is computed again and thrown away.
                let rows: [&[f32]; ROWS] = std::array::from_fn(|i| {
                    let from = (row + i).min(count - 1) * self.inputs;
                    &x[from..from + self.inputs][lines.clone()]
                });
                let wanted = ROWS.min(count - row);
                for column in (0..self.outputs).step_by(WIDTH) {
                    let panel = &all[column / PANEL * self.inputs..][lines.clone()];
                    let tile = tile::<E, ROWS, WIDTH>(&rows, panel, column % PANEL);
                    self.store(&tile[..wanted], row, column, begin > 0, out);
                }
            }
        }
    }

    #[inline(always)]
    fn store<const WIDTH: usize>(
        &self,
        tile: &[[f32; WIDTH]],
        row: usize,
        column: usize,
        add: bool,
        out: &mut [f32],
    ) {
        let width = WIDTH.min(self.outputs - column);
        for (i, values) in tile.iter().enumerate() {
            let out = &mut out[(row + i) * self.outputs + column..][..width];
            if add {
                out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
            } else {
                out.copy_from_slice(&values[..width]);
            }
        }
    }
}

/// A network with such weights would answer with nothing but NaN.
fn finite<E: Copy>(rows: Vec<E>, is_finite: impl Fn(E) -> bool) -> Result<Vec<E>> {
    if !rows.iter().all(|value| is_finite(*value)) {
        bail!("a weight holds values that are not finite");
    }
    Ok(rows)
}

/// The product of some rows with `WIDTH` columns of a panel, kept in registers.
#[inline(always)]
fn tile<E: Element, const ROWS: usize, const WIDTH: usize>(
    rows: &[&[f32]; ROWS],
    panel: &[[E; PANEL]],
    at: usize,
) -> [[f32; WIDTH]; ROWS] {
    let mut sums = [[0f32; WIDTH]; ROWS];
    let rows: [&[f32]; ROWS] = std::array::from_fn(|i| &rows[i][..panel.len()]);
    for (k, line) in panel.iter().enumerate() {
        let line: [f32; WIDTH] = std::array::from_fn(|j| line[at + j].wide());
        for i in 0..ROWS {
            let x = rows[i][k];
            for j in 0..WIDTH {
                sums[i][j] = x.mul_add(line[j], sums[i][j]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;

    fn check<E: Element, const ROWS: usize, const WIDTH: usize>(
        count: usize,
        weight: &Tensor,
        lines: fn(&Packed) -> &[[E; PANEL]],
    ) {
        let (outputs, inputs) = weight.dims2().unwrap();
        let x = random(&[count, inputs], 1).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let packed = Packed::from_rows(weight).unwrap();
        let weight = weight.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut out = vec![f32::NAN; count * outputs];
        packed.run::<E, ROWS, WIDTH>(lines(&packed), &x, &mut out);
        for (at, out) in out.iter().enumerate() {
            let (row, column) = (at / outputs, at % outputs);
            let exact: f64 = (0..inputs)
                .map(|k| f64::from(x[row * inputs + k]) * f64::from(weight[column * inputs + k]))
                .sum();
            assert!((f64::from(*out) - exact).abs() < 1e-4, "{count} {inputs} {outputs}: {out} {exact}");
        }
        assert_eq!(packed.to_rows(), weight);
    }

    const SHAPES: [(usize, usize, usize); 6] =
        [(1, 1, 1), (12, 8, 32), (13, 7, 33), (5, 2500, 3), (40, 65, 100), (6, 16, 16)];

    #[test]
    fn every_shape_on_every_processor_is_the_product() {
        for (count, inputs, outputs) in SHAPES {
            let weight = random(&[outputs, inputs], 2);
            let lines: fn(&Packed) -> &[_] = |packed| match &packed.lines {
                Lines::F32(lines) => lines.as_slice(),
                _ => panic!("an f32 weight is kept as another type"),
            };
            check::<f32, 12, 32>(count, &weight, lines);
            check::<f32, 6, 16>(count, &weight, lines);
            check::<f32, 4, 8>(count, &weight, lines);
        }
    }

    #[test]
    fn weights_of_16_bits_stay_what_they_are() {
        for (count, inputs, outputs) in SHAPES {
            // f16 has subnormals below 6e-5.
            let weight = (random(&[outputs, inputs], 2) * 1e-4).unwrap();
            check::<bf16, 12, 32>(count, &weight.to_dtype(DType::BF16).unwrap(), |packed| {
                match &packed.lines {
                    Lines::Bf16(lines) => lines.as_slice(),
                    _ => panic!("a bf16 weight is kept as another type"),
                }
            });
            check::<f16, 12, 32>(count, &weight.to_dtype(DType::F16).unwrap(), |packed| {
                match &packed.lines {
                    Lines::F16(lines) => lines.as_slice(),
                    _ => panic!("an f16 weight is kept as another type"),
                }
            });
        }
    }

    #[test]
    fn every_finite_f16_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            if value.is_finite() {
                assert_eq!(value.wide().to_bits(), value.to_f32().to_bits(), "{value}");
            }
        }
    }

    #[test]
    fn a_weight_that_is_not_finite_is_refused() {
        let weight = Tensor::new(&[[1f32, f32::NAN]], &candle_core::Device::Cpu).unwrap();
        assert!(Packed::from_rows(&weight).unwrap_err().to_string().contains("not finite"));
    }
}
