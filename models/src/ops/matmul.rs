//! Matrix products whose right side is packed once: weights at load, keys and values once for all
//! queries.
//!
//! candle multiplies with the gemm crate, whose AVX-512 kernel keeps its sums in memory under
//! current rustc. Ours did too, until its sums became vectors of `pulp` instead of arrays, in a
//! different variable than the tile whose rows are read afterwards: LLVM loads the sums into
//! registers, but writes each of them back in every iteration if anything indexes them.

#[cfg(target_arch = "x86_64")]
mod pairs;

use std::cell::RefCell;

use candle_core::{DType, Result, Tensor, bail};
use half::{bf16, f16};
use pulp::{Simd, WithSimd};

/// Columns of a panel.
const PANEL: usize = 32;
/// The number of lines of a panel that are multiplied before the next panel's. They and the rows
/// stay in the cache.
const LINES: usize = 512;

thread_local! {
    /// The columns of the current rows. They are taken and put back, because a closure would be
    /// compiled for the baseline processor.
    static COLUMNS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The type of a weight's values; products and their sums are f32.
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
    /// Valid for finite values only: a multiplication shifts the exponent, which vectorised loops
    /// can do.
    #[inline(always)]
    fn wide(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
        f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
    }
}

/// The type of the factors; sums are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Products {
    F32,
    /// Both sides rounded to bf16, for which this processor has an instruction.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    Bf16,
}

/// The lines of all panels, each of [`PANEL`] columns.
#[derive(Clone)]
enum Panels {
    F32(Vec<[f32; PANEL]>),
    Bf16(Vec<[bf16; PANEL]>),
    F16(Vec<[f16; PANEL]>),
    /// bf16 on processors that multiply it.
    #[cfg(target_arch = "x86_64")]
    Pairs(Vec<pairs::Pair>),
}

/// The right side [inputs, outputs] in panels of [`PANEL`] columns, each [inputs, PANEL]. The last
/// panel is padded with zeros.
#[derive(Clone)]
pub(super) struct Packed {
    panels: Panels,
    inputs: usize,
    outputs: usize,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed([{}, {}])", self.inputs, self.outputs)
    }
}

/// Packs the rows of the transposed matrix, each [inputs].
fn pack<'a, E: Element + 'a>(
    rows: impl ExactSizeIterator<Item = &'a [E]>,
    zero: E,
    inputs: usize,
) -> Vec<[E; PANEL]> {
    let mut lines = vec![[zero; PANEL]; inputs * rows.len().div_ceil(PANEL)];
    for (n, row) in rows.enumerate() {
        let (panel, column) = (n / PANEL, n % PANEL);
        for (line, &value) in lines[panel * inputs..][..inputs].iter_mut().zip(row) {
            line[column] = value;
        }
    }
    lines
}

/// Packs the lines of the matrix, each [outputs].
fn pack_lines(rows: &[&[f32]], outputs: usize) -> Vec<[f32; PANEL]> {
    let mut lines = vec![[0f32; PANEL]; rows.len() * outputs.div_ceil(PANEL)];
    for (at, panel) in lines.chunks_exact_mut(rows.len().max(1)).enumerate() {
        for (line, row) in panel.iter_mut().zip(rows) {
            line.iter_mut().zip(&row[at * PANEL..]).for_each(|(value, x)| *value = *x);
        }
    }
    lines
}

impl Packed {
    /// Packs the transposed matrix [outputs, inputs], as weights are stored. Keeps its precision:
    /// f32, bf16 or f16.
    ///
    /// # Errors
    /// Fails for another type or for values that are not finite.
    pub(super) fn from_rows(rows: &Tensor) -> Result<Self> {
        let (outputs, inputs) = rows.dims2()?;
        let rows = rows.flatten_all()?;
        let panels = match rows.dtype() {
            DType::F32 => {
                let rows = finite(rows.to_vec1()?, f32::is_finite)?;
                Panels::F32(pack(rows.chunks_exact(inputs), 0.0, inputs))
            }
            DType::BF16 => {
                let rows = finite(rows.to_vec1()?, bf16::is_finite)?;
                Self::bf16_panels(&rows, inputs)
            }
            DType::F16 => {
                let rows = finite(rows.to_vec1()?, f16::is_finite)?;
                Panels::F16(pack(rows.chunks_exact(inputs), f16::ZERO, inputs))
            }
            other => bail!("weights of type {other:?} are not supported"),
        };
        Ok(Self { panels, inputs, outputs })
    }

