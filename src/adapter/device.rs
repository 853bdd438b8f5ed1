//! The adapter on the device: all its matrices in one buffer, so that norm, clipping and AdamW are one dispatch each.

use super::{LoraSpec, LoraTensor};
use crate::architecture::Architecture;
use crate::formats::peft::AdapterTensor;
use crate::gpu::{ALIGNMENT, Device, Slice, padded};
use crate::graph::ValueId;
use crate::plan::Pinned;
use crate::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Where each matrix of an adapter lies in a buffer that holds them all. Gradients and moments have the same layout.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterLayout {
    pub tensors: Vec<LoraTensor>,
    /// Of each matrix the first byte of each of its parts.
    offsets: Vec<Vec<usize>>,
    bytes: usize,
}

impl AdapterLayout {
    pub fn new(spec: &LoraSpec, model: &Architecture) -> Self {
        let tensors = spec.tensors(model);
        let mut bytes = 0;
        let offsets = tensors
            .iter()
            .map(|tensor| {
                let mut place = |rows: &usize| {
                    let offset = bytes;
                    bytes += padded(rows * tensor.shape[1] * 4);
                    offset
                };
                tensor.parts.iter().map(&mut place).collect()
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

    /// Of each part of a matrix its matrix, and the elements of the buffer where it lies.
    fn parts(&self) -> impl Iterator<Item = (&LoraTensor, Range<usize>)> {
        self.tensors.iter().zip(&self.offsets).flat_map(|(tensor, offsets)| {
            let range = |(rows, offset): (&usize, &usize)| offset / 4..offset / 4 + rows * tensor.shape[1];
            tensor.parts.iter().zip(offsets).map(move |part| (tensor, range(part)))
        })
    }

    /// The slices of `buffer` that stand for these values, one a part of a matrix.
    pub fn pinned(&self, buffer: &Slice, values: &[ValueId]) -> HashMap<ValueId, Pinned> {
        debug_assert_eq!(values.len(), self.parts().count());
        let pinned = |(&id, (_, range)): (&ValueId, (&LoraTensor, Range<usize>))| {
            (id, buffer.part(range.start * 4, range.len() * 4).into())
        };
        values.iter().zip(self.parts()).map(pinned).collect()
    }

    /// The matrices that a buffer's contents hold.
    pub fn unpack(&self, contents: &[f32]) -> Vec<AdapterTensor> {
        let empty = |tensor: &LoraTensor| AdapterTensor { name: tensor.name.clone(), shape: tensor.shape, values: Vec::new() };
        let mut matrices: Vec<AdapterTensor> = self.tensors.iter().map(empty).collect();
        let numbers = self.tensors.iter().enumerate().flat_map(|(number, tensor)| tensor.parts.iter().map(move |_| number));
        for (number, (_, range)) in numbers.zip(self.parts()) {
            matrices[number].values.extend_from_slice(&contents[range]);
        }
        matrices
    }

    /// The buffer's contents for these matrices, in any order.
    ///
    /// # Errors
    /// If a matrix is missing, of another shape, or not one of this adapter.
    pub fn pack(&self, place: &str, given: &[AdapterTensor]) -> Result<Vec<f32>> {
        let mut contents = vec![0.0; self.elements()];
        let mut parts = self.parts();
        for tensor in &self.tensors {
            let proposal = "use an adapter that was trained on this model with these modules and layers";
            let Some(found) = given.iter().find(|given| given.name == tensor.name) else {
                return Err(Error::bad_input(place, format!("`{}` is missing", tensor.name), proposal));
            };
            if found.shape != tensor.shape || found.values.len() != tensor.shape[0] * tensor.shape[1] {
                let problem = format!("`{}` has shape {:?}, the model needs {:?}", tensor.name, found.shape, tensor.shape);
                return Err(Error::bad_input(place, problem, proposal));
            }
            let mut left = &found.values[..];
            for (_, range) in parts.by_ref().take(tensor.parts.len()) {
                let (part, rest) = left.split_at(range.len());
                contents[range].copy_from_slice(part);
                left = rest;
            }
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
    pub fn fresh(device: Arc<Device>, spec: LoraSpec, model: &Architecture, seed: u64) -> Result<Self> {
        let layout = AdapterLayout::new(&spec, model);
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
