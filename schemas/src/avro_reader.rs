//! A strict reader of Avro's binary format. It trusts no length or count, and reports the field of
//! a fault.
//!
//! apache-avro 0.21 reads a truncated union as null, and reserves memory for as many items as a
//! block claims to have. Every value is therefore walked here before apache-avro decodes it.

use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};

use apache_avro::schema::{Name, Schema, UnionSchema};

/// The most items of an array or map. No record needs more, and even items of a byte or two each do
/// not fill the memory once they are read.
pub const ITEMS_MAX: u64 = 65_536;

/// A violation of the schema by a value, and its place.
#[derive(Debug, PartialEq, Eq)]
pub struct DecodeFault {
    /// The field's path, for example `vectors.values`.
    pub field: String,
    pub kind: DecodeFaultKind,
}

#[derive(Debug, PartialEq, Eq)]
pub enum DecodeFaultKind {
    CutOff,
    Invalid(&'static str),
}

/// The most types in a schema whose references are replaced: without a limit, a page of definitions
/// that each name the previous one twice unfolds without end.
pub const TYPES_MAX: usize = 10_000;
/// The deepest nesting of types once references are replaced, so that no stack is too short to walk
/// them.
pub const DEPTH_MAX: usize = 128;
/// This many bytes of names and symbols count as one more type or value, because they are copied
/// with it.
const TEXT_BYTES: usize = 64;

/// The number of values that a datum may have for each of its bytes, in addition to [`ITEMS_MAX`].
///
/// A null, a record and a union take at most one byte and are values of their own. Without a limit,
/// items of no bytes at all would fill the memory.
const VALUES_PER_BYTE: u64 = 4;

/// Replaces every reference to a named type by its definition, so that the schema can be walked
/// without a table of names.
///
/// # Errors
/// A type is used before it is defined (a recursive type is one), there are more than [`TYPES_MAX`]
/// types, or they nest deeper than [`DEPTH_MAX`].
pub fn inline(schema: &Schema) -> Result<Schema, String> {
    Inliner { known: HashMap::new(), left: TYPES_MAX }.inline(schema, 0)
}

/// Returns whether two [inlined](inline) schemas encode values as the same bytes, with the same
/// field names in the same order.
pub fn is_same(one: &Schema, other: &Schema) -> bool {
    match (one, other) {
        (Schema::Array(one), Schema::Array(other)) => is_same(&one.items, &other.items),
        (Schema::Map(one), Schema::Map(other)) => is_same(&one.types, &other.types),
        (Schema::Union(one), Schema::Union(other)) => {
            let (one, other) = (one.variants(), other.variants());
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Schema::Record(one), Schema::Record(other)) => {
            let (one, other) = (&one.fields, &other.fields);
            let mut pairs = one.iter().zip(other);
            let same = pairs.all(|(a, b)| a.name == b.name && is_same(&a.schema, &b.schema));
            one.len() == other.len() && same
        }
        (Schema::Enum(one), Schema::Enum(other)) => one.symbols == other.symbols,
        (Schema::Fixed(one), Schema::Fixed(other)) => one.size == other.size,
        (Schema::Decimal(one), Schema::Decimal(other)) => is_same(&one.inner, &other.inner),
        _ => stored_as(one) == stored_as(other),
    }
}

/// Returns the type that encodes the values of a logical type.
fn stored_as(schema: &Schema) -> Discriminant<Schema> {
    match schema {
        Schema::Uuid => discriminant(&Schema::String),
        Schema::Date | Schema::TimeMillis => discriminant(&Schema::Int),
        Schema::TimeMicros
        | Schema::TimestampMillis
        | Schema::TimestampMicros
        | Schema::TimestampNanos
        | Schema::LocalTimestampMillis
        | Schema::LocalTimestampMicros
        | Schema::LocalTimestampNanos => discriminant(&Schema::Long),
        other => discriminant(other),
    }
}

struct Inliner {
    /// Definitions by name, each with the number of types in it.
    known: HashMap<Name, (Schema, usize)>,
    left: usize,
}

impl Inliner {
    /// Inlines a schema that lies `depth` types below the root.
    fn inline(&mut self, schema: &Schema, depth: usize) -> Result<Schema, String> {
        if let Schema::Ref { name } = schema {
            return self.definition(name, depth);
        }
        check_depth(depth + 1)?;
        let before = self.left;
        self.spend(1 + text_bytes(schema) / TEXT_BYTES)?;
        let inside = depth + 1;
        let mut inlined = schema.clone();
        match &mut inlined {
            Schema::Array(array) => *array.items = self.inline(&array.items, inside)?,
            Schema::Map(map) => *map.types = self.inline(&map.types, inside)?,
            Schema::Union(union) => {
                let variants: Result<Vec<_>, _> =
                    union.variants().iter().map(|variant| self.inline(variant, inside)).collect();
                *union = UnionSchema::new(variants?).map_err(|error| error.to_string())?;
            }
            Schema::Record(record) => {
                for field in &mut record.fields {
                    field.schema = self.inline(&field.schema, inside)?;
                }
            }
            _ => {}
        }
        if let Some(name) = schema.name() {
            self.known.insert(name.clone(), (inlined.clone(), before - self.left));
        }
        Ok(inlined)
    }

