//! The part that runs on a driver: compiles kernels in SPIR-V and tells what they became.

use ash::{khr, vk};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::io::{BufRead, Write};

/// What a kernel became, as its driver tells.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub kernel: String,
    /// Why there is none.
    pub error: Option<String>,
    /// Invocations that run in step.
    pub subgroup: u32,
    /// By the driver's own names.
    pub statistics: BTreeMap<String, u64>,
    /// The machine's code, where the driver shows it.
    pub assembly: Option<String>,
}

/// Compiles the files that standard input names, one a line, and writes a [`Report`] in JSON for each to standard output.
pub fn run() {
    // SAFETY: the loader is the one that the driver's packages come with; nothing that is made here outlives this function.
    let entry = unsafe { ash::Entry::load() }.expect("a Vulkan loader");
    let compiler = Compiler::open(&entry).unwrap_or_else(|error| panic!("no device without a GPU: {error}"));
    for line in std::io::stdin().lock().lines() {
        let file = line.expect("names of files");
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&std::fs::read(&file).expect("the kernel that was written"));
        let report =
            compiler.compile(&words).unwrap_or_else(|error| Report { error: Some(error.to_string()), ..Report::default() });
        let report = Report { kernel: file, ..report };
        println!("{}", serde_json::to_string(&report).expect("a report is JSON"));
        std::io::stdout().flush().expect("standard output is open");
    }
}

/// A device, opened as wgpu opens it as far as the compiler is concerned, and a pipeline layout that suits every kernel.
struct Compiler {
    device: ash::Device,
    executables: khr::pipeline_executable_properties::Device,
    layout: vk::PipelineLayout,
}

