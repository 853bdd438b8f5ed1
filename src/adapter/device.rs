//! The adapter on the device: all its matrices one behind the other, so that norm, clipping and AdamW are one dispatch each for every
//! [`SPAN`] of them.

use super::{AdapterLeaves, AdapterMatrix, Placement};
use crate::formats::peft::AdapterTensor;
use crate::gpu::{ALIGNMENT, Device, Readback, Slice, padded};
use crate::graph::{Graph, ValueId};
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
    /// Of each span the learning rate of what lies in it, as a multiple of the run's.
    rates: Vec<f64>,
}

impl AdapterLayout {
    pub fn new(placement: &Placement) -> Self {
        Self::with_span(placement, SPAN)
    }

    /// [`AdapterLayout::new`] with at most `span` bytes in a buffer, or one part of a matrix if that is larger.
    pub fn with_span(placement: &Placement, span: usize) -> Self {
        Self::of(placement.matrices(), span)
    }

    /// Where the matrices lie that are not trained.
    pub fn frozen(placement: &Placement) -> Self {
        Self::of(placement.frozen_matrices(), SPAN)
    }

    /// Matrices of one learning rate lie together, those of the first one first.
    fn of(tensors: Vec<AdapterMatrix>, span: usize) -> Self {
        let (mut spans, mut rates): (Vec<Range<usize>>, Vec<f64>) = (Vec::new(), Vec::new());
        let mut offsets = vec![Vec::new(); tensors.len()];
        let mut each_rate: Vec<f64> = Vec::new();
        for tensor in tensors.iter() {
            if !each_rate.contains(&tensor.rate) {
                each_rate.push(tensor.rate);
            }
        }
        for rate in each_rate {
            for (tensor, offsets) in tensors.iter().zip(&mut offsets).filter(|(tensor, _)| tensor.rate == rate) {
                for rows in &tensor.parts {
                    let bytes = padded(rows * tensor.shape[1] * 4);
                    let end = spans.last().map_or(0, |last| last.end);
                    let fits = |last: &&mut Range<usize>| last.len() + bytes <= span && rates.last() == Some(&rate);
                    match spans.last_mut().filter(fits) {
                        Some(last) => last.end += bytes,
                        None => {
                            spans.push(end..end + bytes);
                            rates.push(rate);
                        }
                    }
                    offsets.push(end);
                }
            }
        }
        Self { tensors, offsets, spans, rates }
    }

