//! The adapter on the device: all its matrices one behind the other, so that norm, clipping and AdamW are one dispatch each for every
//! [`SPAN`] of them.

use super::{AdapterMatrix, Placement};
use crate::formats::peft::AdapterTensor;
use crate::gpu::{ALIGNMENT, Device, Slice, padded};
use crate::graph::ValueId;
use crate::plan::Pinned;
use crate::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of an adapter that one binding holds at most: as much as WebGPU promises on every device, so that the layout, and with it the
/// order in which the norm is added up, does not depend on the device.
const SPAN: usize = 128 << 20;

/// Where each matrix of an adapter lies among them all. Gradients and moments have the same layout.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterLayout {
    pub tensors: Vec<AdapterMatrix>,
    /// Of each matrix the first byte of each of its parts.
    offsets: Vec<Vec<usize>>,
    /// Bytes that lie in one buffer each, whole parts; end to end they are the layout.
    spans: Vec<Range<usize>>,
}

impl AdapterLayout {
    pub fn new(placement: &Placement) -> Self {
        Self::with_span(placement, SPAN)
    }

    /// [`AdapterLayout::new`] with at most `span` bytes in a buffer, or one part of a matrix if that is larger.
    pub fn with_span(placement: &Placement, span: usize) -> Self {
        let tensors = placement.matrices();
        let mut spans: Vec<Range<usize>> = Vec::new();
        let mut place = |bytes: usize| {
            let end = spans.last().map_or(0, |last| last.end);
            match spans.last_mut().filter(|last| last.len() + bytes <= span) {
                Some(last) => last.end += bytes,
                None => spans.push(end..end + bytes),
            }
            end
        };
        let offsets = tensors
            .iter()
            .map(|tensor| tensor.parts.iter().map(|rows| place(padded(rows * tensor.shape[1] * 4))).collect())
            .collect();
        Self { tensors, offsets, spans }
    }

    /// Elements of each buffer, gaps between matrices included.
    pub fn span_elements(&self) -> Vec<usize> {
        self.spans.iter().map(|span| span.len() / 4).collect()
    }

    /// f32 elements of all buffers, gaps between matrices included.
    pub fn elements(&self) -> usize {
        self.spans.last().map_or(0, |last| last.end) / 4
    }

    /// Trained parameters, without gaps.
    pub fn parameters(&self) -> usize {
        self.tensors.iter().map(AdapterMatrix::elements).sum()
    }

    /// Of each part of a matrix its matrix, and the elements where it lies.
    fn parts(&self) -> impl Iterator<Item = (&AdapterMatrix, Range<usize>)> {
        self.tensors.iter().zip(&self.offsets).flat_map(|(tensor, offsets)| {
            let range = |(rows, offset): (&usize, &usize)| offset / 4..offset / 4 + rows * tensor.shape[1];
            tensor.parts.iter().zip(offsets).map(move |part| (tensor, range(part)))
        })
    }

    /// The slices of `buffers` that stand for these values, one a part of a matrix.
    pub fn pinned(&self, buffers: &AdapterBuffers, values: &[ValueId]) -> HashMap<ValueId, Pinned> {
        debug_assert_eq!(values.len(), self.parts().count());
        let pinned = |(&id, (_, range)): (&ValueId, (&AdapterMatrix, Range<usize>))| {
            (id, buffers.part(range.start * 4, range.len() * 4).into())
        };
        values.iter().zip(self.parts()).map(pinned).collect()
    }

    /// The matrices that the buffers' contents hold, end to end.
    pub fn unpack(&self, contents: &[f32]) -> Vec<AdapterTensor> {
        let empty = |tensor: &AdapterMatrix| AdapterTensor { name: tensor.name.clone(), shape: tensor.shape, values: Vec::new() };
        let mut matrices: Vec<AdapterTensor> = self.tensors.iter().map(empty).collect();
        let numbers = self.tensors.iter().enumerate().flat_map(|(number, tensor)| tensor.parts.iter().map(move |_| number));
        for (number, (_, range)) in numbers.zip(self.parts()) {
            matrices[number].values.extend_from_slice(&contents[range]);
        }
        matrices
    }

