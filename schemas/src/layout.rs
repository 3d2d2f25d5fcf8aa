//! Walks an encoded value under its schema before it is decoded, allocating nothing.
//!
//! apache-avro 0.21 takes a union that is cut off for null, and reserves memory for as many items as a block claims to have. This
//! walk finds both, says which field is wrong, and counts the bytes that follow the value.

use std::collections::HashMap;

use apache_avro::schema::{Name, Schema, UnionSchema};

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

/// The schema with every reference to a named type replaced by its definition, so that it can be walked, and written with serde,
/// without a table of names.
///
/// # Errors
/// The name of a type that is not defined before it is used; a recursive type is one.
pub fn inline(schema: &Schema) -> Result<Schema, String> {
    inline_known(schema, &mut HashMap::new())
}

fn inline_known(schema: &Schema, known: &mut HashMap<Name, Schema>) -> Result<Schema, String> {
    let mut inlined = schema.clone();
    match &mut inlined {
        Schema::Ref { name } => {
            return known.get(name).cloned().ok_or_else(|| format!("the type {name} is recursive or unknown"));
        }
        Schema::Array(array) => *array.items = inline_known(&array.items, known)?,
        Schema::Map(map) => *map.types = inline_known(&map.types, known)?,
        Schema::Union(union) => {
            let variants: Result<Vec<_>, _> =
                union.variants().iter().map(|variant| inline_known(variant, known)).collect();
            *union = UnionSchema::new(variants?).map_err(|error| error.to_string())?;
        }
        Schema::Record(record) => {
            for field in &mut record.fields {
                field.schema = inline_known(&field.schema, known)?;
            }
        }
        _ => {}
    }
    if let Some(name) = schema.name() {
        known.insert(name.clone(), inlined.clone());
    }
    Ok(inlined)
}

/// Walks one value of an [inlined](inline) schema; returns the number of bytes after it.
pub fn walk(schema: &Schema, bytes: &[u8]) -> Result<usize, Fault> {
    let mut rest = Rest(bytes);
    rest.value(schema)?;
    Ok(rest.0.len())
}

/// What is left of the bytes.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn value(&mut self, schema: &Schema) -> Result<(), Fault> {
        match schema {
            Schema::Null => Ok(()),
            Schema::Boolean => self.skip(1),
            Schema::Int | Schema::Date | Schema::TimeMillis => self.int(),
            Schema::Float => self.skip(4),
            Schema::Double => self.skip(8),
            Schema::Duration => self.skip(12),
            Schema::Bytes | Schema::String | Schema::Uuid | Schema::BigDecimal => self.sized(),
            Schema::Fixed(fixed) => self.skip(fixed.size),
            Schema::Decimal(decimal) => self.value(&decimal.inner),
            Schema::Enum(symbols) => self.index(symbols.symbols.len()).map(drop),
            Schema::Union(union) => {
                let variant = self.index(union.variants().len())?;
                self.value(&union.variants()[variant])
            }
            Schema::Array(array) => self.blocks(|rest| rest.value(&array.items)),
            Schema::Map(map) => self.blocks(|rest| {
                rest.sized()?;
                rest.value(&map.types)
            }),
            Schema::Record(record) => record
                .fields
                .iter()
                .try_for_each(|field| self.value(&field.schema).map_err(|fault| fault.inside(&field.name))),
            Schema::Ref { .. } => Err(Fault::new(FaultKind::Invalid("its schema was not inlined"))),
            // What is left of Avro's types is written as a long.
            _ => self.long().map(drop),
        }
    }

    fn blocks(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        loop {
            let count = self.long()?;
            if count < 0 {
                self.long()?;
            }
            if count == 0 {
                return Ok(());
            }
            // Every item of ours takes a byte or more, so a larger count is a lie or a cut.
            if count.unsigned_abs() > self.0.len() as u64 {
                return Err(Fault::new(FaultKind::CutOff));
            }
            for _ in 0..count.unsigned_abs() {
                item(self)?;
            }
        }
    }

    fn index(&mut self, variants: usize) -> Result<usize, Fault> {
        let index = usize::try_from(self.long()?).unwrap_or(usize::MAX);
        if index < variants {
            Ok(index)
        } else {
            Err(Fault::new(FaultKind::Invalid("no such union branch or enum symbol")))
        }
    }

    fn sized(&mut self) -> Result<(), Fault> {
        let length = self.long()?;
        match usize::try_from(length) {
            Ok(length) => self.skip(length),
            Err(_) => Err(Fault::new(FaultKind::Invalid("a length is negative"))),
        }
    }

    fn skip(&mut self, count: usize) -> Result<(), Fault> {
        self.0 = self.0.get(count..).ok_or_else(|| Fault::new(FaultKind::CutOff))?;
        Ok(())
    }

    fn int(&mut self) -> Result<(), Fault> {
        let fits = i32::try_from(self.long()?).is_ok();
        if fits { Ok(()) } else { Err(Fault::new(FaultKind::Invalid("an int does not fit 32 bits"))) }
    }

    /// A zigzag variable-length integer.
    fn long(&mut self) -> Result<i64, Fault> {
        let mut coded = 0_u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or_else(|| Fault::new(FaultKind::CutOff))?;
            self.0 = rest;
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
}

impl Fault {
    fn new(kind: FaultKind) -> Self {
        Self { field: String::new(), kind }
    }

    fn inside(mut self, field: &str) -> Self {
        self.field = if self.field.is_empty() { field.to_owned() } else { format!("{field}.{}", self.field) };
        self
    }
}
