//! Buffers and slices of buffers: allocation that can fail, and writing.

use super::Device;
use super::device::lock;
use crate::{Error, Result};
use std::sync::{Arc, Mutex};

/// Bytes to which everything in a buffer is aligned: the strictest `min_storage_buffer_offset_alignment` that WebGPU allows.
pub const ALIGNMENT: usize = 256;

/// `bytes` rounded up to whole alignment units, at least one.
pub fn padded(bytes: usize) -> usize {
    bytes.max(1).div_ceil(ALIGNMENT) * ALIGNMENT
}

/// What the buffers of a device occupy, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Allocated {
    pub now: usize,
    /// The most that there was at one time.
    pub peak: usize,
}

/// The buffers of a device.
#[derive(Default)]
pub(super) struct Memory {
    allocated: Arc<Mutex<Allocated>>,
    /// Staging buffers that no read is using.
    pub(super) staging: Mutex<Vec<Slice>>,
}

/// A buffer, counted as long as it lives.
#[derive(Debug)]
pub(crate) struct Buffer {
    buffer: wgpu::Buffer,
    bytes: usize,
    allocated: Arc<Mutex<Allocated>>,
}

impl Buffer {
    fn counted(buffer: wgpu::Buffer, bytes: usize, allocated: &Arc<Mutex<Allocated>>) -> Self {
        let mut all = lock(allocated);
        all.now += bytes;
        all.peak = all.peak.max(all.now);
        Self { buffer, bytes, allocated: allocated.clone() }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        lock(&self.allocated).now -= self.bytes;
    }
}

impl std::ops::Deref for Buffer {
    type Target = wgpu::Buffer;

    fn deref(&self) -> &wgpu::Buffer {
        &self.buffer
    }
}

/// A range of a buffer on the device.
#[derive(Clone, Debug)]
pub struct Slice {
    pub(crate) buffer: Arc<Buffer>,
    /// First byte, a multiple of [`ALIGNMENT`].
    pub offset: usize,
    /// Bytes, a multiple of [`ALIGNMENT`].
    pub bytes: usize,
}

impl Slice {
    /// A part of this slice.
    ///
    /// # Panics
    /// If the part is not aligned or does not lie inside: a mistake of the calling code.
    pub fn part(&self, offset: usize, bytes: usize) -> Self {
        assert!(
            offset.is_multiple_of(ALIGNMENT) && offset + padded(bytes) <= self.bytes,
            "part {offset}+{bytes} of {}",
            self.bytes
        );
        Self { buffer: self.buffer.clone(), offset: self.offset + offset, bytes: padded(bytes) }
    }

    /// Is there a byte that lies in both?
    pub fn overlaps(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.buffer, &other.buffer)
            && self.offset < other.offset + other.bytes
            && other.offset < self.offset + self.bytes
    }

    pub(crate) fn binding(&self) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding {
            buffer: &self.buffer,
            offset: self.offset as u64,
            size: std::num::NonZeroU64::new(self.bytes as u64),
        }
    }
}

/// What helps where memory is short, for those who have no plan to tell more from.
pub(super) const SMALLER: &str =
    "use shorter rows (--max-length), fewer of them (--batch-size), or a smaller storage type (--weights bf16)";

impl Device {
    /// A zeroed storage buffer.
    ///
    /// # Errors
    /// If the device has not that much memory, or allows no buffer of this size.
    pub fn allocate(&self, what: &str, bytes: usize) -> Result<Slice> {
        use wgpu::BufferUsages;
        self.allocate_for(what, bytes, BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST)
    }

    pub(crate) fn allocate_for(&self, what: &str, bytes: usize, usage: wgpu::BufferUsages) -> Result<Slice> {
        let bytes = padded(bytes);
        let refused = |problem: String| Error::OutOfMemory {
            place: format!("GPU `{}`", self.info.name),
            problem: format!("cannot allocate {bytes} bytes for {what}: {}", problem.trim()),
            proposal: SMALLER.to_string(),
        };
        if bytes as u64 > self.limits.max_buffer_size {
            return Err(refused(format!("its largest buffer is {} bytes", self.limits.max_buffer_size)));
        }
        self.count(|created| created.buffers += 1);
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size: bytes as u64,
            usage,
            mapped_at_creation: false,
        });
        let errors = [pollster::block_on(validation.pop()), pollster::block_on(memory.pop())];
        match errors.into_iter().flatten().next() {
            Some(error) => Err(self.or_lost(refused(error.to_string()))),
            None => Ok(Slice { buffer: Arc::new(Buffer::counted(buffer, bytes, &self.memory.allocated)), offset: 0, bytes }),
        }
    }

    /// What the buffers of this device occupy.
    pub fn allocated(&self) -> Allocated {
        *lock(&self.memory.allocated)
    }

    /// Writes to the start of a slice, before anything that is submitted later.
    ///
    /// # Panics
    /// If the bytes do not fit or are no multiple of 4: a mistake of the calling code.
    pub fn write(&self, slice: &Slice, bytes: &[u8]) {
        self.write_at(slice, 0, bytes);
    }

    /// Writes into a slice, `offset` bytes from its start.
    ///
    /// # Panics
    /// If the bytes do not fit or are no multiple of 4: a mistake of the calling code.
    pub fn write_at(&self, slice: &Slice, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= slice.bytes, "{} bytes at {offset} into a slice of {}", bytes.len(), slice.bytes);
        self.queue.write_buffer(&slice.buffer, (slice.offset + offset) as u64, bytes);
    }

    /// Zeroes a slice, in order with what is submitted before and after.
    pub fn clear(&self, slice: &Slice) {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.clear_buffer(&slice.buffer, slice.offset as u64, Some(slice.bytes as u64));
        self.submit([encoder.finish()]);
    }
}

/// First rows of the parts of a matrix, none of which exceeds a binding. Parts begin at multiples of 128 rows, which suits every
/// tile; at least at multiples of 8, where blocks of every format begin a group.
pub fn split_rows(rows: usize, row_bytes: usize, max_binding: usize) -> Vec<usize> {
    const GRAIN: usize = 128;
    let most = max_binding.saturating_sub(ALIGNMENT) / row_bytes.max(1);
    if rows <= most {
        return vec![0];
    }
    let step = if most >= GRAIN { most / GRAIN * GRAIN } else { (most / 32 * 32).max(32) };
    (0..rows).step_by(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_matrix_fits_the_binding_and_loses_no_row() {
        assert_eq!(split_rows(1000, 4, 1 << 20), [0]);
        let starts = split_rows(49_152, 576 * 4, 64 << 20);
        assert!(starts.windows(2).all(|pair| (pair[1] - pair[0]) * 576 * 4 <= 64 << 20));
        assert_eq!(starts[0], 0);
        assert!((49_152 - starts[starts.len() - 1]) * 576 * 4 <= 64 << 20);
        assert!(starts.iter().all(|start| start % 128 == 0));
    }
}
