//! Matrix products with a constant right side, which is packed once.
//!
//! candle multiplies with the gemm crate, whose AVX-512 kernel keeps its accumulators in memory under today's rustc:
//! 38 GFLOP/s on a core where torch reaches 126. This plain Rust kernel, compiled for the processor's vectors by
//! `pulp`, keeps them in registers and reaches 150 (72 with AVX2).

use super::kernels::Inlined;

/// Columns of a panel.
const PANEL: usize = 32;
/// Lines of a panel that are worked through before the next panel: they and the rows stay in the cache.
const LINES: usize = 1024;

/// The right side [inputs, outputs] in panels of [`PANEL`] columns, each [inputs, PANEL], the last filled with zeros.
#[derive(Clone)]
pub(super) struct Packed {
    lines: Vec<[f32; PANEL]>,
    inputs: usize,
    outputs: usize,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed([{}, {}])", self.inputs, self.outputs)
    }
}

impl Packed {
    /// From the transposed matrix [outputs, inputs], as weights are stored.
    pub(super) fn from_rows(rows: &[f32], inputs: usize, outputs: usize) -> Self {
        let mut lines = vec![[0f32; PANEL]; inputs * outputs.div_ceil(PANEL)];
        for (n, row) in rows.chunks_exact(inputs).enumerate() {
            let (panel, column) = (n / PANEL, n % PANEL);
            for (line, &value) in lines[panel * inputs..][..inputs].iter_mut().zip(row) {
                line[column] = value;
            }
        }
        Self { lines, inputs, outputs }
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// The inverse of [`Packed::from_rows`].
    pub(super) fn to_rows(&self) -> Vec<f32> {
        let value = |n: usize, k: usize| self.lines[n / PANEL * self.inputs + k][n % PANEL];
        (0..self.outputs).flat_map(|n| (0..self.inputs).map(move |k| value(n, k))).collect()
    }

    /// `x` [rows, inputs] times the matrix into `out` [rows, outputs].
    pub(super) fn product(&self, x: &[f32], out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(avx512) = pulp::x86::V4::try_new() {
                return avx512.vectorize(Inlined(
                    #[inline(always)]
                    || self.run::<12, 32>(x, out),
                ));
            }
            if let Some(avx2) = pulp::x86::V3::try_new() {
                return avx2.vectorize(Inlined(
                    #[inline(always)]
                    || self.run::<6, 16>(x, out),
                ));
            }
        }
        pulp::Arch::new().dispatch(Inlined(
            #[inline(always)]
            || self.run::<4, 8>(x, out),
        ));
    }

    /// In tiles of `ROWS` x `WIDTH`, as many as the processor has registers for.
    #[inline(always)]
    fn run<const ROWS: usize, const WIDTH: usize>(&self, x: &[f32], out: &mut [f32]) {
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
                    let panel = &self.lines[column / PANEL * self.inputs..][lines.clone()];
                    let tile = tile::<ROWS, WIDTH>(&rows, panel, column % PANEL);
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

/// The product of some rows with `WIDTH` columns of a panel, kept in registers.
#[inline(always)]
fn tile<const ROWS: usize, const WIDTH: usize>(
    rows: &[&[f32]; ROWS],
    panel: &[[f32; PANEL]],
    at: usize,
) -> [[f32; WIDTH]; ROWS] {
    let mut sums = [[0f32; WIDTH]; ROWS];
    let rows: [&[f32]; ROWS] = std::array::from_fn(|i| &rows[i][..panel.len()]);
    for (k, line) in panel.iter().enumerate() {
        let line: [f32; WIDTH] = std::array::from_fn(|j| line[at + j]);
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

    fn check<const ROWS: usize, const WIDTH: usize>(count: usize, inputs: usize, outputs: usize) {
        let values =
            |shape: &[usize], seed| random(shape, seed).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (x, weight) = (values(&[count, inputs], 1), values(&[outputs, inputs], 2));
        let packed = Packed::from_rows(&weight, inputs, outputs);
        let mut out = vec![f32::NAN; count * outputs];
        packed.run::<ROWS, WIDTH>(&x, &mut out);
        for (at, out) in out.iter().enumerate() {
            let (row, column) = (at / outputs, at % outputs);
            let exact: f64 = (0..inputs)
                .map(|k| f64::from(x[row * inputs + k]) * f64::from(weight[column * inputs + k]))
                .sum();
            assert!((f64::from(*out) - exact).abs() < 1e-4, "{count} {inputs} {outputs}: {out} {exact}");
        }
        assert_eq!(packed.to_rows(), weight);
    }

    #[test]
    fn every_shape_on_every_processor_is_the_product() {
        for (count, inputs, outputs) in
            [(1, 1, 1), (12, 8, 32), (13, 7, 33), (5, 2500, 3), (40, 65, 100), (6, 16, 16)]
        {
            check::<12, 32>(count, inputs, outputs);
            check::<6, 16>(count, inputs, outputs);
            check::<4, 8>(count, inputs, outputs);
        }
    }
}
