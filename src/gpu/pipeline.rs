//! A kernel compiled for a device.

use super::Slice;
use super::ahead::{self, Wanted};
use super::device::{Device, lock};
use crate::kernel::reflect::{self, BindingKind};
use crate::kernel::{Kernel, shader};
use crate::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};

/// A compiled kernel and the layout of its bindings.
pub struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
    pub(crate) bindings: Vec<BindingKind>,
}

type Key = (&'static str, Vec<(&'static str, u64)>);

fn key(kernel: &Kernel, constants: &[(&'static str, f64)]) -> Key {
    (kernel.name, constants.iter().map(|(name, value)| (*name, value.to_bits())).collect())
}

/// The kernels that a device has compiled so far.
#[derive(Default)]
pub(super) struct Pipelines {
    known: Mutex<HashMap<Key, Arc<Pipeline>>>,
    /// Held by who compiles several: another one waits, and finds what it needs too.
    compiling: Mutex<()>,
}

impl Pipelines {
    /// The kernel as it was compiled before, or as it is compiled now, for the device that these are of.
    pub(super) fn get(
        &self,
        device: &Device,
        kernel: &'static Kernel,
        constants: &[(&'static str, f64)],
    ) -> Result<Arc<Pipeline>> {
        let key = key(kernel, constants);
        if let Some(known) = lock(&self.known).get(&key) {
            return Ok(known.clone());
        }
        let compiled = Arc::new(Pipeline::compile(device, kernel, constants)?);
        lock(&self.known).insert(key, compiled.clone());
        Ok(compiled)
    }

    /// Whether the kernel was compiled before.
    fn has(&self, kernel: &Kernel, constants: &[(&'static str, f64)]) -> bool {
        lock(&self.known).contains_key(&key(kernel, constants))
    }

    /// Lets go of all but these.
    pub(super) fn keep(&self, kept: &[(&'static Kernel, Vec<(&'static str, f64)>)]) {
        let kept: HashSet<Key> = kept.iter().map(|(kernel, constants)| key(kernel, constants)).collect();
        lock(&self.known).retain(|key, _| kept.contains(key));
    }
}

impl Pipeline {
    fn compile(device: &Device, kernel: &'static Kernel, constants: &[(&'static str, f64)]) -> Result<Self> {
        let broken = |problem: String| {
            // Without dxcompiler.dll wgpu takes the compiler that Windows brings, which gives up on loops that it cannot unroll.
            let proposal = match device.info.backend {
                wgpu::Backend::Dx12 => {
                    "put dxcompiler.dll and dxil.dll, of Microsoft's DirectXShaderCompiler, beside the program, \
                     or choose the GPU under Vulkan: `graftling doctor` lists both"
                }
                _ => "please report this with `graftling doctor`",
            };
            Error::failed(format!("kernel {}", kernel.name), problem, proposal)
        };
        if !kernel.needs.met_by(&device.facts) {
            return Err(broken(format!("the device lacks what it needs: {:?}", kernel.needs)));
        }
        device.count(|created| created.pipelines += 1);
        let interface = reflect::interface(kernel).map_err(broken)?;
        // Error scopes belong to the thread, so kernels may be compiled side by side.
        let text = shader::source(kernel).map_err(broken)?;
        let scope = device.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let source = wgpu::ShaderModuleDescriptor { label: Some(kernel.name), source: wgpu::ShaderSource::Wgsl(text.into()) };
        let checks = if kernel.unchecked {
            wgpu::ShaderRuntimeChecks::unchecked()
        } else {
            wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..wgpu::ShaderRuntimeChecks::checked() }
        };
        // SAFETY: every loop of every kernel ends (tests/portability/loops.rs says why), and kernels marked `unchecked` keep every index in
        // range by construction; see `Kernel::unchecked`.
        let module = unsafe { device.device.create_shader_module_trusted(source, checks) };
        let entries: Vec<wgpu::BindGroupLayoutEntry> =
            interface.bindings.iter().enumerate().map(|(index, kind)| entry(index, *kind)).collect();
        let layout = device
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(kernel.name), entries: &entries });
        let constants: Vec<(&str, f64)> = kernel.constants.iter().chain(constants).copied().collect();
        let pipeline = device.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&device.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(kernel.name),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            })),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        match pollster::block_on(scope.pop()) {
            Some(error) => Err(device.or_lost(broken(error.to_string()))),
            None => Ok(Self { pipeline, layout, bindings: interface.bindings }),
        }
    }

    /// A bind group of these slices: parameters, then matrices.
    pub(crate) fn bind<'s>(&self, device: &Device, slices: impl Iterator<Item = &'s Slice>) -> wgpu::BindGroup {
        device.count(|created| created.bind_groups += 1);
        let entries: Vec<wgpu::BindGroupEntry> = slices
            .enumerate()
            .map(|(index, slice)| wgpu::BindGroupEntry {
                binding: index as u32,
                resource: wgpu::BindingResource::Buffer(slice.binding()),
            })
            .collect();
        debug_assert_eq!(entries.len(), self.bindings.len());
        device.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &self.layout, entries: &entries })
    }
}

fn entry(index: usize, kind: BindingKind) -> wgpu::BindGroupLayoutEntry {
    let (ty, least) = match kind {
        BindingKind::Uniform(bytes) => (wgpu::BufferBindingType::Uniform, u64::from(bytes)),
        // One vec4 of 64-bit pairs: every buffer is padded to more, so that no size need be checked at each dispatch.
        BindingKind::StorageRead => (wgpu::BufferBindingType::Storage { read_only: true }, 32),
        BindingKind::StorageReadWrite => (wgpu::BufferBindingType::Storage { read_only: false }, 32),
    };
    wgpu::BindGroupLayoutEntry {
        binding: index as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: NonZeroU64::new(least) },
        count: None,
    }
}

/// Compiles several kernels at once, on all cores: drivers compile for seconds, and each kernel by itself.
///
/// # Errors
/// The first kernel that cannot be compiled.
pub fn compile_all(device: &Device, kernels: &[Wanted]) -> Result<()> {
    let _alone = lock(&device.pipelines.compiling);
    let is_new = |wanted: &&Wanted| !device.pipelines.has(wanted.kernel, &wanted.constants);
    let new: Vec<&Wanted> = kernels.iter().filter(is_new).collect();
    let next = Mutex::new(new.iter());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..cores.min(new.len()))
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let job = lock(&next).next();
                        let Some(Wanted { kernel, constants, .. }) = job else { return Ok(()) };
                        device.pipeline(kernel, constants)?;
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    ahead::run_first(device, &new)
}
