//! The adapter's gradients in groups, in the order in which the backward pass makes them.
//!
//! What the backward pass has made of the upper layers is [final](Group::is_final) while it computes the lower ones, and can be
//! [read](Group::read) meanwhile. A process alone has one group of everything.

use super::step::accumulator_graph;
use crate::Result;
use crate::adapter::AdapterBuffers;
use crate::gpu::{Readback, Slice};
use crate::graph::Counts;
use crate::plan::{Executable, Timing, Tuned};
use std::ops::Range;

/// A part of the gradients.
pub(super) struct Group {
    /// Where it lies in the adapter's layout.
    bytes: Vec<Range<usize>>,
    /// Dispatches of a batch after which nothing touches the batch's gradients.
    pub(super) last_use: usize,
    /// Adds the batch's gradients to those of the step so far, where a step has more than one batch.
    add: Option<Executable>,
}

impl Group {
    /// These bytes of the gradients that `step` makes, and of the sum over a step's batches.
    ///
    /// # Errors
    /// If the device cannot hold it.
    pub(super) fn new(
        place: &Tuned,
        bytes: Vec<Range<usize>>,
        step: &Executable,
        gradients: &AdapterBuffers,
        total: Option<&AdapterBuffers>,
    ) -> Result<Self> {
        let slices = |buffers: &AdapterBuffers| -> Vec<Slice> {
            bytes.iter().map(|range| buffers.part(range.start, range.len())).collect()
        };
        let of_batch = slices(gradients);
        let add = |total: &AdapterBuffers| {
            let (graph, values) = accumulator_graph(&bytes.iter().map(|range| range.len() / 4).collect::<Vec<_>>())?;
            let places = slices(total).into_iter().zip(of_batch.clone());
            let pinned = values
                .iter()
                .zip(places)
                .flat_map(|([sum, one], (total, one_batch))| [(*sum, total.into()), (*one, one_batch.into())]);
            Executable::new(place.clone(), graph, &[], pinned.collect())
        };
        let add = total.map(add).transpose()?;
        let last_use = step.last_uses(&of_batch).into_iter().max().unwrap_or(0);
        Ok(Self { bytes, last_use, add })
    }

    /// Whether this many dispatches of a batch are all that touch the batch's gradients.
    pub(super) fn is_final(&self, dispatches: usize) -> bool {
        self.last_use <= dispatches
    }

    /// Adds the batch's gradients to those of the step, if these lie elsewhere.
    ///
    /// # Errors
    /// If the device is lost.
    pub(super) fn add(&mut self, profile: &mut Option<Vec<Timing>>) -> Result<()> {
        self.add.as_mut().map_or(Ok(()), |add| run(add, profile))
    }

    /// Starts reading the group from `summed`.
    ///
    /// # Errors
    /// If the device is lost.
    pub(super) fn read(&self, summed: &AdapterBuffers) -> Result<Vec<Readback>> {
        summed.read_later(&self.bytes)
    }

    /// Overwrites the group in `summed`.
    pub(super) fn write(&self, summed: &AdapterBuffers, values: &[f32]) {
        summed.write_ranges(&self.bytes, values);
    }

    /// Numbers in it.
    pub(super) fn elements(&self) -> usize {
        self.bytes.iter().map(|range| range.len() / 4).sum()
    }

    /// Bytes on the device for adding up.
    pub(super) fn own_bytes(&self) -> usize {
        self.add.as_ref().map_or(0, Executable::own_bytes)
    }

    /// Kernel calls of adding up.
    pub(super) fn dispatches(&self) -> usize {
        self.add.as_ref().map_or(0, Executable::dispatches)
    }
}

/// Runs a graph without dynamic rows, timed where a profile is being made.
pub(super) fn run(executable: &mut Executable, profile: &mut Option<Vec<Timing>>) -> Result<()> {
    match profile {
        Some(profile) => profile.append(&mut executable.run_timed(&Counts::default())?),
        None => executable.run(&Counts::default())?,
    }
    Ok(())
}
