//! Choice of an adapter, and the device opened on it.

use super::buffer::{Memory, SMALLER};
use super::loss::{Loss, OUT_OF_MEMORY};
use super::pipeline::Pipelines;
use super::{Created, Pipeline};
use crate::caught::caught;
use crate::kernel::{Arithmetic, Facts, Kernel, Matrices};
use crate::{Error, Result};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// An opened GPU: queue, limits and facts, and three parts that each keep a state of their own.
pub struct Device {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub info: wgpu::AdapterInfo,
    pub limits: wgpu::Limits,
    pub facts: Facts,
    pub(super) memory: Memory,
    pub(super) pipelines: Pipelines,
    pub(super) loss: Loss,
    pub(super) created: Mutex<Created>,
    pub(super) spent: Mutex<Spent>,
}

/// Time that the host has given to a device since it was opened. What is left of the time of a run is the host's own work.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Spent {
    /// Waiting until work was done.
    pub waiting: Duration,
    /// Handing over encoded work. A driver that runs on the CPU may do the work itself meanwhile.
    pub submitting: Duration,
}

/// What kind of device it is, in words.
pub fn kind(info: &wgpu::AdapterInfo) -> &'static str {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete GPU",
        wgpu::DeviceType::IntegratedGpu => "integrated GPU",
        wgpu::DeviceType::VirtualGpu => "virtual GPU",
        wgpu::DeviceType::Cpu => "software driver on the CPU: right, but slow",
        wgpu::DeviceType::Other => "GPU of unknown kind",
    }
}

/// Features that graftling uses where they are offered; none is required.
pub const WANTED_FEATURES: wgpu::Features = wgpu::Features::SUBGROUP
    .union(wgpu::Features::SHADER_INT64)
    .union(wgpu::Features::SHADER_F16)
    .union(wgpu::Features::TIMESTAMP_QUERY);

/// Small buffers share blocks of memory of this many bytes (half as many where the host sees them too), and larger ones have their own.
/// With larger blocks the last one would be much of what a small model needs.
const BLOCK_BYTES: std::ops::Range<u64> = 8 << 20..16 << 20;

/// Every adapter of this machine, the one that graftling would choose first.
pub fn adapters() -> Vec<wgpu::Adapter> {
    let instance = super::instance::instance();
    let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    adapters.sort_by_key(|adapter| {
        let info = adapter.get_info();
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        };
        // Windows lists a GPU twice. Its Vulkan driver compiles SPIR-V itself; DX12 needs a compiler that Windows does not bring.
        (kind, info.backend == wgpu::Backend::Dx12)
    });
    adapters
}

/// The number, in [`adapters`], of the one for the process with this number on this machine: each has its own of those that are as
/// good as the first, and they share these where there are more processes.
pub fn number_for(process: usize) -> usize {
    let kind = |adapter: &wgpu::Adapter| (adapter.get_info().device_type, adapter.get_info().backend);
    let kinds: Vec<_> = adapters().iter().map(kind).collect();
    let good: Vec<usize> = (0..kinds.len()).filter(|&number| kinds[number] == kinds[0]).collect();
    good.get(process % good.len().max(1)).copied().unwrap_or(0)
}

impl Device {
    /// [`Device::open_for`] products in f32.
    ///
    /// # Errors
    /// If there is no adapter, none fits the choice, or the driver refuses.
    pub fn open(choice: Option<&str>) -> Result<Self> {
        Self::open_for(choice, Arithmetic::F32)
    }

