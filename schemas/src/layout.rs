//! Avro's binary format, read strictly: nothing is believed before it was seen, and a fault names its field.
//!
//! apache-avro 0.21 takes a union that is cut off for null, and reserves memory for as many items as a block claims to have. So a
//! value that it is to decode is walked here first.

use std::collections::HashMap;

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

/// The schema with every reference to a named type replaced by its definition, so that it can be walked without a table of names.
///
/// # Errors
/// The name of a type that is not defined before it is used (a recursive type is one), or that there are more than [`TYPES_MAX`].
pub fn inline(schema: &Schema) -> Result<Schema, String> {
    Inliner { known: HashMap::new(), left: TYPES_MAX }.inline(schema)
}

struct Inliner {
    /// By name, with the number of types in it.
    known: HashMap<Name, (Schema, usize)>,
    left: usize,
}

impl Inliner {
    fn inline(&mut self, schema: &Schema) -> Result<Schema, String> {
        if let Schema::Ref { name } = schema {
            return self.definition(name);
        }
        let before = self.left;
        self.spend(1)?;
        let mut inlined = schema.clone();
        match &mut inlined {
            Schema::Array(array) => *array.items = self.inline(&array.items)?,
            Schema::Map(map) => *map.types = self.inline(&map.types)?,
            Schema::Union(union) => {
                let variants: Result<Vec<_>, _> =
                    union.variants().iter().map(|variant| self.inline(variant)).collect();
                *union = UnionSchema::new(variants?).map_err(|error| error.to_string())?;
            }
            Schema::Record(record) => {
                for field in &mut record.fields {
                    field.schema = self.inline(&field.schema)?;
                }
            }
            _ => {}
        }
        if let Some(name) = schema.name() {
            self.known.insert(name.clone(), (inlined.clone(), before - self.left));
        }
        Ok(inlined)
    }

    fn definition(&mut self, name: &Name) -> Result<Schema, String> {
        let unknown = || format!("the type {name} is recursive or unknown");
        let types = self.known.get(name).ok_or_else(unknown)?.1;
        self.spend(types)?;
        Ok(self.known[name].0.clone())
    }

    fn spend(&mut self, types: usize) -> Result<(), String> {
        let left = self.left.checked_sub(types);
        self.left = left.ok_or_else(|| format!("it unfolds to more than {TYPES_MAX} types"))?;
        Ok(())
    }
}

/// Walks one value of an [inlined](inline) schema; returns the number of bytes after it.
pub fn walk(schema: &Schema, bytes: &[u8]) -> Result<usize, Fault> {
    let mut input = Input::new(bytes);
    input.skip_value(schema)?;
    Ok(input.remaining())
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
    /// Every item of ours takes a byte or more, so a count beyond the bytes left is a lie or a cut.
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

    fn skip_value(&mut self, schema: &Schema) -> Result<(), Fault> {
        match schema {
            Schema::Null => Ok(()),
            Schema::Boolean => self.take(1).map(drop),
            Schema::Int | Schema::Date | Schema::TimeMillis => self.int().map(drop),
            Schema::Float => self.take(4).map(drop),
            Schema::Double => self.take(8).map(drop),
            Schema::Duration => self.take(12).map(drop),
            Schema::Bytes | Schema::BigDecimal => self.sized().map(drop),
            Schema::String | Schema::Uuid => self.text().map(drop),
            Schema::Fixed(fixed) => self.take(fixed.size).map(drop),
            Schema::Decimal(decimal) => self.skip_value(&decimal.inner),
            Schema::Enum(symbols) => self.index(symbols.symbols.len()).map(drop),
            Schema::Union(union) => {
                self.index(union.variants().len()).and_then(|at| self.skip_value(&union.variants()[at]))
            }
            Schema::Array(array) => self.skip_blocks(|input| input.skip_value(&array.items)),
            Schema::Map(map) => {
                self.skip_blocks(|input| input.text().and_then(|_| input.skip_value(&map.types)))
            }
            Schema::Record(record) => record.fields.iter().try_for_each(|field| {
                self.skip_value(&field.schema).map_err(|fault| fault.inside(&field.name))
            }),
            Schema::Ref { .. } => Err(Fault::new(FaultKind::Invalid("its schema was not inlined"))),
            // What is left of Avro's types is written as a long.
            _ => self.long().map(drop),
        }
    }

    fn skip_blocks(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut before = 0;
        while let Some(count) = self.block(before)? {
            (0..count).try_for_each(|_| item(self))?;
            before += count;
        }
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
