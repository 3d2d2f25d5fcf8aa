//! Direct encoding of the current records: no schema is walked, no tree of values is built.
//!
//! A bulk index reads vectors faster than apache-avro can build its trees of values. The encoding
//! here follows the schemas in `avro/`; tests compare both directions with apache-avro. Values of
//! older schemas go through apache-avro (see `codec`).

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::avro_reader::{DecodeFault, DecodeFaultKind, Input};

/// The most items that memory is reserved for at once: a count is not trusted before its items are
/// read.
const RESERVED_ITEMS_MAX: u64 = 4096;

/// A type with one encoding in Avro's binary format.
pub trait Datum: Sized {
    fn write(&self, out: &mut Vec<u8>);
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault>;
}

/// Implements [`Datum`] for a struct as a record. The fields are listed in the order of its schema.
macro_rules! datum {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl $crate::datum::Datum for $type {
            fn write(&self, out: &mut Vec<u8>) {
                let Self { $($field),* } = self;
                $($crate::datum::Datum::write($field, out);)*
            }

            fn read(input: &mut $crate::avro_reader::Input<'_>) -> Result<Self, $crate::avro_reader::DecodeFault> {
                Ok(Self {
                    $($field: $crate::datum::Datum::read(input).map_err(|fault| fault.inside(stringify!($field)))?),*
                })
            }
        }
    };
}
pub(crate) use datum;

impl Datum for i64 {
    fn write(&self, out: &mut Vec<u8>) {
        let mut coded = ((self << 1) ^ (self >> 63)) as u64;
        while coded > 0x7f {
            out.push(coded as u8 | 0x80);
            coded >>= 7;
        }
        out.push(coded as u8);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        input.long()
    }
}

impl Datum for i32 {
    fn write(&self, out: &mut Vec<u8>) {
        i64::from(*self).write(out);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        input.int()
    }
}

impl Datum for f32 {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        input.array().map(f32::from_le_bytes)
    }
}

impl Datum for f64 {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        input.array().map(f64::from_le_bytes)
    }
}

impl Datum for Vec<u8> {
    fn write(&self, out: &mut Vec<u8>) {
        write_sized(self, out);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        input.sized().map(<[u8]>::to_vec)
    }
}

impl Datum for String {
    fn write(&self, out: &mut Vec<u8>) {
        write_sized(self.as_bytes(), out);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        input.text().map(str::to_owned)
    }
}

impl Datum for Uuid {
    fn write(&self, out: &mut Vec<u8>) {
        let mut text = Uuid::encode_buffer();
        write_sized(self.hyphenated().encode_lower(&mut text).as_bytes(), out);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        Uuid::try_parse(input.text()?)
            .map_err(|_| DecodeFault::new(DecodeFaultKind::Invalid("the text is not a UUID")))
    }
}

/// The union of null and the type, null first.
impl<T: Datum> Datum for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        i64::from(self.is_some()).write(out);
        if let Some(value) = self {
            value.write(out);
        }
    }

    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        if input.index(2)? == 0 { Ok(None) } else { T::read(input).map(Some) }
    }
}

impl<T: Datum> Datum for Vec<T> {
    fn write(&self, out: &mut Vec<u8>) {
        write_blocks(self.len(), self.iter(), out, T::write);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        let mut items = Vec::new();
        while let Some(count) = input.block(items.len() as u64)? {
            items.reserve(count.min(RESERVED_ITEMS_MAX) as usize);
            for _ in 0..count {
                items.push(T::read(input)?);
            }
        }
        Ok(items)
    }
}

impl<T: Datum> Datum for BTreeMap<String, T> {
    fn write(&self, out: &mut Vec<u8>) {
        write_blocks(self.len(), self.iter(), out, |(key, value), out| {
            key.write(out);
            value.write(out);
        });
    }

    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        let (mut entries, mut before) = (BTreeMap::new(), 0);
        while let Some(count) = input.block(before)? {
            for _ in 0..count {
                entries.insert(String::read(input)?, T::read(input)?);
            }
            before += count;
        }
        Ok(entries)
    }
}

/// Writes all items in one block, then the empty block that ends them.
fn write_blocks<I>(
    count: usize,
    items: impl Iterator<Item = I>,
    out: &mut Vec<u8>,
    write: impl Fn(I, &mut Vec<u8>),
) {
    if count > 0 {
        (count as i64).write(out);
        items.for_each(|item| write(item, out));
    }
    out.push(0);
}

fn write_sized(bytes: &[u8], out: &mut Vec<u8>) {
    (bytes.len() as i64).write(out);
    out.extend_from_slice(bytes);
}