    fn bf16_panels(rows: &[bf16], inputs: usize) -> Panels {
        #[cfg(target_arch = "x86_64")]
        if pairs::here() {
            return Panels::Pairs(pairs::pack(rows, inputs));
        }
        Panels::Bf16(pack(rows.chunks_exact(inputs), bf16::ZERO, inputs))
    }

    /// Packs the rows of the transposed matrix, each [inputs], for the given products.
    pub(super) fn of_transposed(rows: &[&[f32]], products: Products) -> Self {
        let (outputs, inputs) = (rows.len(), rows.first().map_or(0, |row| row.len()));
        let panels = match products {
            #[cfg(target_arch = "x86_64")]
            Products::Bf16 => Panels::Pairs(pairs::pack_transposed(rows, inputs)),
            _ => Panels::F32(pack(rows.iter().copied(), 0.0, inputs)),
        };
        Self { panels, inputs, outputs }
    }

    /// Packs the lines of the matrix, each [outputs], for the given products.
    pub(super) fn of_lines(rows: &[&[f32]], products: Products) -> Self {
        let (inputs, outputs) = (rows.len(), rows.first().map_or(0, |row| row.len()));
        let panels = match products {
            #[cfg(target_arch = "x86_64")]
            Products::Bf16 => Panels::Pairs(pairs::pack_lines(rows, outputs)),
            _ => Panels::F32(pack_lines(rows, outputs)),
        };
        Self { panels, inputs, outputs }
    }

    /// The type of the factors of a product with this matrix.
    pub(super) fn products(&self) -> Products {
        match &self.panels {
            #[cfg(target_arch = "x86_64")]
            Panels::Pairs(_) => Products::Bf16,
            _ => Products::F32,
        }
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Returns the transposed matrix, the inverse of [`Packed::from_rows`], in f32.
    pub(super) fn to_rows(&self) -> Vec<f32> {
        let value = |n: usize, k: usize| {
            let (line, column) = (n / PANEL * self.inputs + k, n % PANEL);
            match &self.panels {
                Panels::F32(lines) => lines[line][column],
                Panels::Bf16(lines) => lines[line][column].wide(),
                Panels::F16(lines) => lines[line][column].wide(),
                #[cfg(target_arch = "x86_64")]
                Panels::Pairs(lines) => {
                    lines[n / PANEL * self.inputs.div_ceil(2) + k / 2].0[column][k % 2].wide()
                }
            }
        };
        (0..self.outputs).flat_map(|n| (0..self.inputs).map(move |k| value(n, k))).collect()
    }

    /// Multiplies `x` [rows, inputs] by the matrix into `out` [rows, outputs].
    pub(super) fn product(&self, x: &[f32], out: &mut [f32]) {
        match &self.panels {
            Panels::F32(lines) => self.dispatch(lines, x, out),
            Panels::Bf16(lines) => self.dispatch(lines, x, out),
            Panels::F16(lines) => self.dispatch(lines, x, out),
            #[cfg(target_arch = "x86_64")]
            Panels::Pairs(lines) => pairs::product(lines, self.inputs, self.outputs, x, out),
        }
    }

    fn dispatch<E: Element>(&self, lines: &[[E; PANEL]], x: &[f32], out: &mut [f32]) {
        pulp::Arch::new().dispatch(Product { packed: self, lines, x, out });
    }

    /// Multiplies in tiles of `ROWS` x two vectors, as many as the processor has registers for. A
    /// panel's lines stay in the cache for all rows.
    #[inline(always)]
    fn run<S: Simd, E: Element, const ROWS: usize>(
        &self,
        simd: S,
        all: &[[E; PANEL]],
        x: &[f32],
        out: &mut [f32],
    ) {
        let (count, width) = (out.len() / self.outputs, 2 * S::F32_LANES);
        let tiles = count.div_ceil(ROWS);
        let mut buffer = COLUMNS.take();
        buffer.resize((tiles * ROWS * LINES).max(buffer.len()), 0.0);
        let all_columns = buffer.as_chunks_mut::<ROWS>().0;
        for begin in (0..self.inputs).step_by(LINES) {
            let lines = begin..(begin + LINES).min(self.inputs);
            let depth = lines.len();
            for (at, columns) in all_columns.chunks_exact_mut(depth).take(tiles).enumerate() {
                transpose(x, self.inputs, at * ROWS, lines.clone(), columns);
            }
            for column in (0..self.outputs).step_by(width) {
                let panel = &all[column / PANEL * self.inputs..][lines.clone()];
                for (at, columns) in all_columns.chunks_exact(depth).take(tiles).enumerate() {
                    let row = at * ROWS;
                    let mut tile = [[simd.splat_f32s(0.0); 2]; ROWS];
                    add_tile::<S, E, ROWS>(simd, columns, panel, column % PANEL, &mut tile);
                    self.store::<S>(&tile[..ROWS.min(count - row)], row, column, begin > 0, out);
                }
            }
        }
        COLUMNS.set(buffer);
    }

    #[inline(always)]
    fn store<S: Simd>(&self, tile: &[[S::f32s; 2]], row: usize, column: usize, add: bool, out: &mut [f32]) {
        let width = (2 * S::F32_LANES).min(self.outputs - column);
        for (i, values) in tile.iter().enumerate() {
            let values: &[f32] = pulp::bytemuck::cast_slice(values);
            let out = &mut out[(row + i) * self.outputs + column..][..width];
            if add {
                out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
            } else {
                out.copy_from_slice(&values[..width]);
            }
        }
    }
}

/// A product, to be compiled for this processor's vectors.
struct Product<'a, E> {
    packed: &'a Packed,
    lines: &'a [[E; PANEL]],
    x: &'a [f32],
    out: &'a mut [f32],
}

