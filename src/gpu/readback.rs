//! Values on their way from the device to the host.
//!
//! A read is a copy into a staging buffer that the host can map. It is ordered behind what was submitted before and does not hold up
//! what is submitted after, so a training loop can ask for a step's loss, hand the next step to the device, and only then wait.
//! Staging buffers are used again: reading the same few values in every step makes no new ones.

use super::device::lock;
use super::{Device, Slice};
use crate::Result;
use std::sync::Arc;

/// Largest staging buffer that is kept for the next read; larger ones (checkpoints) are given back at once.
const LARGEST_KEPT: usize = 1 << 20;
/// Staging buffers that are kept at a time.
const MOST_KEPT: usize = 16;

/// A read that has been submitted; [`Readback::wait`] gives the values.
#[must_use = "the values are dropped unread"]
pub struct Readback {
    device: Arc<Device>,
    copy: Copy,
}

/// A copy to a staging buffer, which is being mapped.
pub(super) struct Copy {
    staging: Slice,
    bytes: usize,
    submission: wgpu::SubmissionIndex,
}

impl Readback {
    /// Submits the copy of the first `count` f32 values of a slice.
    ///
    /// # Errors
    /// If the device has no memory for a staging buffer.
    pub fn start(device: &Arc<Device>, slice: &Slice, count: usize) -> Result<Self> {
        Ok(Self { device: device.clone(), copy: device.start_copy(slice, count * size_of::<f32>())? })
    }

    /// The values, as soon as the work that makes them is done.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn wait(self) -> Result<Vec<f32>> {
        self.device.finish_copy(self.copy)
    }

    /// The first value.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn wait_for_one(self) -> Result<f64> {
        Ok(self.wait()?.first().map_or(f64::NAN, |&value| f64::from(value)))
    }
}

impl Device {
    /// Reads the first `count` values of a slice back, waiting for the work that makes them.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn read<T: bytemuck::Pod>(&self, slice: &Slice, count: usize) -> Result<Vec<T>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let copy = self.start_copy(slice, count * size_of::<T>())?;
        self.finish_copy(copy)
    }

    /// # Panics
    /// If the bytes do not lie in the slice or are no multiple of 4: a mistake of the calling code.
    fn start_copy(&self, slice: &Slice, bytes: usize) -> Result<Copy> {
        assert!(bytes <= slice.bytes && bytes.is_multiple_of(4), "{bytes} bytes from a slice of {}", slice.bytes);
        let staging = self.staging(bytes)?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&slice.buffer, slice.offset as u64, &staging.buffer, 0, bytes as u64);
        let submission = self.submit(Some(encoder.finish()));
        staging.buffer.slice(..bytes as u64).map_async(wgpu::MapMode::Read, |_| {});
        Ok(Copy { staging, bytes, submission })
    }

    fn finish_copy<T: bytemuck::Pod>(&self, copy: Copy) -> Result<Vec<T>> {
        self.wait_for(Some(copy.submission))?;
        let mapped = copy.staging.buffer.slice(..copy.bytes as u64).get_mapped_range();
        let mapped = mapped.map_err(|error| self.failed(error.to_string()))?;
        let values = bytemuck::pod_collect_to_vec(&mapped);
        drop(mapped);
        copy.staging.buffer.unmap();
        let mut kept = lock(&self.memory.staging);
        if copy.staging.bytes <= LARGEST_KEPT && kept.len() < MOST_KEPT {
            kept.push(copy.staging);
        }
        Ok(values)
    }

    /// A staging buffer of a size that suits: one that was used before, or a new one.
    fn staging(&self, bytes: usize) -> Result<Slice> {
        // Powers of two, so that reads of slightly different lengths share buffers.
        let wanted = super::padded(if bytes <= LARGEST_KEPT { bytes.next_power_of_two() } else { bytes });
        let mut kept = lock(&self.memory.staging);
        if let Some(at) = kept.iter().position(|slice| slice.bytes == wanted) {
            return Ok(kept.swap_remove(at));
        }
        if kept.len() == MOST_KEPT {
            kept.remove(0);
        }
        drop(kept);
        self.allocate_for("staging", wanted, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)
    }
}