    fn definition(&mut self, name: &Name, depth: usize) -> Result<Schema, String> {
        let unknown = || format!("the type {name} is recursive or unknown");
        let (definition, types) = self.known.get(name).ok_or_else(unknown)?;
        check_depth(depth + height(definition))?;
        let (definition, types) = (definition.clone(), *types);
        self.spend(types)?;
        Ok(definition)
    }

    fn spend(&mut self, types: usize) -> Result<(), String> {
        let left = self.left.checked_sub(types);
        self.left = left.ok_or_else(|| format!("it unfolds to more than {TYPES_MAX} types"))?;
        Ok(())
    }
}

fn check_depth(depth: usize) -> Result<(), String> {
    if depth <= DEPTH_MAX { Ok(()) } else { Err(format!("it nests more than {DEPTH_MAX} types")) }
}

/// Returns the depth of nesting in an inlined schema.
fn height(schema: &Schema) -> usize {
    let inside = match schema {
        Schema::Array(array) => height(&array.items),
        Schema::Map(map) => height(&map.types),
        Schema::Union(union) => union.variants().iter().map(height).max().unwrap_or(0),
        Schema::Record(record) => record.fields.iter().map(|field| height(&field.schema)).max().unwrap_or(0),
        _ => 0,
    };
    inside + 1
}

/// Returns the bytes that the type's own names and symbols take, without those of the types inside
/// it.
fn text_bytes(schema: &Schema) -> usize {
    let name = schema.name().map_or(0, |name| name.fullname(None).len());
    let texts: usize = match schema {
        Schema::Enum(symbols) => {
            symbols.symbols.iter().map(|symbol| symbol.len() + size_of::<String>()).sum()
        }
        Schema::Record(record) => record.fields.iter().map(|field| field.name.len()).sum(),
        _ => 0,
    };
    name + texts
}

/// Walks one value of an [inlined](inline) schema and returns the number of bytes after it.
pub fn walk(schema: &Schema, bytes: &[u8]) -> Result<usize, DecodeFault> {
    let values_left = ITEMS_MAX + VALUES_PER_BYTE * bytes.len() as u64;
    let mut walker = Walker { input: Input::new(bytes), values_left };
    walker.skip_value(schema)?;
    Ok(walker.input.remaining())
}

/// The bytes of a value that are not yet read.
#[derive(Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn remaining(&self) -> usize {
        self.0.len()
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeFault> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or_else(|| DecodeFault::new(DecodeFaultKind::CutOff))?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeFault> {
        let (&taken, rest) =
            self.0.split_first_chunk().ok_or_else(|| DecodeFault::new(DecodeFaultKind::CutOff))?;
        self.0 = rest;
        Ok(taken)
    }

