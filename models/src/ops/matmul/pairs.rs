//! bf16 products with the processor's own instruction (AVX512_BF16's VDPBF16PS). It computes the
//! two products of a pair and their sum in f32 at a time, twice as many as in f32. The other factor
//! is rounded to bf16 too, as in torch; sums stay f32.

use std::arch::x86_64::{
    __m512, __m512bh, _mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_set1_epi32,
    _mm512_setzero_ps,
};
use std::cell::RefCell;

use half::bf16;
use pulp::bytemuck;

use super::{LINES, PANEL};

/// Rows of a tile. With two vectors per row, 24 of the processor's 32 registers hold sums.
const ROWS: usize = 12;

thread_local! {
    static COLUMNS: RefCell<Vec<[u32; ROWS]>> = const { RefCell::new(Vec::new()) };
}

/// Two lines of a panel, with the two values of a column side by side. A vector of them is in one
/// cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Pair(pub [[bf16; 2]; PANEL]);

/// Returns whether this processor has the instruction.
pub(super) fn here() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
}

/// Packs the rows of the transposed matrix, each [inputs], into panels of [inputs / 2, rounded up].
pub(super) fn pack(rows: &[bf16], inputs: usize) -> Vec<Pair> {
    let (outputs, pairs) = (rows.len() / inputs, inputs.div_ceil(2));
    let mut lines = vec![Pair([[bf16::ZERO; 2]; PANEL]); pairs * outputs.div_ceil(PANEL)];
    for (n, row) in rows.chunks_exact(inputs).enumerate() {
        let (panel, column) = (n / PANEL, n % PANEL);
        for (line, pair) in lines[panel * pairs..][..pairs].iter_mut().zip(row.chunks(2)) {
            line.0[column][..pair.len()].copy_from_slice(pair);
        }
    }
    lines
}

/// Packs the matrix by its lines, each [outputs].
pub(super) fn pack_lines(rows: &[&[f32]], outputs: usize) -> Vec<Pair> {
    let pairs = rows.len().div_ceil(2);
    let mut lines = vec![Pair([[bf16::ZERO; 2]; PANEL]); pairs * outputs.div_ceil(PANEL)];
    for (at, panel) in lines.chunks_exact_mut(pairs.max(1)).enumerate() {
        for (line, rows) in panel.iter_mut().zip(rows.chunks(2)) {
            for (half, row) in rows.iter().enumerate() {
                for (column, x) in line.0.iter_mut().zip(&row[at * PANEL..]) {
                    column[half] = bf16::from_bits(rounded(*x) as u16);
                }
            }
        }
    }
    lines
}

/// Packs the transposed matrix by its rows, each [inputs].
pub(super) fn pack_transposed(rows: &[&[f32]], inputs: usize) -> Vec<Pair> {
    let pairs = inputs.div_ceil(2);
    let mut lines = vec![Pair([[bf16::ZERO; 2]; PANEL]); pairs * rows.len().div_ceil(PANEL)];
    for (n, row) in rows.iter().enumerate() {
        let (panel, column) = (n / PANEL, n % PANEL);
        for (line, x) in lines[panel * pairs..][..pairs].iter_mut().zip(row.chunks(2)) {
            for (half, x) in x.iter().enumerate() {
                line.0[column][half] = bf16::from_bits(rounded(*x) as u16);
            }
        }
    }
    lines
}

