//! Where stored weights come from: named tensors, read by rows, as stored or as f32. What reads files is above, in [`crate::formats`].

use std::collections::BTreeMap;
use std::ops::Range;

use super::DType;
use crate::{Error, Result};

/// One tensor of a model file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Hugging Face's name, whatever the file calls it: `model.layers.3.self_attn.q_proj.weight`.
    pub name: String,
    /// `[out_features, in_features]` for a matrix, `[features]` for a vector.
    pub shape: Vec<usize>,
    /// How the file stores the numbers.
    pub storage: DType,
    /// Bytes in the file.
    pub bytes: u64,
}

impl TensorInfo {
    /// Rows as [`TensorSource::read_rows_f32`] counts them: the first dimension. A vector has as many rows as values.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Values in a row: the product of all dimensions but the first (1 for a vector).
    pub fn row_values(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Number of values.
    pub fn values(&self) -> u64 {
        self.shape.iter().map(|&dimension| dimension as u64).product()
    }
}

/// Tensors, values and bytes of a file in one format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FormatTotal {
    pub tensors: usize,
    pub values: u64,
    pub bytes: u64,
}

/// What a file holds, by the names of its formats.
pub type ByFormat = BTreeMap<String, FormatTotal>;

/// Adds a tensor to a tally.
pub fn count(by_format: &mut ByFormat, name: &str, values: u64, bytes: u64) {
    let total = by_format.entry(name.to_owned()).or_default();
    total.tensors += 1;
    // A file may say anything of its shapes.
    total.values = total.values.saturating_add(values);
    total.bytes = total.bytes.saturating_add(bytes);
}

/// The tally of these tensors.
pub fn by_format(tensors: &[TensorInfo]) -> ByFormat {
    let mut all = ByFormat::new();
    tensors.iter().for_each(|info| count(&mut all, info.storage.name(), info.values(), info.bytes));
    all
}

/// A model file whose tensors can be read. Names and shapes are Hugging Face's; reading dequantises exactly.
///
/// Reading takes `&self` and may happen from several threads.
pub trait TensorSource: Send + Sync {
    /// All tensors that this source can read, sorted by name.
    fn tensors(&self) -> &[TensorInfo];

    /// Tensors that the file has but that cannot be read, as `(name, type)`, the type being `Q4_K` or `F64`, say.
    fn unreadable(&self) -> &[(String, String)];

    /// Where the tensor is stored, for messages: the file's path.
    fn place(&self, name: &str) -> String;

    /// Rows `rows` of tensor `name` as they rest in the file, in the blocks of its format. A GGUF's permuted query and key
    /// rows arrive in Hugging Face's order.
    ///
    /// # Errors
    /// [`Error::BadInput`] if the tensor is not there, or the rows lie outside it.
    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>>;

    /// The order in which the columns of a tensor's blocks rest, if they have one of their own ([`DType::is_ordered`]): column k of a block's
    /// row is column `order[k]` of the matrix.
    fn order(&self, _name: &str) -> Option<Vec<u32>> {
        None
    }

    /// The same rows as f32, row-major: `out` is `[rows.len(), in_features]`.
    ///
    /// # Errors
    /// As [`TensorSource::read_rows`], and if `out` has another length.
    fn read_rows_f32(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let Some(info) = self.find(name) else { return Err(missing(self.place(name), name)) };
        let fits = rows.len().checked_mul(info.row_values()) == Some(out.len());
        if !fits {
            let problem = format!("{} rows of shape {:?} do not fill {} values", rows.len(), info.shape, out.len());
            return Err(Error::bad_input(format!("{}: tensor {name}", self.place(name)), problem, CALLER));
        }
        info.storage.dequantise(&self.read_rows(name, rows)?, out);
        if let Some(order) = self.order(name) {
            for row in out.chunks_exact_mut(order.len().max(1)) {
                let resting = row.to_vec();
                order.iter().zip(resting).for_each(|(&column, value)| row[column as usize] = value);
            }
        }
        Ok(())
    }

    /// The tensor of that name.
    fn find(&self, name: &str) -> Option<&TensorInfo> {
        let tensors = self.tensors();
        tensors.binary_search_by(|info| info.name.as_str().cmp(name)).ok().map(|index| &tensors[index])
    }

    /// A whole tensor as f32, row-major.
    ///
    /// # Errors
    /// As [`TensorSource::read_rows_f32`].
    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let Some(info) = self.find(name) else { return Err(missing(self.place(name), name)) };
        let mut out = vec![0.0; info.rows() * info.row_values()];
        self.read_rows_f32(name, 0..info.rows(), &mut out)?;
        Ok(out)
    }
}

const CALLER: &str =
    "This is a mistake in the calling program: ask for rows inside the tensor and give room for all their values.";

/// The bytes of rows `rows` within those of their whole tensor.
pub(crate) fn byte_range(place: &str, info: &TensorInfo, rows: &Range<usize>) -> Result<Range<usize>> {
    if rows.start > rows.end || rows.end > info.rows() {
        let problem = format!("rows {}..{} were asked for, but its shape is {:?}", rows.start, rows.end, info.shape);
        return Err(Error::bad_input(format!("{place}: tensor {}", info.name), problem, CALLER));
    }
    let row_bytes = info.row_values() / info.storage.block() * info.storage.block_bytes();
    Ok(rows.start * row_bytes..rows.end * row_bytes)
}

pub(crate) fn missing(place: String, name: &str) -> Error {
    Error::bad_input(
        format!("{place}: tensor {name}"),
        "is not in the file",
        "Check that the file is complete and belongs to this model; download or convert it again if it does not.",
    )
}
