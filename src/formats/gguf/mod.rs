//! GGUF files: one file with weights, tokenizer and chat template, as llama.cpp and its relatives use it.
//!
//! Tensors are read row by row. Names, shapes and values are handed out as Hugging Face's, by [`parameters`]: in files of some
//! architectures the rows of the query and key projections are permuted, because llama.cpp rotates neighbouring pairs where Hugging Face
//! rotates the halves of a head ([`Order::Interleaved`]; `permute` in `convert_hf_to_gguf.py`), and norms that multiply by 1 + weight are
//! kept as what they multiply by ([`Order::PlusOne`]). Reading undoes both.

mod container;
mod metadata;
pub(super) mod parts;
mod types;
pub mod writer;

use std::{ops::Range, path::Path};

pub use container::{Container, MetaValue, RawTensor};
pub use types::GgmlType;

use super::{TextSource, weight_file::WeightFile};
use crate::{
    Error, Result,
    architecture::{Architecture, Order, Parameter, parameters},
    storage::{
        DType, TensorInfo, TensorSource,
        source::{byte_range, missing},
    },
};
use metadata::Metadata;
use std::collections::HashMap;

/// An open GGUF model: a file, or several parts.
pub struct Gguf {
    /// The first part describes the model.
    files: Vec<WeightFile>,
    container: Container,
    config: Architecture,
    /// Sorted by name; `located` has the same order.
    tensors: Vec<TensorInfo>,
    located: Vec<Located>,
    unreadable: Vec<(String, String)>,
}

/// Where a readable tensor lies.
struct Located {
    /// Number of the part.
    file: usize,
    bytes: Range<usize>,
    order: Order,
}

impl Gguf {
    /// Opens and checks a file, or all parts of the model of which it is one. Weights are not read.
    ///
    /// # Errors
    /// [`Error::BadInput`] if it cannot be read, is no sound GGUF file, lacks another part, or holds an architecture that graftling does not
    /// know.
    pub fn open(path: &Path) -> Result<Self> {
        let paths = parts::paths(path)?;
        let files = paths.iter().map(|path| WeightFile::open(path)).collect::<Result<Vec<_>>>()?;
        let parse = |file: &WeightFile| Container::parse(&file.path.display().to_string(), file.mapped());
        let mut containers = files.iter().map(parse).collect::<Result<Vec<_>>>()?;
        parts::check(&paths, &containers)?;
        let place = files[0].path.display().to_string();
        let metadata = Metadata { place: &place, container: &containers[0], file: files[0].mapped() };
        let config = Architecture::from_gguf(&metadata)?;
        let known = parameters(&config);
        let known: HashMap<&str, &Parameter> = known.iter().map(|parameter| (parameter.ggml.as_str(), parameter)).collect();

        let mut readable = Vec::new();
        let mut unreadable = Vec::new();
        let all = containers
            .iter()
            .enumerate()
            .flat_map(|(part, container)| container.tensors.iter().map(move |tensor| (part, tensor)));
        for (part, tensor) in all {
            let place = files[part].path.display();
            let parameter = known.get(tensor.name.as_str());
            let name = parameter.map_or(&tensor.name, |parameter| &parameter.name).clone();
            let storage = match tensor.kind {
                Ok(kind) => kind.dtype().ok_or_else(|| kind.name().to_owned()),
                Err(id) => Err(format!("of the unknown type {id}")),
            };
            match storage {
                // A row of a vector is one value; blocks of 32 rows cannot be read by rows, and no converter writes them.
                Ok(storage) if storage.block() > 1 && rows_of(&tensor.shape, parameter.copied()).len() == 1 => {
                    unreadable.push((name, format!("a vector in {}", storage.name())));
                }
                Ok(storage) => {
                    let order = parameter.map_or(Order::Plain, |parameter| parameter.order);
                    let bad = |problem| Err(Error::bad_input(format!("{place}: tensor {name}"), problem, container::DAMAGED));
                    match order {
                        Order::Interleaved(head_dim) if !tensor.shape[0].is_multiple_of(head_dim) => {
                            return bad(format!("has {} rows, no whole number of heads of {head_dim}", tensor.shape[0]));
                        }
                        Order::PlusOne if storage != DType::F32 => {
                            return bad(format!("is {}, but norms are F32", storage.name()));
                        }
                        _ => {}
                    }
                    let bytes = tensor.bytes.len() as u64;
                    let info = TensorInfo { name, shape: rows_of(&tensor.shape, parameter.copied()), storage, bytes };
                    readable.push((info, Located { file: part, bytes: tensor.bytes.clone(), order }));
                }
                Err(kind) => unreadable.push((name, kind)),
            }
        }
        readable.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        if let Some(pair) = readable.windows(2).find(|pair| pair[0].0.name == pair[1].0.name) {
            let what = format!("{place}: tensor {}", pair[0].0.name);
            return Err(Error::bad_input(what, "occurs twice", container::DAMAGED));
        }
        let (tensors, located) = readable.into_iter().unzip();
        let mut container = containers.remove(0);
        container.tensors.extend(containers.into_iter().flat_map(|part| part.tensors));
        Ok(Self { files, container, config, tensors, located, unreadable })
    }

    /// The model's shape.
    pub fn config(&self) -> &Architecture {
        &self.config
    }

