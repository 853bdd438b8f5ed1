//! The directory of a safetensors file: a JSON header before raw numbers.
//!
//! Layout (the format's README): the header's length as u64, the header `{"name": {"dtype", "shape", "data_offsets"}, ...}`
//! with an optional `__metadata__`, then the data without holes. The header is read here and not by the `safetensors` crate,
//! so that a wrong file is refused with the tensor's name and the numbers that do not fit, and so that no sum can overflow.

use std::{collections::BTreeMap, fmt, io::Write, path::Path};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use serde_json::{Value, json};

use super::atomic;
use super::stored::{Entry, element_bits};
use crate::storage::DType;
use crate::{Error, Result};

/// The format allows headers of up to 100 MB.
const LARGEST_HEADER: u64 = 100_000_000;
/// What to do about a file that breaks the format's rules.
const DAMAGED: &str = "The file is damaged or was cut off: delete it and download or save it again.";

/// The directory of a file: names and entries in the order of their data, each holding exactly its shape's values.
///
/// # Errors
/// [`Error::BadInput`] naming the file, and the tensor where there is one, if it is not sound.
pub(super) fn directory(path: &Path, file: &[u8]) -> Result<Vec<(String, Entry)>> {
    let bad = |problem: String| Error::bad_input(path.display(), problem, DAMAGED);
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(bad(format!("has {} bytes, too few for a safetensors file", file.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > LARGEST_HEADER || length > rest.len() as u64 {
        return Err(bad(format!(
            "announces a header of {length} bytes, but only {} follow (at most 100 MB are allowed)",
            rest.len()
        )));
    }
    let (header, data) = rest.split_at(length as usize);
    let start = 8 + header.len();
    let Header(entries) =
        serde_json::from_slice(header).map_err(|error| bad(format!("has a header that is no table of tensors: {error}")))?;

    let mut order: Vec<(String, RawEntry)> = entries.into_iter().collect();
    order.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut end_before = 0;
    let mut directory = Vec::with_capacity(order.len());
    for (name, RawEntry { dtype, shape, data_offsets: (begin, end) }) in order {
        let bad = |problem: String| Err(Error::bad_input(format!("{}: tensor {name}", path.display()), problem, DAMAGED));
        if begin != end_before || end < begin {
            return bad(format!("lies at bytes {begin}..{end}, but the data before it end at {end_before}"));
        }
        if end > data.len() as u64 {
            return bad(format!("ends at byte {end} of the data, but the file has only {} (it was cut off)", data.len()));
        }
        let bits = element_bits(&dtype);
        let values = shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size as u64));
        let needed = values.zip(bits).and_then(|(values, bits)| values.checked_mul(bits));
        if bits.is_some() && needed != Some((end - begin).saturating_mul(8)) {
            return bad(format!("has shape {shape:?} in {dtype}, which does not take the {} bytes that it has", end - begin));
        }
        end_before = end;
        directory.push((name, Entry::new(dtype, shape, start + begin as usize, None)));
    }
    if end_before != data.len() as u64 {
        return Err(bad(format!("has {} bytes of data, but its tensors end at byte {end_before}", data.len())));
    }
    Ok(directory)
}

/// A tensor that a file will have; its type is one of single numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: DType,
}

/// Writes a file, all or nothing. `data` gives the bytes of the tensor with this number, in the order of `tensors`, piece by piece.
///
/// # Errors
/// As [`atomic::write()`], and what `data` gives.
pub fn write(
    path: &Path,
    tensors: &[Planned],
    mut data: impl FnMut(usize, &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let mut header = serde_json::Map::new();
    // As transformers asks for it.
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut end = 0_u64;
    let mut ends = Vec::with_capacity(tensors.len());
    for Planned { name, shape, dtype } in tensors {
        let values: u64 = shape.iter().map(|&size| size as u64).product();
        let begin = end;
        end += values * dtype.block_bytes() as u64;
        header.insert(name.clone(), json!({ "dtype": dtype.name(), "shape": shape, "data_offsets": [begin, end] }));
        ends.push(end);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // The data begin at a multiple of 8, as the library has it.
    header.resize(header.len().next_multiple_of(8), b' ');
    atomic::write_with(path, |file| {
        let full = |error| atomic::unwritable(path, &error);
        file.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| file.write_all(&header)).map_err(full)?;
        let mut written = 0;
        for (number, &end) in ends.iter().enumerate() {
            data(number, &mut |bytes| {
                written += bytes.len() as u64;
                file.write_all(bytes).map_err(full)
            })?;
            assert_eq!(written, end, "{} has another size", tensors[number].name);
        }
        Ok(())
    })
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// The header's tensors: every key but `__metadata__`. A name that occurs twice is an error.
struct Header(BTreeMap<String, RawEntry>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a table of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else if let Some(_earlier) = entries.insert(name, map.next_value()?) {
                        return Err(serde::de::Error::custom("a tensor's name occurs twice"));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