    /// Opens the adapter that `choice` names, by its number in [`adapters`] or a part of its name; without a choice, the first:
    /// a discrete GPU before an integrated one before a driver that runs on the CPU.
    ///
    /// # Errors
    /// If there is no adapter, none fits the choice, it has not what the arithmetic needs, or the driver refuses.
    pub fn open_for(choice: Option<&str>, arithmetic: Arithmetic) -> Result<Self> {
        let adapters = adapters();
        let names: Vec<String> = adapters.iter().map(|adapter| adapter.get_info().name).collect();
        let wanted = match choice {
            None => 0,
            Some(choice) => choice
                .parse::<usize>()
                .ok()
                .filter(|&index| index < adapters.len())
                .or_else(|| names.iter().position(|name| name.to_lowercase().contains(&choice.to_lowercase())))
                .ok_or_else(|| {
                    let list: Vec<String> = names.iter().enumerate().map(|(index, name)| format!("{index}: {name}")).collect();
                    Error::bad_input("--device", format!("no adapter fits `{choice}`"), format!("there are: {}", list.join("; ")))
                })?,
        };
        let Some(adapter) = adapters.into_iter().nth(wanted) else {
            return Err(Error::failed(
                "GPU",
                "no adapter found that Vulkan, Metal or DX12 drives",
                "install your GPU's driver; on Linux without a GPU, install a software driver (Debian, Ubuntu: mesa-vulkan-drivers)",
            ));
        };
        Self::on(&adapter, arithmetic)
    }