    /// The buffers' contents, end to end, for these matrices, in any order.
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
            if found.shape != tensor.shape || found.values.len() != tensor.elements() {
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

/// Something that is laid out as an adapter, on a device: its parameters, gradients, or a moment.
#[derive(Clone)]
pub struct AdapterBuffers {
    /// One a span: first byte in the layout, and where it lies.
    pieces: Vec<(usize, Slice)>,
    device: Arc<Device>,
}

impl AdapterBuffers {
    /// Room for it; what is in there is zero.
    ///
    /// # Errors
    /// If the device has not the memory.
    pub fn allocate(device: Arc<Device>, name: &str, layout: &AdapterLayout) -> Result<Self> {
        let piece = |span: &Range<usize>| Ok((span.start, device.allocate(name, span.len().max(ALIGNMENT))?));
        let pieces = layout.spans.iter().map(piece).collect::<Result<_>>()?;
        Ok(Self { pieces, device })
    }

    /// The buffers, one a span.
    pub fn slices(&self) -> impl Iterator<Item = &Slice> {
        self.pieces.iter().map(|(_, slice)| slice)
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.slices().map(|slice| slice.bytes).sum()
    }

    /// Sets all of it to zero.
    pub fn clear(&self) {
        self.slices().for_each(|slice| self.device.clear(slice));
    }

    /// Overwrites all of it; `contents` lie end to end.
    pub fn write(&self, contents: &[f32]) {
        for (first, slice) in &self.pieces {
            let end = contents.len().min((first + slice.bytes) / 4);
            self.device.write(slice, bytemuck::cast_slice(&contents[first / 4..end]));
        }
    }

    /// Reads all of it back, end to end.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn read(&self) -> Result<Vec<f32>> {
        let mut contents = Vec::with_capacity(self.bytes() / 4);
        for slice in self.slices() {
            contents.extend(self.device.read::<f32>(slice, slice.bytes / 4)?);
        }
        Ok(contents)
    }

    /// `bytes` from byte `offset` of the layout on, which lie in one span.
    fn part(&self, offset: usize, bytes: usize) -> Slice {
        let at = self.pieces.partition_point(|(first, _)| *first <= offset) - 1;
        let (first, slice) = &self.pieces[at];
        slice.part(offset - first, bytes)
    }
}

/// An adapter's matrices on a device.
#[derive(Clone)]
pub struct DeviceAdapter {
    pub placement: Placement,
    pub layout: AdapterLayout,
    pub(crate) parameters: AdapterBuffers,
}

impl DeviceAdapter {
    /// Puts an adapter on the device, `contents` laid out as [`AdapterLayout`] says.
    ///
    /// # Errors
    /// If the device has not the memory, or one matrix alone is more than it binds.
    pub fn new(device: Arc<Device>, placement: Placement, layout: AdapterLayout, contents: &[f32]) -> Result<Self> {
        debug_assert_eq!(contents.len(), layout.elements());
        if let Some(span) = layout.spans.iter().map(Range::len).find(|&bytes| bytes > device.max_binding()) {
            return Err(Error::bad_input(
                "adapter",
                format!("a part of {span} bytes exceeds the device's largest binding, {} bytes", device.max_binding()),
                "choose a smaller --lora-r, or other --target-modules",
            ));
        }
        let parameters = AdapterBuffers::allocate(device, "adapter", &layout)?;
        parameters.write(contents);
        Ok(Self { placement, layout, parameters })
    }

    /// A fresh adapter, as its methods start by `seed`.
    ///
    /// # Errors
    /// If the device has not the memory.
    pub fn fresh(device: Arc<Device>, placement: Placement, seed: u64) -> Result<Self> {
        let layout = AdapterLayout::new(&placement);
        let contents = layout.pack("adapter", &placement.initial(seed))?;
        Self::new(device, placement, layout, &contents)
    }

    /// Reads the matrices back.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn tensors(&self) -> Result<Vec<AdapterTensor>> {
        Ok(self.layout.unpack(&self.parameters.read()?))
    }

    /// Overwrites the matrices.
    pub fn set(&self, contents: &[f32]) {
        self.parameters.write(contents);
    }

    /// Reads the buffers back as they lie in memory, end to end.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn contents(&self) -> Result<Vec<f32>> {
        self.parameters.read()
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.parameters.bytes()
    }
}
