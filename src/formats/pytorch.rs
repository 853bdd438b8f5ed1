//! The directory of a file that `torch.save` wrote, since PyTorch 1.6: a zip archive with a pickle, `data.pkl`, that describes tensors, and
//! a file `data/KEY` for the numbers of each storage, which are not compressed.
//!
//! The pickle is not executed but read by [`super::pickle`].

use std::io::Cursor;
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::pickle::{self, Storage, Tensor};
use super::stored::{Entry, element_bits};
use crate::{Error, Result};

/// Names and layouts alone: 100 MB, as of a safetensors header, are a million tensors.
const LARGEST_PICKLE: u64 = 100_000_000;

/// The directory of a file: names and entries in the order of the pickle, each within the storage that it names.
///
/// # Errors
/// [`Error::BadInput`] naming the file, and the tensor where there is one: not this form, damaged, or a pickle that asks for more than
/// tensors.
pub(super) fn directory(path: &Path, file: &[u8]) -> Result<Vec<(String, Entry)>> {
    let bad = |problem: String| Error::bad_input(path.display(), problem, SAVE_AGAIN);
    if !file.starts_with(b"PK") {
        let problem = match file.first() {
            Some(0x80) => "is a pickle in the form of PyTorch before 1.6, which graftling does not read",
            _ => "is no file that torch.save wrote (no zip archive)",
        };
        return Err(bad(problem.to_owned()));
    }
    let mut archive = Archive::open(file).map_err(&bad)?;
    let (start, length) = archive.place("data.pkl").map_err(&bad)?;
    if length as u64 > LARGEST_PICKLE {
        return Err(bad(format!("has a pickle of {length} bytes, more than any model needs")));
    }
    if archive.place("byteorder").is_ok_and(|(start, length)| &file[start..start + length] == b"big") {
        return Err(bad("has numbers with the most significant byte first".to_owned()));
    }
    let tensors = pickle::tensors(&file[start..start + length]).map_err(|problem| bad(format!("has a pickle that {problem}")))?;
    let mut directory = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let entry = archive
            .entry(tensor)
            .map_err(|problem| Error::bad_input(format!("{}: tensor {name}", path.display()), problem, SAVE_AGAIN))?;
        directory.push((name, entry));
    }
    Ok(directory)
}

const SAVE_AGAIN: &str = "Download the file again, or use the model's .safetensors files. If you trust its author, Python can convert it: load \
                          it with transformers (an adapter with PEFT) and call save_pretrained(\"converted\").";

struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    size: usize,
    /// What stands before the names of all files: `archive/`.
    prefix: String,
}

impl<'a> Archive<'a> {
    fn open(file: &'a [u8]) -> std::result::Result<Self, String> {
        let zip = ZipArchive::new(Cursor::new(file)).map_err(|error| format!("is a damaged zip archive: {error}"))?;
        let pickle = zip
            .file_names()
            .find(|name| name.strip_suffix("data.pkl").is_some_and(|rest| rest.is_empty() || rest.ends_with('/')));
        let prefix = pickle.and_then(|name| name.strip_suffix("data.pkl")).ok_or("is a zip archive without data.pkl")?.to_owned();
        Ok(Self { zip, size: file.len(), prefix })
    }

    /// Where a file of the archive begins, and its bytes, all of them inside.
    fn place(&mut self, name: &str) -> std::result::Result<(usize, usize), String> {
        let name = format!("{}{name}", self.prefix);
        let index = self.zip.index_for_name(&name).ok_or_else(|| format!("has no {name}"))?;
        let file = self.zip.by_index_raw(index).map_err(|error| format!("has a damaged entry {name}: {error}"))?;
        if file.encrypted() || file.compression() != CompressionMethod::Stored || file.size() != file.compressed_size() {
            return Err(format!("has {name} compressed or encrypted, which torch.save never does"));
        }
        let end = file.data_start().checked_add(file.size()).filter(|end| *end <= self.size as u64);
        match end {
            Some(_) => Ok((file.data_start() as usize, file.size() as usize)),
            None => Err(format!("is too short for {name} (it was cut off)")),
        }
    }

    /// The tensor with its place in the file.
    fn entry(&mut self, tensor: Tensor) -> std::result::Result<Entry, String> {
        let Tensor { storage: Storage { kind, key, elements }, offset, shape, strides } = tensor;
        let (start, bytes) = self.place(&format!("data/{key}"))?;
        let size = element_bits(kind).unwrap_or(8) as usize / 8;
        if elements.checked_mul(size).is_none_or(|needed| needed > bytes) {
            return Err(format!("is in a storage of {elements} elements in {kind}, but data/{key} has only {bytes} bytes"));
        }
        let values =
            shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size)).filter(|values| *values <= elements);
        let Some(values) = values.filter(|_| strides.len() == shape.len()) else {
            return Err(format!(
                "has shape {shape:?} with strides {strides:?}, more than its storage of {elements} elements has"
            ));
        };
        // The last element that it reaches.
        let last = shape.iter().zip(&strides).try_fold(offset, |place, (&length, &stride)| {
            length.saturating_sub(1).checked_mul(stride).and_then(|along| place.checked_add(along))
        });
        if values > 0 && last.is_none_or(|last| last >= elements) {
            return Err(format!(
                "has shape {shape:?} with strides {strides:?} from element {offset} on, beyond its storage of {elements} elements"
            ));
        }
        let mut next = 1;
        let row_by_row = shape.iter().zip(&strides).rev().all(|(&length, &stride)| {
            let fits = length == 1 || stride == next;
            next = length.max(1).saturating_mul(next);
            fits
        });
        let at = if values > 0 { start + offset * size } else { start };
        Ok(Entry::new(kind.to_owned(), shape, at, (values > 0 && !row_by_row).then_some(strides)))
    }
}