/// Multiplies `x` [rows, inputs] by the matrix [inputs, outputs] into `out` [rows, outputs].
/// Requires [`here`].
pub(super) fn product(all: &[Pair], inputs: usize, outputs: usize, x: &[f32], out: &mut [f32]) {
    assert!(here(), "matrices are packed in pairs only where the processor multiplies them");
    // SAFETY: the processor has the features that `run` is compiled for.
    #[allow(unsafe_code, reason = "instructions that not every processor has are unsafe to call")]
    unsafe {
        run(all, inputs, outputs, x, out);
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn run(all: &[Pair], inputs: usize, outputs: usize, x: &[f32], out: &mut [f32]) {
    let (count, pairs) = (out.len() / outputs, inputs.div_ceil(2));
    let tiles = count.div_ceil(ROWS);
    let mut buffer = COLUMNS.take();
    buffer.resize((tiles * LINES).max(buffer.len()), [0; ROWS]);
    for begin in (0..pairs).step_by(LINES) {
        let lines = begin..(begin + LINES).min(pairs);
        let depth = lines.len();
        for (at, columns) in buffer.chunks_exact_mut(depth).take(tiles).enumerate() {
            transpose(x, inputs, at * ROWS, begin, columns);
        }
        for (at, panel) in all.chunks_exact(pairs).enumerate() {
            let (panel, column) = (&panel[lines.clone()], at * PANEL);
            for (at, columns) in buffer.chunks_exact(depth).take(tiles).enumerate() {
                let row = at * ROWS;
                let mut tile = [[_mm512_setzero_ps(); 2]; ROWS];
                add_tile(columns, panel, &mut tile);
                store(&tile[..ROWS.min(count - row)], row, column, outputs, begin > 0, out);
            }
        }
    }
    COLUMNS.set(buffer);
}

/// Writes pairs of columns of some rows of `x`, starting at row `first` and pair `begin`, side by
/// side. Past the last row, it repeats the last row; past the last column, it writes 0.
#[target_feature(enable = "avx512f,avx512bf16")]
fn transpose(x: &[f32], inputs: usize, first: usize, begin: usize, columns: &mut [[u32; ROWS]]) {
    let last = x.len() / inputs - 1;
    let width = (inputs - 2 * begin).min(2 * columns.len());
    for i in 0..ROWS {
        let row = &x[(first + i).min(last) * inputs + 2 * begin..][..width];
        let (vectors, rest) = row.as_chunks::<32>();
        for (columns, vectors) in columns.chunks_exact_mut(16).zip(vectors) {
            let pairs = pairs_of(vectors);
            for k in 0..16 {
                columns[k][i] = pairs[k];
            }
        }
        for (column, pair) in columns[vectors.len() * 16..].iter_mut().zip(rest.chunks(2)) {
            column[i] = rounded(pair[0]) | pair.get(1).map_or(0, |value| rounded(*value) << 16);
        }
    }
}

/// Rounds 32 values, side by side.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn pairs_of(values: &[f32; 32]) -> [u32; 16] {
    let [low, high]: [__m512; 2] = bytemuck::cast(*values);
    bytemuck::cast(_mm512_cvtne2ps_pbh(high, low))
}

/// Rounds to the nearest bf16, with ties to even. NaN stays NaN.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16;
    if x.is_nan() { 0x7fc0 } else { nearest }
}

/// Adds the product of some rows, given by pairs of their columns, and a panel to `total`. Nothing
/// may index the sums before that: see the parent module.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn add_tile(columns: &[[u32; ROWS]], panel: &[Pair], total: &mut [[__m512; 2]; ROWS]) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for (column, line) in columns.iter().zip(panel) {
        let bits: [[u16; 2]; PANEL] = std::array::from_fn(|k| line.0[k].map(bf16::to_bits));
        let vectors: [__m512bh; 2] = bytemuck::cast(bits);
        for i in 0..ROWS {
            let x: __m512bh = bytemuck::cast(_mm512_set1_epi32(column[i].cast_signed()));
            sums[i][0] = _mm512_dpbf16_ps(sums[i][0], x, vectors[0]);
            sums[i][1] = _mm512_dpbf16_ps(sums[i][1], x, vectors[1]);
        }
    }
    for i in 0..ROWS {
        total[i][0] = _mm512_add_ps(total[i][0], sums[i][0]);
        total[i][1] = _mm512_add_ps(total[i][1], sums[i][1]);
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn store(tile: &[[__m512; 2]], row: usize, column: usize, outputs: usize, add: bool, out: &mut [f32]) {
    let width = PANEL.min(outputs - column);
    for (i, values) in tile.iter().enumerate() {
        let values: &[f32; PANEL] = bytemuck::cast_ref(values);
        let out = &mut out[(row + i) * outputs + column..][..width];
        if add {
            out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
        } else {
            out.copy_from_slice(&values[..width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_to_bf16_equals_the_half_crate() {
        // Halfway between two values: once the lower one is even, once the upper one.
        let halfway = [0x3f80_8000, 0x3f81_8000].map(f32::from_bits);
        let some = [0.0f32, -0.0, 1.0, -1.5, 3.4e38, f32::MAX, 1e-40, f32::INFINITY, -1e-3];
        for x in some.into_iter().chain(halfway).chain((0..10_000).map(|k| f32::from_bits(k * 429_496 + 3))) {
            let (ours, halfs) = (bf16::from_bits(rounded(x) as u16), bf16::from_f32(x));
            assert!(ours == halfs || ours.is_nan() && halfs.is_nan(), "{x}: {ours} {halfs}");
        }
    }
}
