//! The frozen weights on the device: in which type they rest, how they are split, how they get there.

use super::graph::{Model, RopeRow, order_names};
use super::inspection::Inspection;
use crate::architecture::{Architecture, is_a_router, is_of_a_layer, parameters};
use crate::gpu::{Device, split_rows};
use crate::graph::{Origin, ValueId};
use crate::ops::rope::rope_table_of;
use crate::plan::{Pinned, Tuned};
use crate::storage::mixture::for_rows;
use crate::storage::{DType, TensorInfo, TensorSource, convert, double_quant, encode};
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// In which format the matrices rest on the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WeightType {
    /// As in the file, value for value.
    #[default]
    Lossless,
    /// Rounded to this. A matrix whose rows are no whole blocks of it gets what llama.cpp takes instead ([`for_rows`]); where they are no
    /// whole blocks of that either, it stays as in the file.
    ///
    /// NF4 is for layers alone, as in bitsandbytes: embedding and output matrix stay as in the file.
    In(DType),
    /// NF4 whose absmax are rounded too ([`double_quant`]), unless the file has NF4 already.
    DoubleNf4,
}

impl WeightType {
    /// What `--weights` asks for, which may be left out: then nothing is lost against the file. With NF4, `double_quant` rounds absmax too.
    pub fn asked(weights: Option<DType>, double_quant: bool) -> Self {
        match weights {
            Some(DType::NF4) if double_quant => Self::DoubleNf4,
            Some(dtype) => Self::In(dtype),
            None => Self::Lossless,
        }
    }

    /// The format in which a tensor of the file will rest. Vectors (norms) are small and always f32.
    pub fn of(self, tensor: &TensorInfo) -> DType {
        match self {
            _ if tensor.shape.len() < 2 => DType::F32,
            _ if is_a_router(&tensor.name) => tensor.storage,
            Self::DoubleNf4 => Self::In(DType::NF4).of(tensor),
            Self::In(DType::NF4) if !is_of_a_layer(&tensor.name) => tensor.storage,
            Self::In(dtype) => {
                let dtype = for_rows(dtype, tensor.row_values());
                if tensor.row_values().is_multiple_of(dtype.block()) { dtype } else { tensor.storage }
            }
            Self::Lossless => tensor.storage,
        }
    }

    /// Which matrices will rest otherwise than asked, a sentence for each format and length of rows.
    pub fn exceptions(self, tensors: &[&TensorInfo]) -> Vec<String> {
        let asked = match self {
            Self::Lossless => return Vec::new(),
            Self::In(asked) => asked,
            Self::DoubleNf4 => DType::NF4,
        };
        let is_meant = |tensor: &&&TensorInfo| {
            tensor.shape.len() > 1 && !is_a_router(&tensor.name) && (asked != DType::NF4 || is_of_a_layer(&tensor.name))
        };
        let matrices = tensors.iter().filter(is_meant);
        let mut counts: BTreeMap<(usize, DType), usize> = BTreeMap::new();
        for tensor in matrices.clone() {
            let found = self.of(tensor);
            if found != asked {
                *counts.entry((tensor.row_values(), found)).or_default() += 1;
            }
        }
        let of = matrices.count();
        let say = |((row, found), count): ((usize, DType), usize)| {
            format!(
                "{count} of {of} matrices rest in {found}: their rows of {row} values are no whole blocks of {} ({asked})",
                asked.block()
            )
        };
        counts.into_iter().map(say).collect()
    }

    /// Bytes that a tensor of the file will occupy.
    pub fn bytes(self, tensor: &TensorInfo) -> usize {
        let dtype = self.of(tensor);
        let orders = if dtype.is_ordered() { 2 * DType::U32.bytes(tensor.row_values()) } else { 0 };
        dtype.bytes(tensor.values() as usize) + orders
    }
}

/// All frozen weights of a model on a device; shared by the graphs that train, evaluate and generate.
pub struct DeviceWeights {
    place: Tuned,
    /// By the name of [`crate::architecture::Parameter::taken`].
    tensors: HashMap<String, Pinned>,
    /// Of each tensor of the file the type in which it rests.
    dtypes: HashMap<String, DType>,
    bytes: usize,
    digest: String,
}

/// Bytes that are read, converted and sent at one time. They exist three times meanwhile: as read, as packed, and on their way.
const CHUNK_BYTES: usize = 1 << 20;

