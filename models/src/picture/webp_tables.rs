//! The memory of a lossless WebP's Huffman tables, before it is decoded.
//!
//! A picture of one pixel may announce 65,536 groups of five codes, for which image-webp builds
//! tables of more than a gigabyte. The number is in the middle of the bit stream, so the stream is
//! read that far here: the transforms, the image of the groups, and the lengths of their codes; see
//! RFC 9649, sections 4 to 6.

/// Bytes of a group besides its tables: five codes of 56 bytes in a vector that grows by copying,
/// and the headers of their allocations.
const GROUP_BYTES: u64 = 5 * 250;
/// image-webp looks up codes of at most this length in a table of `u32`. Each longer code takes two
/// nodes of a tree.
const TABLE_BITS: usize = 10;
const NODE_BYTES: u64 = 16;
const LONGEST_CODE: usize = 15;

/// The order in which the lengths of the codes for code lengths are written.
const LENGTH_ORDER: [usize; 19] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// The sizes of the alphabets: green with lengths, red, blue, alpha, distances.
const ALPHABETS: [usize; 5] = [256 + 24, 256, 256, 256, 40];

/// Returns the bytes that the tables of a WebP take, or a partial sum once it exceeds `limit`;
/// `None` if the bit stream cannot be parsed, in which case it cannot be decoded either.
pub(super) fn table_bytes(webp: &[u8], limit: u64) -> Option<u64> {
    let mut bytes = 0;
    for (name, chunk) in Chunks(webp.get(12..)?) {
        let mut bits = Bits::new(chunk);
        let (width, height) = match name {
            b"VP8L" => {
                bits.read(8)?;
                let (width, height) = (bits.read(14)? + 1, bits.read(14)? + 1);
                bits.read(4)?;
                (width, height)
            }
            // The alpha of a lossy picture, in the same format, with the size of the picture.
            b"ALPH" if chunk.first()? & 3 == 1 => {
                bits.read(8)?;
                lossy_size(webp)?
            }
            _ => continue,
        };
        bytes += Scan { bits, limit: limit.saturating_sub(bytes), bytes: 0 }.picture(width, height)?;
    }
    Some(bytes)
}

/// The chunks of a RIFF file after its header; the last one may be cut short.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = (&'a [u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = self.0.split_first_chunk()?;
        let (size, rest) = rest.split_first_chunk()?;
        let size = u32::from_le_bytes(*size) as usize;
        let (chunk, _) = rest.split_at(size.min(rest.len()));
        self.0 = rest.get(size.saturating_add(size % 2)..).unwrap_or_default();
        Some((name, chunk))
    }
}

/// The size of the canvas, from the extended header, which every lossy WebP with an alpha channel
/// has.
fn lossy_size(webp: &[u8]) -> Option<(u32, u32)> {
    let (_, header) = Chunks(webp.get(12..)?).find(|(name, _)| *name == b"VP8X")?;
    let side =
        |at: usize| Some(u32::from_le_bytes([*header.get(at)?, header[at + 1], *header.get(at + 2)?, 0]) + 1);
    Some((side(4)?, side(7)?))
}

/// Reads bits, the least significant one first.
struct Bits<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    fn bit(&mut self) -> Option<u32> {
        let byte = *self.bytes.get(self.position / 8)?;
        let bit = byte >> (self.position % 8) & 1;
        self.position += 1;
        Some(u32::from(bit))
    }

    fn read(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0, |value, at| Some(value | self.bit()? << at))
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.bit()? == 1)
    }
}

/// A canonical Huffman code: the number of codes of each length, and the symbols by code.
struct Code {
    counts: [u16; LONGEST_CODE + 1],
    symbols: Vec<u16>,
}

impl Code {
    fn of(lengths: &[u8]) -> Self {
        let mut counts = [0; LONGEST_CODE + 1];
        lengths.iter().filter(|&&length| length > 0).for_each(|&length| counts[usize::from(length)] += 1);
        let mut symbols: Vec<u16> =
            (0..lengths.len() as u16).filter(|&at| lengths[usize::from(at)] > 0).collect();
        symbols.sort_by_key(|&symbol| lengths[usize::from(symbol)]);
        Self { counts, symbols }
    }