impl Compiler {
    fn open(entry: &ash::Entry) -> Result<Self, vk::Result> {
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        // SAFETY: every structure that is handed over here lives until the call returns.
        unsafe {
            let instance = entry.create_instance(&vk::InstanceCreateInfo::default().application_info(&application), None)?;
            let physical = *instance.enumerate_physical_devices()?.first().ok_or(vk::Result::ERROR_INITIALIZATION_FAILED)?;
            let offered = instance.enumerate_device_extension_properties(physical)?;
            let has = |name: &CStr| offered.iter().any(|one| one.extension_name_as_c_str() == Ok(name));
            let mut offers11 = vk::PhysicalDeviceVulkan11Features::default();
            let mut offers12 = vk::PhysicalDeviceVulkan12Features::default();
            let mut offers = vk::PhysicalDeviceFeatures2::default().push_next(&mut offers11).push_next(&mut offers12);
            instance.get_physical_device_features2(physical, &mut offers);
            let core = offers.features;
            let mut features = vk::PhysicalDeviceFeatures2::default().features(
                vk::PhysicalDeviceFeatures::default()
                    .robust_buffer_access(true)
                    .shader_int64(core.shader_int64 == vk::TRUE)
                    .shader_int16(core.shader_int16 == vk::TRUE),
            );
            let mut features11 = vk::PhysicalDeviceVulkan11Features::default()
                .storage_buffer16_bit_access(offers11.storage_buffer16_bit_access == vk::TRUE)
                .uniform_and_storage_buffer16_bit_access(offers11.uniform_and_storage_buffer16_bit_access == vk::TRUE);
            let mut features12 = vk::PhysicalDeviceVulkan12Features::default()
                .shader_float16(offers12.shader_float16 == vk::TRUE)
                .vulkan_memory_model(true)
                .vulkan_memory_model_device_scope(offers12.vulkan_memory_model_device_scope == vk::TRUE);
            let mut features13 =
                vk::PhysicalDeviceVulkan13Features::default().subgroup_size_control(true).compute_full_subgroups(true);
            let mut tells = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
            let mut matrices = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
            let mut robust = vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(true);
            features =
                features.push_next(&mut features11).push_next(&mut features12).push_next(&mut features13).push_next(&mut tells);
            let mut names = vec![khr::pipeline_executable_properties::NAME.as_ptr()];
            if has(khr::cooperative_matrix::NAME) {
                names.push(khr::cooperative_matrix::NAME.as_ptr());
                features = features.push_next(&mut matrices);
            }
            if has(ash::ext::robustness2::NAME) {
                names.push(ash::ext::robustness2::NAME.as_ptr());
                features = features.push_next(&mut robust);
            }
            let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
            let create = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&names)
                .push_next(&mut features);
            let device = instance.create_device(physical, &create, None)?;
            let binding = |binding: u32| {
                vk::DescriptorSetLayoutBinding::default()
                    .binding(binding)
                    .descriptor_count(1)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE)
                    .descriptor_type(match binding {
                        0 => vk::DescriptorType::UNIFORM_BUFFER,
                        _ => vk::DescriptorType::STORAGE_BUFFER,
                    })
            };
            // Parameters, and the most storage buffers that a kernel binds.
            let bindings: Vec<_> = (0..9).map(binding).collect();
            let set =
                device.create_descriptor_set_layout(&vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings), None)?;
            let layout = device.create_pipeline_layout(&vk::PipelineLayoutCreateInfo::default().set_layouts(&[set]), None)?;
            let executables = khr::pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Self { device, executables, layout })
        }
    }

    fn compile(&self, words: &[u32]) -> Result<Report, vk::Result> {
        // SAFETY: as above; the SPIR-V comes from naga.
        unsafe {
            let module = self.device.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(words), None)?;
            // wgpu lets the driver choose the subgroup's size wherever subgroups are offered.
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(c"main")
                .flags(vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE);
            let flags =
                vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            let create = vk::ComputePipelineCreateInfo::default().stage(stage).layout(self.layout).flags(flags);
            let pipeline =
                self.device.create_compute_pipelines(vk::PipelineCache::null(), &[create], None).map_err(|(_, error)| error)?[0];
            let told = self.told(pipeline);
            self.device.destroy_pipeline(pipeline, None);
            self.device.destroy_shader_module(module, None);
            told
        }
    }

    unsafe fn told(&self, pipeline: vk::Pipeline) -> Result<Report, vk::Result> {
        // SAFETY: the pipeline was made with the flags that these questions need; a statistic's format says which field of its value counts.
        unsafe {
            let about =
                self.executables.get_pipeline_executable_properties(&vk::PipelineInfoKHR::default().pipeline(pipeline))?;
            let first = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
            let mut statistics = BTreeMap::new();
            for one in self.executables.get_pipeline_executable_statistics(&first)? {
                let value = match one.format {
                    vk::PipelineExecutableStatisticFormatKHR::UINT64 => one.value.u64,
                    vk::PipelineExecutableStatisticFormatKHR::INT64 => one.value.i64.max(0) as u64,
                    vk::PipelineExecutableStatisticFormatKHR::FLOAT64 => one.value.f64.round() as u64,
                    _ => u64::from(one.value.b32),
                };
                statistics.insert(text(&one.name), value);
            }
            let assembly = self.assembly(&first)?;
            let subgroup = about.first().map_or(0, |first| first.subgroup_size);
            Ok(Report { subgroup, statistics, assembly, ..Report::default() })
        }
    }

    /// The last internal representation that is text: the machine's code.
    unsafe fn assembly(&self, executable: &vk::PipelineExecutableInfoKHR) -> Result<Option<String>, vk::Result> {
        // SAFETY: each buffer is as long as the driver asked for before; the pointers live until the second call returns.
        unsafe {
            let mut all = self.executables.get_pipeline_executable_internal_representations(executable)?;
            let mut bytes: Vec<Vec<u8>> = all.iter().map(|one| vec![0; one.data_size]).collect();
            for (one, bytes) in all.iter_mut().zip(&mut bytes) {
                one.p_data = bytes.as_mut_ptr().cast();
            }
            let ask = self.executables.fp().get_pipeline_executable_internal_representations_khr;
            let mut count = all.len() as u32;
            ask(self.device.handle(), executable, &mut count, all.as_mut_ptr()).result()?;
            let last = all.iter().zip(&bytes).rev().find(|(one, _)| one.is_text == vk::TRUE);
            Ok(last.map(|(_, bytes)| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()))
        }
    }
}

fn text(name: &[c_char]) -> String {
    let bytes: Vec<u8> = name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