    /// Elements of each buffer, gaps included, with the learning rate of what lies in it, as a multiple of the run's.
    pub fn rated_spans(&self) -> Vec<(usize, f64)> {
        self.span_elements().into_iter().zip(self.rates.iter().copied()).collect()
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

    /// The layout in groups of at least `least` bytes, but for the last: first those parts for which the number in `made`, one a part, is
    /// least. A group is the bytes where its parts lie with the gaps behind them, each range in one buffer.
    pub fn groups(&self, made: &[usize], least: usize) -> Vec<Vec<Range<usize>>> {
        let bytes = |(_, range): (_, Range<usize>)| 4 * range.start..4 * range.start + padded(4 * range.len());
        let mut parts: Vec<_> = made.iter().copied().zip(self.parts().map(bytes)).collect();
        parts.sort_by_key(|(made, bytes)| (*made, bytes.start));
        let (mut groups, mut size) = (Vec::<Vec<Range<usize>>>::new(), least);
        for (_, bytes) in parts {
            if size >= least {
                groups.push(Vec::new());
                size = 0;
            }
            size += bytes.len();
            groups.last_mut().expect("the first part begins a group").push(bytes);
        }
        let is_span = |first: usize| self.spans.iter().any(|span| span.start == first);
        for group in &mut groups {
            group.sort_by_key(|bytes| bytes.start);
            group.dedup_by(|next, before| {
                let joins = before.end == next.start && !is_span(next.start);
                before.end = if joins { next.end } else { before.end };
                joins
            });
        }
        groups
    }

    /// Where the element of a matrix lies in the buffers' contents; `None` if there is no such element.
    pub fn element(&self, matrix: &str, row: usize, column: usize) -> Option<usize> {
        let mut first = 0;
        for (tensor, range) in self.parts().filter(|(tensor, _)| tensor.name == matrix) {
            let (rows, columns) = (range.len() / tensor.shape[1], tensor.shape[1]);
            if column < columns && (first..first + rows).contains(&row) {
                return Some(range.start + (row - first) * columns + column);
            }
            first += rows;
        }
        None
    }

    /// The slices of `buffers` that stand for those of these values, leaves of a graph, that are matrices of this adapter: a graph of a part
    /// of a model has some of them only.
    fn pinned_by_name(&self, buffers: &AdapterBuffers, graph: &Graph, values: &[ValueId]) -> HashMap<ValueId, Pinned> {
        let ids: HashMap<&str, ValueId> = values.iter().map(|&id| (graph[id].name.as_str(), id)).collect();
        let mut pinned = HashMap::new();
        for (tensor, offsets) in self.tensors.iter().zip(&self.offsets) {
            for (part, (rows, offset)) in tensor.parts.iter().zip(offsets).enumerate() {
                if let Some(&id) = ids.get(tensor.part_name(part).as_str()) {
                    pinned.insert(id, buffers.part(*offset, rows * tensor.shape[1] * 4).into());
                }
            }
        }
        pinned
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

    /// What the matrices of a file began with, where that follows them there; see [`AdapterMatrix::halves`].
    pub fn starts(&self, in_file: &[AdapterTensor]) -> Vec<AdapterTensor> {
        let start = |tensor: &AdapterMatrix| {
            let found = in_file.iter().find(|found| found.name == tensor.name)?;
            tensor.halves(found).map(|[_, start]| start)
        };
        self.tensors.iter().filter_map(start).collect()
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
            let halves = tensor.halves(found);
            let found = halves.as_ref().map_or(found, |[trained, _]| trained);
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

    /// Reads one element, by its place in the contents.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn read_element(&self, element: usize) -> Result<f32> {
        let (slice, within) = self.around(element);
        Ok(self.device.read::<f32>(&slice, within + 1)?[within])
    }

    /// Overwrites one element, by its place in the contents.
    pub fn write_element(&self, element: usize, value: f32) {
        let (slice, within) = self.around(element);
        self.device.write_at(&slice, within * 4, &value.to_le_bytes());
    }

    /// The aligned piece that an element lies in, and its place there.
    fn around(&self, element: usize) -> (Slice, usize) {
        let first = element * 4 / ALIGNMENT * ALIGNMENT;
        (self.part(first, ALIGNMENT), element - first / 4)
    }

    /// Starts reading these bytes of the layout, each range in one buffer, without waiting for them.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn read_later(&self, ranges: &[Range<usize>]) -> Result<Vec<Readback>> {
        let start = |range: &Range<usize>| Readback::start(&self.device, &self.part(range.start, range.len()), range.len() / 4);
        ranges.iter().map(start).collect()
    }

    /// Overwrites these bytes of the layout, each range in one buffer; `contents` lie end to end.
    pub fn write_ranges(&self, ranges: &[Range<usize>], mut contents: &[f32]) {
        for range in ranges {
            let (here, rest) = contents.split_at(range.len() / 4);
            self.device.write(&self.part(range.start, range.len()), bytemuck::cast_slice(here));
            contents = rest;
        }
    }

    /// `bytes` from byte `offset` of the layout on, which lie in one span.
    pub(crate) fn part(&self, offset: usize, bytes: usize) -> Slice {
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
    /// What is not trained; zero until it is [given](DeviceAdapter::set_frozen).
    frozen: (AdapterLayout, AdapterBuffers),
    /// The lists of tokens with rows of their own, by name.
    lists: HashMap<String, Slice>,
}

impl DeviceAdapter {
    /// Puts an adapter on the device, `contents` laid out as [`AdapterLayout`] says.
    ///
    /// # Errors
    /// If the device has not the memory, or one matrix alone is more than it binds.
    pub fn new(device: Arc<Device>, placement: Placement, layout: AdapterLayout, contents: &[f32]) -> Result<Self> {
        debug_assert_eq!(contents.len(), layout.elements());
        if let Some(span) = layout.spans.iter().map(Range::len).find(|&bytes| bytes > device.max_binding()) {
            let proposal = match placement.whole.iter().any(|whole| whole.trained) {
                true => "train the rows of some tokens (--train-tokens) instead of a whole matrix (--modules-to-save)",
                false => "choose a smaller --lora-r, or other --target-modules",
            };
            let problem = format!("a part of {span} bytes exceeds the device's largest binding, {} bytes", device.max_binding());
            return Err(Error::bad_input("adapter", problem, proposal));
        }
        let frozen = AdapterLayout::frozen(&placement);
        if let Some(span) = frozen.spans.iter().map(Range::len).find(|&bytes| bytes > device.max_binding()) {
            let problem =
                format!("a matrix of {span} bytes exceeds the device's largest binding, {} bytes", device.max_binding());
            return Err(Error::bad_input("adapter", problem, "merge the adapter into the model first"));
        }
        let parameters = AdapterBuffers::allocate(device.clone(), "adapter", &layout)?;
        parameters.write(contents);
        let buffers = AdapterBuffers::allocate(device.clone(), "frozen part of the adapter", &frozen)?;
        buffers.clear();
        let mut lists = HashMap::new();
        for rows in &placement.rows {
            let list = device.allocate(&rows.list_name(), rows.tokens.len() * 4)?;
            device.write(&list, bytemuck::cast_slice(&rows.tokens));
            lists.insert(rows.list_name(), list);
        }
        Ok(Self { placement, layout, parameters, frozen: (frozen, buffers), lists })
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

    /// Gives the matrices that are not trained their values.
    ///
    /// # Errors
    /// If one is missing or does not fit.
    pub fn set_frozen(&self, given: &[AdapterTensor]) -> Result<()> {
        let (layout, buffers) = &self.frozen;
        buffers.write(&layout.pack("adapter", given)?);
        Ok(())
    }

    /// The same adapter, in the same memory, [at this strength](Placement::at_strength).
    ///
    /// # Errors
    /// As [`Placement::at_strength`].
    pub fn scaled(&self, strength: f64) -> Result<Self> {
        Ok(Self { placement: self.placement.clone().at_strength(strength)?, ..self.clone() })
    }

    /// The same adapter, in the same memory, of which training drops nothing.
    #[must_use]
    pub fn without_dropout(&self) -> Self {
        let mut same = self.clone();
        same.placement.pieces.iter_mut().for_each(|piece| piece.method.stop_dropout());
        same
    }

    /// What is trained.
    pub fn parameters(&self) -> &AdapterBuffers {
        &self.parameters
    }

    /// Where the leaves of a graph that this adapter is part of have their numbers; the graph of a part of the model has some of them only.
    pub fn pinned(&self, graph: &Graph, leaves: &AdapterLeaves) -> HashMap<ValueId, Pinned> {
        let mut pinned = self.layout.pinned_by_name(&self.parameters, graph, &leaves.trained);
        pinned.extend(self.frozen.0.pinned_by_name(&self.frozen.1, graph, &leaves.frozen));
        let lists = leaves.lists.iter().filter_map(|&id| Some((id, self.lists.get(&graph[id].name)?.clone().into())));
        pinned.extend(lists);
        let copies: Vec<(ValueId, Pinned)> = leaves.copies.iter().map(|(copy, of)| (*copy, pinned[of].clone())).collect();
        pinned.extend(copies);
        pinned
    }

    /// [`DeviceAdapter::pinned`] with the numbers in `constants` for what counts as a constant; `None` where nothing does. They stay when
    /// the adapter's own change, as the gradient takes them.
    pub fn pinned_beside(
        &self,
        constants: Option<&AdapterBuffers>,
        graph: &Graph,
        leaves: &AdapterLeaves,
    ) -> HashMap<ValueId, Pinned> {
        let mut pinned = self.pinned(graph, leaves);
        if let Some(constants) = constants {
            let held = self.layout.pinned_by_name(constants, graph, &leaves.trained);
            pinned.extend(leaves.copies.iter().map(|(copy, of)| (*copy, held[of].clone())));
        }
        pinned
    }

    /// Another buffer with the same numbers.
    ///
    /// # Errors
    /// If the device has not the memory, or is lost.
    pub fn copied(&self, name: &str) -> Result<AdapterBuffers> {
        let copy = AdapterBuffers::allocate(self.parameters.device.clone(), name, &self.layout)?;
        copy.write(&self.parameters.read()?);
        Ok(copy)
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

    /// What is not trained.
    pub(crate) fn frozen_buffers(&self) -> &AdapterBuffers {
        &self.frozen.1
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.parameters.bytes() + self.frozen.1.bytes() + self.lists.values().map(|list| list.bytes).sum::<usize>()
    }
}
