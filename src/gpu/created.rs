//! Counts of what a device has been asked to make, so that a test can show that a replayed step makes nothing.

use super::Device;
use super::device::lock;

/// Objects that a [`Device`] has made since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Created {
    pub buffers: usize,
    pub bind_groups: usize,
    /// Each with its shader module and its layouts.
    pub pipelines: usize,
    pub query_sets: usize,
}

impl Device {
    /// What has been made so far.
    pub fn created(&self) -> Created {
        *lock(&self.created)
    }

    /// A set of this many timestamps.
    pub(crate) fn query_set(&self, count: u32) -> wgpu::QuerySet {
        self.count(|created| created.query_sets += 1);
        let descriptor = wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count };
        self.device.create_query_set(&descriptor)
    }

    pub(crate) fn count(&self, add: impl FnOnce(&mut Created)) {
        add(&mut lock(&self.created));
    }
}