    /// Reads a zigzag variable-length integer.
    pub fn long(&mut self) -> Result<i64, DecodeFault> {
        let mut coded = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            if shift == 63 && byte > 1 {
                break;
            }
            coded |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((coded >> 1) as i64 ^ -((coded & 1) as i64));
            }
        }
        Err(DecodeFault::new(DecodeFaultKind::Invalid("an integer has more than 64 bits")))
    }

    pub fn int(&mut self) -> Result<i32, DecodeFault> {
        i32::try_from(self.long()?)
            .map_err(|_| DecodeFault::new(DecodeFaultKind::Invalid("an int does not fit 32 bits")))
    }

    /// Reads the index of a union's branch or of an enum's symbol.
    pub fn index(&mut self, count: usize) -> Result<usize, DecodeFault> {
        let index = usize::try_from(self.long()?).ok().filter(|index| *index < count);
        index.ok_or_else(|| {
            DecodeFault::new(DecodeFaultKind::Invalid("no such branch of a union or symbol of an enum"))
        })
    }

    /// Reads bytes that are preceded by their length.
    pub fn sized(&mut self) -> Result<&'a [u8], DecodeFault> {
        let length = usize::try_from(self.long()?);
        self.take(length.map_err(|_| DecodeFault::new(DecodeFaultKind::Invalid("a length is negative")))?)
    }

    /// Reads UTF-8 that is preceded by its length in bytes.
    pub fn text(&mut self) -> Result<&'a str, DecodeFault> {
        str::from_utf8(self.sized()?)
            .map_err(|_| DecodeFault::new(DecodeFaultKind::Invalid("the text is not UTF-8")))
    }

    /// Reads the number of items in the next block of an array or map, of which `before` items are
    /// already read; none at its end.
    ///
    /// Every item of our schemas takes at least a byte, so a count beyond the bytes left means that
    /// the value is false or truncated. Items of a foreign schema may take no bytes; such a
    /// count is refused all the same.
    pub fn block(&mut self, before: u64) -> Result<Option<u64>, DecodeFault> {
        let count = self.long()?;
        if count < 0 {
            self.long()?;
        }
        match count.unsigned_abs() {
            0 => Ok(None),
            count if count > self.0.len() as u64 => Err(DecodeFault::new(DecodeFaultKind::CutOff)),
            count if count + before > ITEMS_MAX => {
                Err(DecodeFault::new(DecodeFaultKind::Invalid("an array or map has more than 65536 items")))
            }
            count => Ok(Some(count)),
        }
    }
}

/// Skips a value and counts the values in it, because decoding it will build as many.
struct Walker<'a> {
    input: Input<'a>,
    values_left: u64,
}

impl Walker<'_> {
    fn skip_value(&mut self, schema: &Schema) -> Result<(), DecodeFault> {
        self.spend(1)?;
        let input = &mut self.input;
        match schema {
            Schema::Null => Ok(()),
            Schema::Boolean => input.take(1).map(drop),
            Schema::Int | Schema::Date | Schema::TimeMillis => input.int().map(drop),
            Schema::Float => input.take(4).map(drop),
            Schema::Double => input.take(8).map(drop),
            Schema::Duration => input.take(12).map(drop),
            Schema::Bytes | Schema::BigDecimal => input.sized().map(drop),
            Schema::String | Schema::Uuid => input.text().map(drop),
            Schema::Fixed(fixed) => input.take(fixed.size).map(drop),
            Schema::Decimal(decimal) => self.skip_value(&decimal.inner),
            Schema::Enum(symbols) => {
                let at = input.index(symbols.symbols.len())?;
                self.spend_text(&symbols.symbols[at])
            }
            Schema::Union(union) => {
                let at = input.index(union.variants().len())?;
                self.skip_value(&union.variants()[at])
            }
            Schema::Array(array) => self.skip_blocks(|walker| walker.skip_value(&array.items)),
            Schema::Map(map) => self.skip_blocks(|walker| {
                walker.input.text()?;
                walker.skip_value(&map.types)
            }),
            Schema::Record(record) => record.fields.iter().try_for_each(|field| {
                let skipped = self.spend_text(&field.name).and_then(|()| self.skip_value(&field.schema));
                skipped.map_err(|fault| fault.inside(&field.name))
            }),
            Schema::Ref { .. } => {
                Err(DecodeFault::new(DecodeFaultKind::Invalid("its schema was not inlined")))
            }
            // All remaining Avro types are encoded as a long.
            _ => input.long().map(drop),
        }
    }

    fn skip_blocks(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<(), DecodeFault>,
    ) -> Result<(), DecodeFault> {
        let mut before = 0;
        while let Some(count) = self.input.block(before)? {
            (0..count).try_for_each(|_| item(self))?;
            before += count;
        }
        Ok(())
    }

    fn spend_text(&mut self, text: &str) -> Result<(), DecodeFault> {
        self.spend((text.len() / TEXT_BYTES) as u64)
    }

    fn spend(&mut self, values: u64) -> Result<(), DecodeFault> {
        let left = self.values_left.checked_sub(values);
        let too_many = "there are more values than a record of so few bytes may have";
        self.values_left = left.ok_or_else(|| DecodeFault::new(DecodeFaultKind::Invalid(too_many)))?;
        Ok(())
    }
}

impl DecodeFault {
    pub fn new(kind: DecodeFaultKind) -> Self {
        Self { field: String::new(), kind }
    }

    /// Returns the same fault as seen from the record that has this field.
    pub fn inside(mut self, field: &str) -> Self {
        self.field = if self.field.is_empty() { field.to_owned() } else { format!("{field}.{}", self.field) };
        self
    }
}