impl<E: Element> WithSimd for Product<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { packed, lines, x, out } = self;
        // AVX2 has 16 registers; AVX-512 and Neon have 32.
        match S::F32_LANES {
            8 => packed.run::<S, E, 6>(simd, lines, x, out),
            _ => packed.run::<S, E, 12>(simd, lines, x, out),
        }
    }
}

/// Refuses values that would make a network's output NaN.
fn finite<E: Copy>(rows: Vec<E>, is_finite: impl Fn(E) -> bool) -> Result<Vec<E>> {
    if !rows.iter().all(|value| is_finite(*value)) {
        bail!("a weight holds values that are not finite");
    }
    Ok(rows)
}

/// Writes columns of `ROWS` rows of `x`, starting at row `first`, side by side. Past the last row,
/// it repeats the last row.
#[inline(always)]
fn transpose<const ROWS: usize>(
    x: &[f32],
    inputs: usize,
    first: usize,
    lines: std::ops::Range<usize>,
    columns: &mut [[f32; ROWS]],
) {
    let last = x.len() / inputs - 1;
    for i in 0..ROWS {
        let row = &x[(first + i).min(last) * inputs..][lines.clone()];
        for (column, x) in columns.iter_mut().zip(row) {
            column[i] = *x;
        }
    }
}

