//! Writes a WebP that takes far more memory than its size suggests: test data, also of the chaos
//! run, which compiles this file by its path.

/// The order in which the lengths of a code's lengths are written (RFC 9649, section 6.2.1).
const LENGTH_ORDER: [usize; 14] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10];

/// Writes bits, the least significant one first.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    position: usize,
}

impl Writer {
    fn put(&mut self, value: u32, count: u32) {
        for at in 0..count {
            if self.position.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> at & 1) as u8) << (self.position % 8);
            }
            self.position += 1;
        }
    }

    fn one_symbol(&mut self, symbol: u32) {
        self.put(0b101, 3);
        self.put(symbol, 8);
    }

    /// Codes of the lengths 1 to 10 and 10 again, for the symbols 0 to 10.
    fn ten_bits(&mut self) {
        // The lengths 1 to 6 are written with 3 bits each, 7 to 10 with 4.
        let lengths: [u32; 19] = std::array::from_fn(|at| match at {
            1..=6 => 3,
            7..=10 => 4,
            _ => 0,
        });
        self.put(0, 1);
        self.put(10, 4);
        LENGTH_ORDER.iter().for_each(|&at| self.put(lengths[at], 3));
        self.put(1, 1);
        self.put(1, 3);
        self.put(11 - 2, 4);
        for length in (1..=10).chain([10]) {
            let (code, bits) = if length <= 6 { (length - 1, 3) } else { (12 + length - 7, 4) };
            (0..bits).rev().for_each(|at| self.put(code >> at & 1, 1));
        }
    }
}

/// A WebP of one pixel that announces `groups` groups of five Huffman codes of ten bits: 53 bytes
/// of the file for 20 kB of tables each.
pub fn of_groups(groups: u32) -> Vec<u8> {
    let mut bits = Writer::default();
    bits.put(0x2f, 8);
    bits.put(0, 28); // one pixel
    bits.put(0, 4); // no alpha, version 0
    bits.put(0b100, 3); // no transform, no colour cache, groups
    bits.put(0, 3);
    bits.put(0, 1);
    let last = groups - 1;
    [last & 255, last >> 8, 0, 255, 0].into_iter().for_each(|symbol| bits.one_symbol(symbol));
    (0..groups * 5).for_each(|_| bits.ten_bits());
    (0..2).for_each(|_| bits.put(0, 32));
    let mut chunk = bits.bytes;
    chunk.resize(chunk.len().next_multiple_of(2), 0);
    let size = chunk.len() as u32;
    let head = [b"RIFF".as_slice(), &(size + 12).to_le_bytes(), b"WEBPVP8L", &size.to_le_bytes()].concat();
    [head, chunk].concat()
}