    fn read(&self, bits: &mut Bits<'_>) -> Option<u16> {
        if let [symbol] = self.symbols[..] {
            return Some(symbol);
        }
        let (mut code, mut first, mut index) = (0i32, 0, 0);
        for &count in &self.counts[1..] {
            code |= bits.bit()? as i32;
            let count = i32::from(count);
            if code - count < first {
                return self.symbols.get(usize::try_from(index + code - first).ok()?).copied();
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }

    /// The bytes of image-webp's table and tree for this code.
    fn bytes(&self) -> u64 {
        let Some(longest) = self.counts.iter().rposition(|&count| count > 0) else { return 0 };
        if self.symbols.len() < 2 {
            return 0;
        }
        let long: u64 =
            self.counts[(TABLE_BITS + 1).min(LONGEST_CODE)..].iter().map(|&count| u64::from(count)).sum();
        (4 << longest.min(TABLE_BITS)) + 2 * NODE_BYTES * long
    }
}

/// The five codes of a part of a picture.
type Group = [Code; 5];

struct Scan<'a> {
    bits: Bits<'a>,
    limit: u64,
    bytes: u64,
}

impl Scan<'_> {
    /// Reads a picture up to its pixels, and returns the bytes of the tables of its groups.
    fn picture(mut self, width: u32, height: u32) -> Option<u64> {
        let width = self.transforms(width, height)?;
        let cache_bits = self.color_cache()?;
        let mut groups = 1;
        if self.bits.flag()? {
            let bits = self.bits.read(3)? + 2;
            let image = self.image(width.div_ceil(1 << bits), height.div_ceil(1 << bits))?;
            groups = 1 + image.iter().map(|pixel| pixel >> 8 & 0xffff).max()?;
        }
        self.bytes = 0;
        for _ in 0..groups {
            self.group(cache_bits)?;
            if self.bytes > self.limit {
                break;
            }
        }
        Some(self.bytes)
    }

    /// Reads the transforms, and returns the width of the picture before the last of them.
    fn transforms(&mut self, width: u32, height: u32) -> Option<u32> {
        let mut width = width;
        while self.bits.flag()? {
            match self.bits.read(2)? {
                0 | 1 => {
                    let bits = self.bits.read(3)? + 2;
                    self.image(width.div_ceil(1 << bits), height.div_ceil(1 << bits))?;
                }
                2 => {}
                _ => {
                    let colors = self.bits.read(8)? + 1;
                    self.image(colors, 1)?;
                    let bits = [2, 4, 16].into_iter().filter(|&most| colors <= most).count();
                    width = width.div_ceil(1 << bits);
                }
            }
        }
        Some(width)
    }

    /// Returns the bits of the colour cache's index; 0 without a cache.
    fn color_cache(&mut self) -> Option<u32> {
        if !self.bits.flag()? {
            return Some(0);
        }
        self.bits.read(4).filter(|bits| (1..=11).contains(bits))
    }

    fn group(&mut self, cache_bits: u32) -> Option<Group> {
        let cache = if cache_bits > 0 { 1 << cache_bits } else { 0 };
        self.bytes += GROUP_BYTES;
        let mut codes = Vec::with_capacity(5);
        for (at, alphabet) in ALPHABETS.into_iter().enumerate() {
            let code = self.code(alphabet + if at == 0 { cache } else { 0 })?;
            self.bytes += code.bytes();
            codes.push(code);
        }
        codes.try_into().ok()
    }