/// Adds the product of `ROWS` rows, given by their columns, and two vectors of a panel's columns to
/// `total`. The sums stay in registers only if nothing reads them by row afterwards; therefore they
/// are added to `total` instead of returned.
#[inline(always)]
fn add_tile<S: Simd, E: Element, const ROWS: usize>(
    simd: S,
    columns: &[[f32; ROWS]],
    panel: &[[E; PANEL]],
    at: usize,
    total: &mut [[S::f32s; 2]; ROWS],
) {
    let at = at.min(PANEL - 2 * S::F32_LANES);
    let mut sums = [[simd.splat_f32s(0.0); 2]; ROWS];
    for (column, line) in columns.iter().zip(panel) {
        let line: [f32; PANEL] = std::array::from_fn(|j| line[j].wide());
        let (vectors, _) = S::as_simd_f32s(&line[at..]);
        for i in 0..ROWS {
            let x = simd.splat_f32s(column[i]);
            sums[i][0] = simd.mul_add_e_f32s(x, vectors[0], sums[i][0]);
            sums[i][1] = simd.mul_add_e_f32s(x, vectors[1], sums[i][1]);
        }
    }
    for i in 0..ROWS {
        total[i][0] = simd.add_f32s(total[i][0], sums[i][0]);
        total[i][1] = simd.add_f32s(total[i][1], sums[i][1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;

    /// Returns the product for each kind of processor that this one supports.
    fn products<E: Element>(packed: &Packed, lines: &[[E; PANEL]], x: &[f32], count: usize) -> Vec<Vec<f32>> {
        let fresh = || vec![f32::NAN; count * packed.outputs];
        let (mut plain, mut here) = (fresh(), fresh());
        Product { packed, lines, x, out: &mut plain }.with_simd(pulp::Scalar);
        packed.dispatch(lines, x, &mut here);
        let mut all = vec![plain, here];
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = pulp::x86::V3::try_new() {
            let mut out = fresh();
            Product { packed, lines, x, out: &mut out }.with_simd(avx2);
            all.push(out);
        }
        all
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn check<E: Element>(count: usize, packed: &Packed, lines: &[[E; PANEL]], weight: &Tensor) {
        let (x, weight) = (values(&random(&[count, packed.inputs], 1)), values(weight));
        for out in products(packed, lines, &x, count) {
            near(packed, &x, &weight, &out);
        }
        assert_eq!(packed.to_rows(), weight);
    }

    /// `weight` is transposed, as it is stored.
    fn near(packed: &Packed, x: &[f32], weight: &[f32], out: &[f32]) {
        let (inputs, outputs) = (packed.inputs, packed.outputs);
        for (at, out) in out.iter().enumerate() {
            let (row, column) = (at / outputs, at % outputs);
            let exact: f64 = (0..inputs)
                .map(|k| f64::from(x[row * inputs + k]) * f64::from(weight[column * inputs + k]))
                .sum();
            assert!((f64::from(*out) - exact).abs() < 1e-4, "{row} {column} of {packed:?}: {out} {exact}");
        }
    }

    /// The last shape has several tiles, blocks of lines and panels, each of them partly filled at
    /// its end.
    const SHAPES: [(usize, usize, usize); 7] =
        [(1, 1, 1), (12, 8, 32), (13, 7, 33), (5, 2500, 3), (40, 65, 100), (6, 16, 16), (40, 1100, 100)];

    #[test]
    fn every_shape_is_multiplied_correctly_on_every_processor() {
        for (count, inputs, outputs) in SHAPES {
            let weight = random(&[outputs, inputs], 2);
            let packed = Packed::from_rows(&weight).unwrap();
            let Panels::F32(lines) = &packed.panels else { panic!("an f32 weight is kept as another type") };
            check::<f32>(count, &packed, lines, &weight);
        }
    }

    #[test]
    fn weights_of_16_bits_keep_their_type_and_values() {
        for (count, inputs, outputs) in SHAPES {
            // f16 has subnormals below 6e-5.
            let weight = (random(&[outputs, inputs], 2) * 1e-4).unwrap();
            let small = weight.to_dtype(DType::BF16).unwrap();
            let rows: Vec<bf16> = small.flatten_all().unwrap().to_vec1().unwrap();
            // The layout of processors that have no instruction for bf16.
            let panels = Panels::Bf16(pack(rows.chunks_exact(inputs), bf16::ZERO, inputs));
            let packed = Packed { panels, inputs, outputs };
            let Panels::Bf16(lines) = &packed.panels else { panic!("it was just made") };
            check::<bf16>(count, &packed, lines, &small);
            let small = weight.to_dtype(DType::F16).unwrap();
            let packed = Packed::from_rows(&small).unwrap();
            let Panels::F16(lines) = &packed.panels else { panic!("an f16 weight is kept as another type") };
            check::<f16>(count, &packed, lines, &small);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn bf16_products_equal_those_of_the_rounded_factors() {
        if !pairs::here() {
            unprompt_test_skipped::skipped("this processor has no products of bf16 pairs");
            return;
        }
        for (count, inputs, outputs) in SHAPES {
            let rounded = |x: &Tensor| x.to_dtype(DType::BF16).unwrap();
            let (x, weight) = (random(&[count, inputs], 1), random(&[outputs, inputs], 2));
            let (x, transposed) = (values(&x), values(&weight.t().unwrap().contiguous().unwrap()));
            let plain = values(&weight);
            let of_transposed =
                Packed::of_transposed(&plain.chunks_exact(inputs).collect::<Vec<_>>(), Products::Bf16);
            let of_lines =
                Packed::of_lines(&transposed.chunks_exact(outputs).collect::<Vec<_>>(), Products::Bf16);
            let exact_x = values(&rounded(&Tensor::new(x.as_slice(), &candle_core::Device::Cpu).unwrap()));
            let exact_weight = values(&rounded(&weight));
            for packed in [Packed::from_rows(&rounded(&weight)).unwrap(), of_transposed, of_lines] {
                assert_eq!(packed.products(), Products::Bf16);
                let mut out = vec![f32::NAN; count * outputs];
                packed.product(&x, &mut out);
                near(&packed, &exact_x, &exact_weight, &out);
                assert_eq!(packed.to_rows(), exact_weight);
            }
        }
    }

    #[test]
    fn bf16_products_propagate_nan_and_infinity() {
        let weight = random(&[40, 70], 1).to_dtype(DType::BF16).unwrap();
        let packed = Packed::from_rows(&weight).unwrap();
        for bad in [f32::NAN, f32::INFINITY] {
            for place in [0, 33, 69] {
                let (mut x, mut out) = (vec![1f32; 3 * 70], vec![0f32; 3 * 40]);
                x[70 + place] = bad;
                packed.product(&x, &mut out);
                assert!(out[40..80].iter().all(|value| !value.is_finite()), "{bad} at {place}");
                assert!(
                    out[..40].iter().chain(&out[80..]).all(|value| value.is_finite()),
                    "{bad} at {place}"
                );
            }
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
