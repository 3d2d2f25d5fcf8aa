//! Avro's binary format, read strictly: nothing is believed before it was seen, and a fault names its field.
//!
//! apache-avro 0.21 takes a union that is cut off for null, and reserves memory for as many items as a block claims to have. So a
//! value that it is to decode is walked here first.

use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};

use apache_avro::schema::{Name, Schema, UnionSchema};

/// The most items of an array or map: more than any record has use for, and so few that the least of them, which take a byte or two
/// each, do not fill the memory once they are read.
pub const ITEMS_MAX: u64 = 65_536;

/// Why a value does not follow its schema, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field's path, for example `vectors.values`.
    pub field: String,
    pub kind: FaultKind,
}

#[derive(Debug, PartialEq, Eq)]
pub enum FaultKind {
    CutOff,
    Invalid(&'static str),
}

/// The most types in a schema whose references are replaced: a page of definitions that name each other twice has no end.
pub const TYPES_MAX: usize = 10_000;
/// The most types inside each other once references are replaced, so that no stack is too short to walk them.
pub const DEPTH_MAX: usize = 128;
/// So many bytes of names and symbols count as one type more, or one value more: they are copied with it.
const TEXT_BYTES: usize = 64;

/// The values that a datum may have for each of its bytes, beside [`ITEMS_MAX`]. A null, a record and a union take no byte or one and
/// are values of their own: without a limit, items of no bytes at all would fill the memory.
const VALUES_PER_BYTE: u64 = 4;

/// The schema with every reference to a named type replaced by its definition, so that it can be walked without a table of names.
///
/// # Errors
/// The name of a type that is not defined before it is used (a recursive type is one), or that there are more than [`TYPES_MAX`], or
/// more than [`DEPTH_MAX`] inside each other.
pub fn inline(schema: &Schema) -> Result<Schema, String> {
    Inliner { known: HashMap::new(), left: TYPES_MAX }.inline(schema, 0)
}

/// Whether values of the [inlined](inline) schemas are the same bytes, field by field of the same name.
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

/// What values of a logical type are on the wire.
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
    /// By name, with the number of types in it.
    known: HashMap<Name, (Schema, usize)>,
    left: usize,
}

impl Inliner {
    /// At so many types from the root.
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

/// The types inside each other in an inlined schema.
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

/// What the type's own names and symbols take, whatever is inside it.
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

/// Walks one value of an [inlined](inline) schema; returns the number of bytes after it.
pub fn walk(schema: &Schema, bytes: &[u8]) -> Result<usize, Fault> {
    let values_left = ITEMS_MAX + VALUES_PER_BYTE * bytes.len() as u64;
    let mut walker = Walker { input: Input::new(bytes), values_left };
    walker.skip_value(schema)?;
    Ok(walker.input.remaining())
}

/// What is left of the bytes of a value.
#[derive(Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn remaining(&self) -> usize {
        self.0.len()
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| Fault::new(FaultKind::CutOff))?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (&taken, rest) = self.0.split_first_chunk().ok_or_else(|| Fault::new(FaultKind::CutOff))?;
        self.0 = rest;
        Ok(taken)
    }

    /// A zigzag variable-length integer.
    pub fn long(&mut self) -> Result<i64, Fault> {
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
        Err(Fault::new(FaultKind::Invalid("an integer has more than 64 bits")))
    }

    pub fn int(&mut self) -> Result<i32, Fault> {
        i32::try_from(self.long()?).map_err(|_| Fault::new(FaultKind::Invalid("an int does not fit 32 bits")))
    }

    /// The index of a union's branch or of an enum's symbol.
    pub fn index(&mut self, count: usize) -> Result<usize, Fault> {
        let index = usize::try_from(self.long()?).ok().filter(|index| *index < count);
        index.ok_or_else(|| Fault::new(FaultKind::Invalid("no such branch of a union or symbol of an enum")))
    }

    /// Bytes after their length.
    pub fn sized(&mut self) -> Result<&'a [u8], Fault> {
        let length = usize::try_from(self.long()?);
        self.take(length.map_err(|_| Fault::new(FaultKind::Invalid("a length is negative")))?)
    }

    /// UTF-8 after its length in bytes.
    pub fn text(&mut self) -> Result<&'a str, Fault> {
        str::from_utf8(self.sized()?).map_err(|_| Fault::new(FaultKind::Invalid("the text is not UTF-8")))
    }

    /// The number of items in the next block of an array or map, of which `before` are read; none at its end.
    ///
    /// Every item of ours takes a byte or more, so a count beyond the bytes left is a lie or a cut. Another's may take none.
    pub fn block(&mut self, before: u64) -> Result<Option<u64>, Fault> {
        let count = self.long()?;
        if count < 0 {
            self.long()?;
        }
        match count.unsigned_abs() {
            0 => Ok(None),
            count if count > self.0.len() as u64 => Err(Fault::new(FaultKind::CutOff)),
            count if count + before > ITEMS_MAX => {
                Err(Fault::new(FaultKind::Invalid("an array or map has more than 65536 items")))
            }
            count => Ok(Some(count)),
        }
    }
}

/// Passes over a value and counts the values in it: as many will be built when it is read.
struct Walker<'a> {
    input: Input<'a>,
    values_left: u64,
}

impl Walker<'_> {
    fn skip_value(&mut self, schema: &Schema) -> Result<(), Fault> {
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
            Schema::Ref { .. } => Err(Fault::new(FaultKind::Invalid("its schema was not inlined"))),
            // What is left of Avro's types is written as a long.
            _ => input.long().map(drop),
        }
    }

    fn skip_blocks(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut before = 0;
        while let Some(count) = self.input.block(before)? {
            (0..count).try_for_each(|_| item(self))?;
            before += count;
        }
        Ok(())
    }

    fn spend_text(&mut self, text: &str) -> Result<(), Fault> {
        self.spend((text.len() / TEXT_BYTES) as u64)
    }

    fn spend(&mut self, values: u64) -> Result<(), Fault> {
        let left = self.values_left.checked_sub(values);
        let too_many = "there are more values than a record of so few bytes may have";
        self.values_left = left.ok_or_else(|| Fault::new(FaultKind::Invalid(too_many)))?;
        Ok(())
    }
}

impl Fault {
    pub fn new(kind: FaultKind) -> Self {
        Self { field: String::new(), kind }
    }

    /// The same fault, seen from the record that has this field.
    pub fn inside(mut self, field: &str) -> Self {
        self.field = if self.field.is_empty() { field.to_owned() } else { format!("{field}.{}", self.field) };
        self
    }
}
