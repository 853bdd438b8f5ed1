//! Parquet: each row becomes an object, lists of structs among its values.

use std::time::Duration;

use bytes::Bytes;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Number, Value};

use crate::confined::{Limits, confined};
use crate::{Error, Result};

/// Bytes that reading may hold, besides [`MEMORY_A_BYTE`] for each of the file: the sizes in it are a stranger's.
const MEMORY: usize = 1 << 30;
const MEMORY_A_BYTE: usize = 64;
/// How long reading may take, besides a second for each [`BYTES_A_SECOND`].
const TIME: Duration = Duration::from_secs(60);
const BYTES_A_SECOND: u64 = 1 << 20;

/// The rows, counted from 1.
///
/// # Errors
/// The file is damaged, or compressed in a way that is not read.
pub(super) fn rows(path: &str, bytes: Vec<u8>) -> Result<Vec<(usize, Map<String, Value>)>> {
    let size = bytes.len();
    let limits = Limits {
        time: TIME + Duration::from_secs(size as u64 / BYTES_A_SECOND),
        memory: MEMORY.saturating_add(size.saturating_mul(MEMORY_A_BYTE)),
    };
    let damaged = |cause: String| {
        let problem = format!("the Parquet file cannot be read: {cause}");
        Error::bad_input(path, problem, "download or make it again (compression: snappy, zstd, gzip or none)")
    };
    // The library asserts where a file contradicts itself, and believes its sizes.
    let read = confined(limits, move || read(bytes)).map_err(|stopped| damaged(format!("reading it {stopped}")))?;
    read.map_err(|cause| damaged(cause.to_string()))
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
