//! Kernels as naga hands them to Vulkan, Metal and DX12, with the options that wgpu uses.

use graftling::kernel::{Kernel, Needs, shader};
use naga::back::{hlsl, msl, pipeline_constants, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage};
use std::process::Command;

/// A kernel without `override` constants: their values are in place.
pub struct Resolved {
    pub module: Module,
    pub info: ModuleInfo,
    unchecked: bool,
}

impl Resolved {
    pub fn new(kernel: &Kernel, constants: &[(&'static str, f64)], needs: Needs) -> Result<Self, String> {
        let source = shader::source(kernel)?;
        let module =
            naga::front::wgsl::parse_str(&source).map_err(|error| error.emit_to_string_with_path(&source, kernel.name))?;
        // f16 values that rest packed in words are part of WGSL without any feature.
        let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        capabilities.set(Capabilities::SUBGROUP, needs.subgroup_size.is_some() || needs.cooperative.is_some());
        capabilities.set(Capabilities::COOPERATIVE_MATRIX, needs.cooperative.is_some());
        capabilities.set(Capabilities::SHADER_INT64, needs.int64);
        capabilities.set(Capabilities::SHADER_FLOAT16, needs.f16);
        let info = Validator::new(ValidationFlags::all(), capabilities)
            .validate(&module)
            .map_err(|error| error.emit_to_string_with_path(&source, kernel.name))?;
        let values = kernel.constants.iter().chain(constants).map(|&(name, value)| (name.to_owned(), value)).collect();
        let entry = Some((ShaderStage::Compute, "main"));
        let (module, info) =
            pipeline_constants::process_overrides(&module, &info, entry, &values).map_err(|error| error.to_string())?;
        Ok(Self { module: module.into_owned(), info: info.into_owned(), unchecked: kernel.unchecked })
    }

    pub fn workgroup_size(&self) -> [u32; 3] {
        self.module.entry_points[0].workgroup_size
    }

    /// Bytes of all `var<workgroup>` that `main` reaches.
    pub fn workgroup_bytes(&self) -> u32 {
        let used = self.info.get_entry_point(0);
        self.module
            .global_variables
            .iter()
            .filter(|(handle, variable)| variable.space == AddressSpace::WorkGroup && !used[*handle].is_empty())
            .map(|(_, variable)| self.module.types[variable.ty].inner.size(self.module.to_ctx()))
            .sum()
    }

    fn bounds_checks(&self) -> BoundsCheckPolicies {
        let policy = if self.unchecked { BoundsCheckPolicy::Unchecked } else { BoundsCheckPolicy::Restrict };
        BoundsCheckPolicies { index: policy, buffer: policy, ..Default::default() }
    }
}

pub fn has_spirv_val() -> bool {
    Command::new("spirv-val").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// What a spirv-val from before cooperative matrices says to their capability.
const UNKNOWN_CAPABILITY: &str = "Invalid capability operand: 6022";

/// SPIR-V of this version. `buffers` says how an index into a buffer is kept in range: on drivers with VK_EXT_robustness2 wgpu leaves it to them.
pub fn spirv_words(kernel: &Resolved, lang_version: (u8, u8), buffers: BoundsCheckPolicy) -> Result<Vec<u32>, String> {
    let options = spv::Options {
        lang_version,
        bounds_check_policies: BoundsCheckPolicies { buffer: buffers, ..kernel.bounds_checks() },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: !kernel.unchecked,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: "main".into() };
    spv::write_vec(&kernel.module, &kernel.info, &options, Some(&pipeline)).map_err(|error| error.to_string())
}

/// SPIR-V 1.3 (Vulkan 1.1), checked by the Khronos validator where it is installed.
pub fn spirv(kernel: &Resolved, needs: Needs) -> Result<(), String> {
    let words = spirv_words(kernel, (1, 3), kernel.bounds_checks().buffer)?;
    if !has_spirv_val() {
        return Ok(());
    }
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    std::fs::write(&file, bytemuck::cast_slice::<u32, u8>(&words)).map_err(|error| error.to_string())?;
    let output = Command::new("spirv-val")
        .args(["--target-env", "vulkan1.1"])
        .arg(file.path())
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if needs.cooperative.is_some() && said.contains(UNKNOWN_CAPABILITY) {
        eprintln!("not validated: this spirv-val does not know SPV_KHR_cooperative_matrix (SPIRV-Tools does since 2023.3)");
        return Ok(());
    }
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// MSL 2.0; 2.4 for kernels that need subgroups, their matrices or 64-bit integers, which Metal has had since then.
pub fn metal(kernel: &Resolved, needs: Needs) -> Result<(), String> {
    let mut resources = msl::EntryPointResources::default();
    for (_, variable) in kernel.module.global_variables.iter() {
        if let Some(binding) = variable.binding {
            let target = msl::BindTarget { buffer: Some(binding.binding as u8), mutable: true, ..Default::default() };
            resources.resources.insert(binding, target);
        }
    }
    resources.sizes_buffer = Some(30);
    let options = msl::Options {
        lang_version: if needs == Needs::NONE { (2, 0) } else { (2, 4) },
        per_entry_point_map: [("main".to_owned(), resources)].into(),
        fake_missing_bindings: false,
        bounds_check_policies: kernel.bounds_checks(),
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions { entry_point: Some((ShaderStage::Compute, "main".into())), ..Default::default() };
    let (text, info) = msl::write_string(&kernel.module, &kernel.info, &options, &pipeline).map_err(|error| error.to_string())?;
    info.entry_point_names[0].as_ref().map_err(|error| error.to_string())?;
    if text.contains("kernel void") { Ok(()) } else { Err("the translation has no kernel".into()) }
}

/// HLSL for shader model 6.0; 6.2 where f16 arithmetic is needed.
pub fn hlsl(kernel: &Resolved, needs: Needs) -> Result<(), String> {
    let options = hlsl::Options {
        shader_model: if needs.f16 { hlsl::ShaderModel::V6_2 } else { hlsl::ShaderModel::V6_0 },
        fake_missing_bindings: true,
        zero_initialize_workgroup_memory: false,
        restrict_indexing: !kernel.unchecked,
        force_loop_bounding: false,
        ..Default::default()
    };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, "main".into())) };
    let mut text = String::new();
    let reflection = hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(&kernel.module, &kernel.info, None)
        .map_err(|error| error.to_string())?;
    reflection.entry_point_names[0].as_ref().map_err(|error| error.to_string())?;
    if text.contains("numthreads") { Ok(()) } else { Err("the translation has no compute shader".into()) }
}