    fn code(&mut self, alphabet: usize) -> Option<Code> {
        let mut lengths = vec![0u8; alphabet];
        if self.bits.flag()? {
            let two = self.bits.flag()?;
            let bits = if self.bits.flag()? { 8 } else { 1 };
            *lengths.get_mut(self.bits.read(bits)? as usize)? = 1;
            if two {
                *lengths.get_mut(self.bits.read(8)? as usize)? = 1;
            }
            return Some(Code::of(&lengths));
        }
        let mut of_lengths = [0u8; 19];
        for &at in LENGTH_ORDER.iter().take(4 + self.bits.read(4)? as usize) {
            of_lengths[at] = self.bits.read(3)? as u8;
        }
        let code = Code::of(&of_lengths);
        let mut left = alphabet;
        if self.bits.flag()? {
            let bits = 2 + 2 * self.bits.read(3)?;
            left = 2 + self.bits.read(bits)? as usize;
        }
        let (mut at, mut last) = (0, 8);
        while at < alphabet && left > 0 {
            left -= 1;
            let (length, times) = match code.read(&mut self.bits)? {
                16 => (last, 3 + self.bits.read(2)?),
                17 => (0, 3 + self.bits.read(3)?),
                18 => (0, 11 + self.bits.read(7)?),
                length => (length as u8, 1),
            };
            last = if length > 0 { length } else { last };
            lengths.get_mut(at..at + times as usize)?.fill(length);
            at += times as usize;
        }
        Some(Code::of(&lengths))
    }

    /// Decodes an image that has one group of codes, such as those of the transforms and groups.
    fn image(&mut self, width: u32, height: u32) -> Option<Vec<u32>> {
        let cache_bits = self.color_cache()?;
        let [green, red, blue, alpha, distance] = self.group(cache_bits)?;
        let pixels = width as usize * height as usize;
        let mut cache = vec![0u32; 1 << cache_bits];
        let mut image: Vec<u32> = Vec::with_capacity(pixels);
        while image.len() < pixels {
            let from = image.len();
            match usize::from(green.read(&mut self.bits)?) {
                literal @ 0..256 => {
                    let mut of = |code: &Code| Some(u32::from(code.read(&mut self.bits)?));
                    let (red, blue, alpha) = (of(&red)?, of(&blue)?, of(&alpha)?);
                    image.push(alpha << 24 | red << 16 | (literal as u32) << 8 | blue);
                }
                length @ 256..280 => {
                    let length = self.prefixed(length - 256)?;
                    let code = usize::from(distance.read(&mut self.bits)?);
                    let distance = plane_distance(self.prefixed(code)?, width as usize);
                    if distance > from || length > pixels - from {
                        return None;
                    }
                    (0..length).for_each(|at| image.push(image[from + at - distance]));
                }
                cached => image.push(*cache.get(cached - 280).filter(|_| cache_bits > 0)?),
            }
            if cache_bits > 0 {
                for &pixel in &image[from..] {
                    cache[(0x1e35_a7bd_u32.wrapping_mul(pixel) >> (32 - cache_bits)) as usize] = pixel;
                }
            }
        }
        Some(image)
    }

    /// A length or a distance: a prefix, and the bits that follow it.
    fn prefixed(&mut self, prefix: usize) -> Option<usize> {
        if prefix < 4 {
            return Some(prefix + 1);
        }
        let bits = (prefix as u32 - 2) >> 1;
        Some(((2 + (prefix & 1)) << bits) + self.bits.read(bits)? as usize + 1)
    }
}

/// Turns a distance code into a number of pixels: the first 120 are nearby pixels in two
/// dimensions.
fn plane_distance(code: usize, width: usize) -> usize {
    match code.checked_sub(120) {
        Some(distance) if distance > 0 => distance,
        _ => {
            let (x, y) = NEARBY[code - 1];
            usize::try_from(i64::from(x) + i64::from(y) * width as i64).unwrap_or(0).max(1)
        }
    }
}

