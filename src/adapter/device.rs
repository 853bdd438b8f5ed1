//! The adapter on the device: all its matrices in one buffer, so that norm, clipping and AdamW are one dispatch each.

use super::{LoraSpec, LoraTensor};
use crate::formats::peft::AdapterTensor;
use crate::gpu::{ALIGNMENT, Device, Slice, padded};
use crate::graph::ValueId;
use crate::model::config::ModelConfig;
use crate::plan::Pinned;
use crate::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// Where each matrix of an adapter lies in a buffer that holds them all. Gradients and moments have the same layout.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterLayout {
    pub tensors: Vec<LoraTensor>,
    /// First byte of each matrix.
    offsets: Vec<usize>,
    bytes: usize,
}

impl AdapterLayout {
    pub fn new(spec: &LoraSpec, config: &ModelConfig) -> Self {
        let tensors = spec.tensors(config);
        let mut bytes = 0;
        let offsets = tensors
            .iter()
            .map(|tensor| {
                let offset = bytes;
                bytes += padded(tensor.shape[0] * tensor.shape[1] * 4);
                offset
            })
            .collect();
        Self { tensors, offsets, bytes }
    }

    /// f32 elements of the buffer, gaps between matrices included.
    pub fn elements(&self) -> usize {
        self.bytes / 4
    }

    /// Trained parameters, without gaps.
    pub fn parameters(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.shape[0] * tensor.shape[1]).sum()
    }

    /// The slices of `buffer` that stand for these values, one a matrix.
    pub fn pinned(&self, buffer: &Slice, values: &[ValueId]) -> HashMap<ValueId, Pinned> {
        debug_assert_eq!(values.len(), self.tensors.len());
        values
            .iter()
            .zip(&self.tensors)
            .zip(&self.offsets)
            .map(|((&id, tensor), &offset)| (id, buffer.part(offset, tensor.shape[0] * tensor.shape[1] * 4).into()))
            .collect()
    }

    /// The matrices that a buffer's contents hold.
    pub fn unpack(&self, contents: &[f32]) -> Vec<AdapterTensor> {
        self.tensors
            .iter()
            .zip(&self.offsets)
            .map(|(tensor, &offset)| {
                let count = tensor.shape[0] * tensor.shape[1];
                let values = contents[offset / 4..offset / 4 + count].to_vec();
                AdapterTensor { name: tensor.name.clone(), shape: tensor.shape, values }
            })
            .collect()
    }

    /// The buffer's contents for these matrices, in any order.
    ///
    /// # Errors
    /// If a matrix is missing, of another shape, or not one of this adapter.
    pub fn pack(&self, place: &str, given: &[AdapterTensor]) -> Result<Vec<f32>> {
        let mut contents = vec![0.0; self.elements()];
        for (tensor, &offset) in self.tensors.iter().zip(&self.offsets) {
            let proposal = "use an adapter that was trained on this model with these modules and layers";
            let Some(found) = given.iter().find(|given| given.name == tensor.name) else {
                return Err(Error::bad_input(place, format!("`{}` is missing", tensor.name), proposal));
            };
            if found.shape != tensor.shape || found.values.len() != tensor.shape[0] * tensor.shape[1] {
                let problem = format!("`{}` has shape {:?}, the model needs {:?}", tensor.name, found.shape, tensor.shape);
                return Err(Error::bad_input(place, problem, proposal));
            }
            contents[offset / 4..offset / 4 + found.values.len()].copy_from_slice(&found.values);
        }
        if let Some(other) = given.iter().find(|given| self.tensors.iter().all(|tensor| tensor.name != given.name)) {
            return Err(Error::bad_input(
                place,
                format!("`{}` has no place in this model", other.name),
                "check the adapter's base model",
            ));
        }
        Ok(contents)
    }
}

/// An adapter's matrices on a device.
#[derive(Clone)]
pub struct DeviceAdapter {
    pub spec: LoraSpec,
    pub layout: AdapterLayout,
    pub(crate) parameters: Slice,
    device: Arc<Device>,
}

impl DeviceAdapter {
    /// Puts an adapter on the device, `contents` laid out as [`AdapterLayout`] says.
    ///
    /// # Errors
    /// If the device has not the memory.
    pub fn new(device: Arc<Device>, spec: LoraSpec, layout: AdapterLayout, contents: &[f32]) -> Result<Self> {
        debug_assert_eq!(contents.len(), layout.elements());
        if layout.bytes > device.max_binding() {
            return Err(Error::bad_input(
                "adapter",
                format!("{} bytes exceed the device's largest binding, {} bytes", layout.bytes, device.max_binding()),
                "choose a smaller --lora-r, fewer --target-modules or fewer --layers",
            ));
        }
        let parameters = device.allocate("adapter", layout.bytes.max(ALIGNMENT))?;
        device.write(&parameters, bytemuck::cast_slice(contents));
        Ok(Self { spec, layout, parameters, device })
    }

    /// A fresh adapter: A random by `seed`, B zero.
    ///
    /// # Errors
    /// If the device has not the memory.
    pub fn fresh(device: Arc<Device>, spec: LoraSpec, config: &ModelConfig, seed: u64) -> Result<Self> {
        let layout = AdapterLayout::new(&spec, config);
        let initial: Vec<AdapterTensor> = layout
            .tensors
            .iter()
            .map(|tensor| AdapterTensor { name: tensor.name.clone(), shape: tensor.shape, values: spec.initial(tensor, seed) })
            .collect();
        let contents = layout.pack("adapter", &initial)?;
        Self::new(device, spec, layout, &contents)
    }

    /// Reads the matrices back.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn tensors(&self) -> Result<Vec<AdapterTensor>> {
        Ok(self.layout.unpack(&self.device.read(&self.parameters, self.layout.elements())?))
    }

    /// Overwrites the matrices.
    pub fn set(&self, contents: &[f32]) {
        self.device.write(&self.parameters, bytemuck::cast_slice(contents));
    }

    /// Reads the buffer back as it lies in memory.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn contents(&self) -> Result<Vec<f32>> {
        self.device.read(&self.parameters, self.layout.elements())
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.parameters.bytes
    }
}
