//! Parquet: each row becomes an object, lists of structs among its values.

use bytes::Bytes;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Number, Value};

use crate::confined::{Limits, Stopped, confined};
use crate::{Error, Result};

/// Bytes that reading may take, besides [`MEMORY_A_BYTE`] for each of the file: sizes in the file are a stranger's.
const MAX_MEMORY: usize = 1 << 30;
const MEMORY_A_BYTE: usize = 64;
/// Seconds that it may take, besides a second for each [`BYTES_A_SECOND`].
const SECONDS: u64 = 20;
const BYTES_A_SECOND: usize = 1 << 20;

/// The rows, counted from 1.
///
/// # Errors
/// The file is damaged, or compressed in a way that is not read.
pub(super) fn rows(path: &str, bytes: Vec<u8>) -> Result<Vec<(usize, Map<String, Value>)>> {
    let memory = MAX_MEMORY.saturating_add(bytes.len().saturating_mul(MEMORY_A_BYTE));
    let limits = Limits::new(SECONDS, bytes.len(), BYTES_A_SECOND, memory);
    let damaged = |cause: &str| {
        let problem = format!("the Parquet file cannot be read: {cause}");
        Error::bad_input(path, problem, "download or make it again (compression: snappy, zstd, gzip or none)")
    };
    // Sizes in the file are a stranger's, and the library asserts where a file contradicts itself.
    let rows = confined(limits, move || read(bytes).map_err(|cause| cause.to_string())).map_err(|stopped| match stopped {
        Stopped::Panic(message) => damaged(&message),
        _ => damaged(&format!("reading it {stopped}")),
    })?;
    rows.map_err(|cause| damaged(&cause))
}

fn read(bytes: Vec<u8>) -> parquet::errors::Result<Vec<(usize, Map<String, Value>)>> {
    let reader = SerializedFileReader::new(Bytes::from(bytes))?;
    (1..).zip(reader.get_row_iter(None)?).map(|(number, row)| Ok((number, object(row?)))).collect()
}

/// A row or a struct. A field that is null is left out: the columns of all rows are the same, whatever each of them has. Only
/// `content` stays, which chat templates ask for.
fn object(row: Row) -> Map<String, Value> {
    let fields = row.into_columns().into_iter();
    fields
        .filter(|(name, field)| name == "content" || !matches!(field, Field::Null))
        .map(|(name, field)| (name, value(field)))
        .collect()
}

fn value(field: Field) -> Value {
    let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    match field {
        Field::Null => Value::Null,
        Field::Bool(is) => is.into(),
        Field::Byte(number) => number.into(),
        Field::Short(number) => number.into(),
        Field::Int(number) | Field::Date(number) | Field::TimeMillis(number) => number.into(),
        Field::Long(number) | Field::TimeMicros(number) => number.into(),
        Field::TimestampMillis(number) | Field::TimestampMicros(number) => number.into(),
        Field::UByte(number) => number.into(),
        Field::UShort(number) => number.into(),
        Field::UInt(number) => number.into(),
        Field::ULong(number) => number.into(),
        Field::Float16(number) => float(number.to_f64()),
        Field::Float(number) => float(number.into()),
        Field::Double(number) => float(number),
        Field::Decimal(number) => number.data().to_vec().into(),
        Field::Str(text) => text.into(),
        // Writers that do not mark texts as such.
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into(),
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
        Field::MapInternal(map) => {
            let key = |field: &Field| match value(field.clone()) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            map.entries().iter().map(|(name, field)| (key(name), value(field.clone()))).collect::<Map<_, _>>().into()
        }
    }
}