    /// Opens this adapter with all its limits, those of [`WANTED_FEATURES`] that it offers, and what the arithmetic needs.
    ///
    /// # Errors
    /// If it has not what the arithmetic needs, or the driver refuses.
    pub fn on(adapter: &wgpu::Adapter, arithmetic: Arithmetic) -> Result<Self> {
        arithmetic.check(adapter)?;
        let arithmetic = arithmetic.on(adapter);
        let info = adapter.get_info();
        let features = (adapter.features() & WANTED_FEATURES) | arithmetic.features();
        let limits = adapter.limits();
        let experimental_features = match features.intersects(wgpu::Features::all_experimental_mask()) {
            // SAFETY: wgpu does not promise that these features cannot be misused. Only matmul_cooperative uses one: every index in it is
            // in range by construction, as in all kernels that are `unchecked`, and only a user who asks for it gets here.
            true => unsafe { wgpu::ExperimentalFeatures::enabled() },
            false => wgpu::ExperimentalFeatures::disabled(),
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("graftling"),
            required_features: features,
            required_limits: limits.clone(),
            experimental_features,
            memory_hints: wgpu::MemoryHints::Manual { suballocated_device_memory_block_size: BLOCK_BYTES },
            ..Default::default()
        }))
        .map_err(|error| {
            Error::failed(&info.name, error, "choose another adapter with --device; `graftling doctor` lists them")
        })?;
        let mut opened = Self::opened(device, queue, info, features, limits);
        opened.facts.arithmetic = arithmetic;
        if arithmetic.wants_matrices() {
            opened.facts.cooperative = Matrices::offered(adapter).first().copied();
        }
        Ok(opened)
    }

    /// A device that accepts all work and does none of it (wgpu's no-op backend, with real buffers): for measuring what the host's
    /// part of a run costs. It looks like a GPU without subgroups.
    ///
    /// # Errors
    /// If wgpu was built without that backend.
    pub fn noop() -> Result<Self> {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::NOOP;
        descriptor.backend_options.noop = wgpu::NoopBackendOptions::enabled();
        let instance = wgpu::Instance::new(descriptor);
        let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::NOOP));
        let Some(adapter) = adapters.first() else {
            return Err(Error::failed("no-op device", "wgpu was built without it", "this is a defect; please report it"));
        };
        let mut device = Self::on(adapter, Arithmetic::F32)?;
        device.facts = Facts { cpu_driver: false, subgroup: None, ..device.facts };
        Ok(device)
    }

    fn opened(
        device: wgpu::Device,
        queue: wgpu::Queue,
        info: wgpu::AdapterInfo,
        features: wgpu::Features,
        limits: wgpu::Limits,
    ) -> Self {
        let loss = Loss::watch(&device);
        let facts = Facts {
            cpu_driver: info.device_type == wgpu::DeviceType::Cpu,
            subgroup: features.contains(wgpu::Features::SUBGROUP).then_some((info.subgroup_min_size, info.subgroup_max_size)),
            int64: features.contains(wgpu::Features::SHADER_INT64),
            f16: features.contains(wgpu::Features::SHADER_F16),
            cooperative: None,
            arithmetic: Arithmetic::F32,
        };
        Self {
            device,
            queue,
            info,
            limits,
            facts,
            memory: Memory::default(),
            pipelines: Pipelines::default(),
            loss,
            created: Mutex::default(),
            spent: Mutex::default(),
        }
    }

    /// The compiled kernel, from the cache of this device where it was compiled before.
    ///
    /// # Errors
    /// If the shader's interface differs from what the host declares, or the driver refuses it.
    pub fn pipeline(&self, kernel: &'static Kernel, constants: &[(&'static str, f64)]) -> Result<Arc<Pipeline>> {
        self.pipelines.get(self, kernel, constants)
    }

    /// Lets go of all compiled kernels but these.
    pub(crate) fn keep_pipelines(&self, kept: &[(&'static Kernel, Vec<(&'static str, f64)>)]) {
        self.pipelines.keep(kept);
    }

    /// Bytes that the driver has set aside for buffers, with what its blocks leave unused; where it tells.
    pub fn reserved(&self) -> Option<usize> {
        self.device.generate_allocator_report().and_then(|report| usize::try_from(report.total_reserved_bytes).ok())
    }

    /// The largest storage binding, in bytes, rounded down to whole groups of 256.
    pub fn max_binding(&self) -> usize {
        let limit = self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size);
        usize::try_from(limit).unwrap_or(usize::MAX) / 256 * 256
    }

    /// Waits until all submitted work is done.
    ///
    /// # Errors
    /// If the device is lost, or reported an error since the last call.
    pub fn wait(&self) -> Result<()> {
        self.wait_for(None)
    }

    /// Waits until this submission is done; `None`: the last one.
    ///
    /// # Errors
    /// If the device is lost, or reported an error since the last call.
    pub(crate) fn wait_for(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let started = Instant::now();
        // wgpu 30 panics where a driver answers that the device is lost, after it has told so to the callback and let go of its locks.
        let waited = caught(|| self.device.poll(wgpu::PollType::Wait { submission_index, timeout: None }));
        lock(&self.spent).waiting += started.elapsed();
        self.check()?;
        match waited {
            Ok(polled) => polled.map(|_| ()).map_err(|error| self.failed(error.to_string())),
            Err(panic) => Err(self.failed(panic)),
        }
    }

    /// The host's time with this device so far.
    pub fn spent(&self) -> Spent {
        *lock(&self.spent)
    }

    /// Can the device tell when each dispatch began and ended?
    pub fn has_timestamps(&self) -> bool {
        self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// Starts what was written so far on its way and waits for it, so that staging memory is free again.
    ///
    /// # Errors
    /// If the device is lost, or reported an error since the last call.
    pub fn flush(&self) -> Result<()> {
        self.submit([]);
        self.wait()
    }

    /// The first error that the driver reported since the last call.
    ///
    /// # Errors
    /// That error; [`Error::DeviceLost`] from the moment at which the device was lost.
    pub fn check(&self) -> Result<()> {
        self.loss.take().map_or(Ok(()), |message| Err(self.failed(message)))
    }

    pub(crate) fn failed(&self, message: String) -> Error {
        let place = format!("GPU `{}`", self.info.name);
        if message.trim().eq_ignore_ascii_case(OUT_OF_MEMORY) {
            let problem = "it has not the memory for what was submitted".to_string();
            return Error::OutOfMemory { place, problem, proposal: SMALLER.to_string() };
        }
        self.or_lost(Error::failed(
            place,
            message.trim(),
            "go on from the last checkpoint with --resume, if there is one; where memory is short, --recompute all needs less and changes no number",
        ))
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