impl DeviceWeights {
    /// Sends every weight that the model uses to the device, and warns of matrices that will not rest as asked. `progress` is told the bytes
    /// done and the bytes in all.
    ///
    /// # Errors
    /// If a tensor is missing or cannot be read, or the device has not the memory.
    pub fn upload(
        place: impl Into<Tuned>,
        architecture: &Architecture,
        source: &dyn TensorSource,
        weight_type: WeightType,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Self> {
        let parameters = parameters(architecture);
        let mut infos = Vec::with_capacity(parameters.len());
        for parameter in &parameters {
            infos.push(source.find(&parameter.name).ok_or_else(|| {
                let problem = format!("tensor `{}` is missing", parameter.name);
                Error::bad_input(source.place(&parameter.name), problem, "download or convert the model again")
            })?);
        }
        for exception in weight_type.exceptions(&infos) {
            tracing::warn!("{exception}");
        }
        let total: u64 = infos.iter().map(|info| weight_type.bytes(info) as u64).sum();
        let mut weights =
            Self { place: place.into(), tensors: HashMap::new(), dtypes: HashMap::new(), bytes: 0, digest: String::new() };
        let mut inspection = Inspection::default();
        for (parameter, info) in parameters.iter().zip(infos) {
            let dtype = weight_type.of(info);
            weights.dtypes.insert(info.name.clone(), dtype);
            inspection.begin(source, info);
            let doubly = weight_type == WeightType::DoubleNf4 && dtype == DType::NF4 && info.storage != DType::NF4;
            let absmax = if doubly { Some(rounded_absmax(source, info)?) } else { None };
            for (name, rows) in parameter.taken() {
                weights.upload_one(source, info, (dtype, absmax.as_deref()), (name, rows), &mut inspection)?;
                progress(weights.bytes as u64, total);
            }
            if dtype.is_ordered() {
                weights.upload_orders(source, info)?;
            }
            inspection.end();
        }
        weights.device().wait()?;
        weights.digest = inspection.digest();
        Ok(weights)
    }

    /// Sends `taken` of a tensor, under a name of their own. The absmax of all its blocks may be given.
    fn upload_one(
        &mut self,
        source: &dyn TensorSource,
        info: &TensorInfo,
        (dtype, absmax): (DType, Option<&[f32]>),
        (name, taken): (String, Range<usize>),
        inspection: &mut Inspection,
    ) -> Result<()> {
        let device = self.device().clone();
        // A vector is one row.
        let vector = info.shape.len() < 2;
        let (rows, columns) = if vector { (1, taken.len()) } else { (taken.len(), info.row_values()) };
        let row_bytes = dtype.bytes(columns);
        let bytes_of = |rows: usize| dtype.bytes(rows * columns);
        let part_starts = split_rows(rows, row_bytes, device.max_binding());
        let mut slices = Vec::new();
        for (index, &start) in part_starts.iter().enumerate() {
            let end = part_starts.get(index + 1).copied().unwrap_or(rows);
            let slice = device.allocate(&name, bytes_of(end - start))?;
            // A multiple of 32 rows is whole groups of blocks, and whole words.
            let step = (CHUNK_BYTES / row_bytes.max(1)).max(1).next_multiple_of(32);
            for first in (start..end).step_by(step) {
                let last = (first + step).min(end);
                let source_rows = if vector { taken.clone() } else { taken.start + first..taken.start + last };
                let first_block = source_rows.start * columns / dtype.block();
                let stored = source.read_rows(&info.name, source_rows.clone())?;
                inspection.see(&stored, info.storage)?;
                let mut bytes = if absmax.is_some() || info.storage.is_ordered() && dtype != info.storage {
                    let mut values = vec![0.0; source_rows.len() * columns];
                    source.read_rows_f32(&info.name, source_rows, &mut values)?;
                    match absmax {
                        Some(absmax) => double_quant::encode(&values, &absmax[first_block..]),
                        None => encode(&values, dtype),
                    }
                } else {
                    convert(&stored, info.storage, dtype)
                };
                inspection.check_packed(&bytes, dtype)?;
                bytes.resize(bytes.len().next_multiple_of(4), 0);
                device.write_at(&slice, bytes_of(first - start), &bytes);
                // Without a submission, what was written waits in staging memory.
                device.flush()?;
            }
            self.bytes += slice.bytes;
            slices.push(slice);
        }
        self.tensors.insert(name, Pinned { slices, part_starts });
        Ok(())
    }

    /// Sends the order of a matrix's columns and its inverse, as the graph names them.
    fn upload_orders(&mut self, source: &dyn TensorSource, info: &TensorInfo) -> Result<()> {
        let order = source.order(&info.name).unwrap_or_default();
        let mut inverse = vec![0_u32; order.len()];
        order.iter().enumerate().for_each(|(at, &column)| inverse[column as usize] = at as u32);
        for (name, order) in order_names(&info.name).into_iter().zip([order, inverse]) {
            let slice = self.device().allocate(&name, DType::U32.bytes(order.len()))?;
            self.device().write(&slice, bytemuck::cast_slice(&order));
            self.bytes += slice.bytes;
            self.tensors.insert(name, slice.into());
        }
        Ok(())
    }

    /// Puts a matrix of f32 numbers beside the weights, split as they are: what stands in the place of one of them in a graph.
    ///
    /// # Errors
    /// If the device has not the memory.
    pub fn send_matrix(&self, name: &str, columns: usize, values: &[f32]) -> Result<Pinned> {
        let rows = values.len() / columns.max(1);
        let part_starts = split_rows(rows, columns * 4, self.device().max_binding());
        let mut slices = Vec::with_capacity(part_starts.len());
        for (index, &start) in part_starts.iter().enumerate() {
            let end = part_starts.get(index + 1).copied().unwrap_or(rows);
            let part = &values[start * columns..end * columns];
            let slice = self.device().allocate(name, part.len() * 4)?;
            self.device().write(&slice, bytemuck::cast_slice(part));
            slices.push(slice);
        }
        Ok(Pinned { slices, part_starts })
    }

    /// The device that holds the weights.
    pub fn device(&self) -> &Arc<Device> {
        &self.place.device
    }

    /// The device with its tuning: what executables are made on.
    pub fn place(&self) -> Tuned {
        self.place.clone()
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A short name for the values of all weights as they rest in the file.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// In which type a tensor of the file rests; f32 for one that is not there.
    pub fn dtype(&self, name: &str) -> DType {
        self.dtypes.get(name).copied().unwrap_or(DType::F32)
    }

    /// Where the weights of a graph are, with its rope tables.
    ///
    /// # Errors
    /// Names a weight that the graph needs and the device has not; or the device has not the memory for the rope tables.
    pub fn pinned(&self, model: &Model, architecture: &Architecture) -> Result<HashMap<ValueId, Pinned>> {
        self.pinned_from(model, architecture, 0)
    }

    /// [`DeviceWeights::pinned`] with rotations as if the first token of a sequence stood at this position;
    /// where a rotation is written with each batch, [`super::graph::RopeRow::beginning_at`] is needed besides.
    ///
    /// # Errors
    /// As [`DeviceWeights::pinned`].
    pub fn pinned_from(
        &self,
        model: &Model,
        architecture: &Architecture,
        first_position: usize,
    ) -> Result<HashMap<ValueId, Pinned>> {
        let mut pinned: HashMap<ValueId, Pinned> = HashMap::new();
        for (name, id) in &model.weights {
            let place = self.tensors.get(name).ok_or_else(|| {
                let problem = format!("tensor `{name}`, which the model needs, is not on the device");
                Error::bad_input(
                    "model weights",
                    problem,
                    "configuration and tensors do not belong together: download the model again",
                )
            })?;
            pinned.insert(*id, place.clone());
        }
        for (rope, &id) in architecture.ropes.iter().zip(&model.rope_tables) {
            rope.supported()?;
            if model.graph[id].origin == Origin::Input {
                continue; // written with each batch
            }
            let rows = model.graph[id].tensor.shape.rows.max();
            // For sequences of one token, and for those that are as long as can be; see `RopeRow`.
            let lengths: &[usize] = match model.inputs.rope_row {
                Some(RopeRow::TwoTables { .. }) => &[1, usize::MAX],
                _ => &[1],
            };
            let positions = first_position..first_position + rows / lengths.len();
            let of_length =
                |&length| rope_table_of(&rope.inverse_frequencies(length), rope.attention_factor(), positions.clone());
            let table: Vec<f32> = lengths.iter().flat_map(of_length).collect();
            let slice = self.device().allocate("rope_table", table.len() * 4)?;
            self.device().write(&slice, bytemuck::cast_slice(&table));
            pinned.insert(id, slice.into());
        }
        Ok(pinned)
    }
}

/// The absmax of a whole matrix in NF4 after double quantisation, whose mean is taken over all of them.
fn rounded_absmax(source: &dyn TensorSource, info: &TensorInfo) -> Result<Vec<f32>> {
    let (rows, columns) = (info.rows(), info.row_values());
    let step = (CHUNK_BYTES / columns.max(1)).max(1);
    let mut absmax = Vec::with_capacity(rows * columns / DType::NF4.block());
    for first in (0..rows).step_by(step) {
        let last = (first + step).min(rows);
        let mut values = vec![0.0; (last - first) * columns];
        source.read_rows_f32(&info.name, first..last, &mut values)?;
        absmax.extend(double_quant::absmax(&values));
    }
    double_quant::round_absmax(&mut absmax);
    Ok(absmax)
}