/// The pixels that the first 120 distance codes stand for: columns to the left, rows up (RFC 9649,
/// section 5.2.2).
#[rustfmt::skip]
const NEARBY: [(i8, i8); 120] = [
    (0, 1), (1, 0), (1, 1), (-1, 1), (0, 2), (2, 0), (1, 2), (-1, 2), (2, 1), (-2, 1),
    (2, 2), (-2, 2), (0, 3), (3, 0), (1, 3), (-1, 3), (3, 1), (-3, 1), (2, 3), (-2, 3),
    (3, 2), (-3, 2), (0, 4), (4, 0), (1, 4), (-1, 4), (4, 1), (-4, 1), (3, 3), (-3, 3),
    (2, 4), (-2, 4), (4, 2), (-4, 2), (0, 5), (3, 4), (-3, 4), (4, 3), (-4, 3), (5, 0),
    (1, 5), (-1, 5), (5, 1), (-5, 1), (2, 5), (-2, 5), (5, 2), (-5, 2), (4, 4), (-4, 4),
    (3, 5), (-3, 5), (5, 3), (-5, 3), (0, 6), (6, 0), (1, 6), (-1, 6), (6, 1), (-6, 1),
    (2, 6), (-2, 6), (6, 2), (-6, 2), (4, 5), (-4, 5), (5, 4), (-5, 4), (3, 6), (-3, 6),
    (6, 3), (-6, 3), (0, 7), (7, 0), (1, 7), (-1, 7), (5, 5), (-5, 5), (7, 1), (-7, 1),
    (4, 6), (-4, 6), (6, 4), (-6, 4), (2, 7), (-2, 7), (7, 2), (-7, 2), (3, 7), (-3, 7),
    (7, 3), (-7, 3), (5, 6), (-5, 6), (6, 5), (-6, 5), (8, 0), (4, 7), (-4, 7), (7, 4),
    (-7, 4), (8, 1), (8, 2), (6, 6), (-6, 6), (8, 3), (5, 7), (-5, 7), (7, 5), (-7, 5),
    (8, 4), (6, 7), (-6, 7), (7, 6), (-7, 6), (8, 5), (7, 7), (-7, 7), (8, 6), (8, 7),
];

#[cfg(test)]
mod tests {
    use super::super::webp_of_groups::of_groups;
    use super::*;

    #[test]
    fn groups_are_counted_with_their_tables() {
        let tables = |groups| table_bytes(&of_groups(groups), u64::MAX);
        assert_eq!(tables(2), Some(2 * (GROUP_BYTES + 5 * 4096)));
        assert_eq!(tables(300), Some(300 * (GROUP_BYTES + 5 * 4096)));
        let picture = image::load_from_memory(&of_groups(300)).unwrap();
        assert_eq!((picture.width(), picture.height()), (1, 1), "the decoder accepts it");
    }

    #[test]
    fn counting_ends_at_the_limit() {
        let counted = table_bytes(&of_groups(65_536), 1 << 20).unwrap();
        assert!((1 << 20..2 << 20).contains(&counted), "{counted}");
    }

    #[test]
    fn a_long_code_takes_a_tree() {
        let mut lengths: Vec<u8> = (1..=15).collect();
        lengths.push(15);
        assert_eq!(Code::of(&lengths).bytes(), 4096 + 6 * 2 * NODE_BYTES);
        assert_eq!(Code::of(&[0, 1, 0]).bytes(), 0);
        assert_eq!(Code::of(&[1, 1]).bytes(), 8);
    }

    #[test]
    fn files_of_libwebp_are_understood() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
        for (file, least) in [("webp/groups.webp", 4), ("webp/alpha.webp", 1), ("pictures/photo.webp", 1)] {
            let bytes = std::fs::read(folder.join(file)).unwrap();
            let tables = table_bytes(&bytes, u64::MAX);
            assert!(tables.is_some_and(|tables| tables >= least * GROUP_BYTES), "{file}: {tables:?}");
        }
    }

    #[test]
    fn a_stream_cut_short_is_not_understood() {
        let whole = of_groups(9);
        for length in [0, 11, 20, 25, 30, 60, 200] {
            assert_eq!(table_bytes(&whole[..length], u64::MAX), None, "{length}");
        }
        assert_eq!(table_bytes(&whole[..19], u64::MAX), Some(0), "there is no chunk yet");
    }
}