    /// What the first file says of the model, and the directory of all files; with ggml's names and types.
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// Whatever the first file says, in its order, as it is said there.
    pub fn pairs(&self) -> Vec<writer::Pair> {
        let file = self.files[0].mapped();
        self.container.pairs.iter().map(|(key, bytes)| writer::Pair::raw(key, &file[bytes.clone()])).collect()
    }

    /// The model's name as its maker wrote it.
    pub fn name(&self) -> Option<String> {
        self.container.metadata.get("general.name").and_then(MetaValue::as_str).map(str::to_owned)
    }

    /// Tokenizer and chat template. A file without a tokenizer gives one without tokens.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the metadata key that has the wrong kind.
    pub fn text(&self) -> Result<TextSource> {
        let first = &self.files[0];
        let place = first.path.display().to_string();
        Metadata { place: &place, container: &self.container, file: first.mapped() }.text()
    }
}

/// The shape as graftling has it, where the file has another number of dimensions: of experts that lie one behind the other, and of a matrix of
/// one row.
fn rows_of(shape: &[usize], parameter: Option<&Parameter>) -> Vec<usize> {
    match (shape, parameter) {
        (&[count, rows, columns], Some(Parameter { experts: Some(experts), .. })) if count == *experts => {
            vec![count.saturating_mul(rows), columns]
        }
        (&[count, values], Some(Parameter { experts: Some(experts), shape, .. })) if count == *experts && shape.len() == 1 => {
            vec![count.saturating_mul(values)]
        }
        (&[columns], Some(parameter)) if parameter.shape == [1, columns] => vec![1, columns],
        _ => shape.to_vec(),
    }
}

impl TensorSource for Gguf {
    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn unreadable(&self) -> &[(String, String)] {
        &self.unreadable
    }

    fn place(&self, name: &str) -> String {
        let part = self.tensors.binary_search_by(|info| info.name.as_str().cmp(name)).map_or(0, |index| self.located[index].file);
        self.files[part].path.display().to_string()
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>> {
        let Ok(index) = self.tensors.binary_search_by(|info| info.name.as_str().cmp(name)) else {
            return Err(missing(self.place(name), name));
        };
        let (info, located) = (&self.tensors[index], &self.located[index]);
        let bytes = byte_range(&self.place(name), info, &rows)?;
        let (file, start) = (&self.files[located.file], located.bytes.start);
        let head_dim = match located.order {
            Order::Interleaved(head_dim) => head_dim,
            Order::Plain => return file.read(start + bytes.start..start + bytes.end),
            Order::PlusOne => {
                let stored = file.read(start + bytes.start..start + bytes.end)?;
                let value = |b: &[u8]| (f32::from_le_bytes([b[0], b[1], b[2], b[3]]) - 1.0).to_le_bytes();
                return Ok(stored.chunks_exact(4).flat_map(value).collect());
            }
        };
        // Rows are permuted within their head, so whole heads are read.
        let row_bytes = bytes.len() / rows.len().max(1);
        let (first, last) = (rows.start / head_dim * head_dim, rows.end.next_multiple_of(head_dim));
        let stored = file.read(start + first * row_bytes..start + last * row_bytes)?;
        Ok(rows
            .flat_map(|row| {
                let at = (stored_row(row, head_dim) - first) * row_bytes;
                &stored[at..at + row_bytes]
            })
            .copied()
            .collect())
    }
}

impl Order {
    /// Rows as a GGUF file keeps them, of rows as Hugging Face does; `bytes` are whole heads, of `row_bytes` a row.
    pub fn stored(self, bytes: Vec<u8>, row_bytes: usize) -> Vec<u8> {
        let Self::Interleaved(head_dim) = self else { return bytes };
        let mut stored = vec![0; bytes.len()];
        for (row, values) in bytes.chunks_exact(row_bytes).enumerate() {
            stored[stored_row(row, head_dim) * row_bytes..][..row_bytes].copy_from_slice(values);
        }
        stored
    }
}

/// The model that metadata and tensors of a file to be written would be read as.
///
/// # Errors
/// As [`Architecture::from_gguf`]; a tensor cannot be stored in its type.
pub fn read_back(pairs: &[writer::Pair], tensors: &[writer::Planned], vectors: &[(String, Vec<f32>)]) -> Result<Architecture> {
    let place = "the GGUF file to be written";
    // The data of all tensors but the vectors that are a part of the description is left out: a hole of the right size.
    let described: Vec<writer::Planned> = vectors
        .iter()
        .map(|(name, values)| writer::Planned { name: name.clone(), shape: vec![values.len()], dtype: DType::F32 })
        .collect();
    let (mut file, sizes) = writer::directory(pairs, &described)?;
    for ((_, values), size) in vectors.iter().zip(sizes) {
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        file.resize(file.len() + (size.next_multiple_of(container::DEFAULT_ALIGNMENT) - size) as usize, 0);
    }
    let mut container = Container::parse(place, &file)?;
    container.tensors.extend(tensors.iter().filter(|tensor| vectors.iter().all(|(name, _)| *name != tensor.name)).map(
        |tensor| {
            let kind = GgmlType::of_dtype(tensor.dtype).ok_or(u32::MAX);
            RawTensor { name: tensor.name.clone(), shape: tensor.shape.clone(), kind, bytes: 0..0 }
        },
    ));
    Architecture::from_gguf(&Metadata { place, container: &container, file: &file })
}

/// The file's row of a Hugging Face row: `h d + t d/2 + j` is stored at `h d + 2 j + t`.
fn stored_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
    head * head_dim + 2 * pair + half
}
