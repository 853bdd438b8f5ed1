//! How much memory a device has, as far as that can be known before it is used. wgpu does not tell; what does:
//!
//! | device | source |
//! |---|---|
//! | GPU behind Vulkan | the heaps that its driver reports: those on the device, or all of an integrated GPU; where it has VK_EXT_memory_budget, what other programs leave of them |
//! | integrated GPU, driver on the CPU, both on Linux | free memory of the machine, limits of control groups, address space limit of the process |
//!
//! Elsewhere (Metal, DX12) it is unknown, and an allocation that fails says so when it does.

use super::Device;
use std::path::Path;

/// What is known of a device's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that can be had at most, and how that is known.
    pub free: Option<(u64, &'static str)>,
    /// Bytes of the largest binding of one buffer to a kernel.
    pub largest_binding: usize,
}

impl Device {
    /// What is known of this device's memory now.
    pub fn room(&self) -> Room {
        let mut known: Vec<(u64, &str)> = Vec::new();
        match self.info.device_type {
            wgpu::DeviceType::Cpu => known.extend(free_on_this_machine(Path::new("/"))),
            wgpu::DeviceType::IntegratedGpu => {
                known.extend(self.heaps(false));
                known.extend(free_on_this_machine(Path::new("/")));
            }
            _ => known.extend(self.heaps(true)),
        }
        Room { free: known.into_iter().min(), largest_binding: self.max_binding() }
    }

    /// Bytes of the heaps that a Vulkan driver reports, or what of them this process can still have where the driver tells. `local`: only
    /// those on the device.
    #[cfg(not(target_vendor = "apple"))]
    fn heaps(&self, local: bool) -> Option<(u64, &'static str)> {
        use ash::vk;
        let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        // SAFETY: the handles are used for one query while wgpu holds them, and neither kept nor destroyed. A driver without
        // VK_EXT_memory_budget passes over its structure, which stays zero.
        let memory = unsafe {
            let device = self.device.as_hal::<wgpu::hal::api::Vulkan>()?;
            let (instance, gpu) = (device.shared_instance(), device.raw_physical_device());
            if instance.instance_api_version() >= vk::API_VERSION_1_1 {
                let mut memory = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
                instance.raw_instance().get_physical_device_memory_properties2(gpu, &mut memory);
                memory.memory_properties
            } else {
                instance.raw_instance().get_physical_device_memory_properties(gpu)
            }
        };
        let heaps: Vec<usize> = (0..memory.memory_heap_count as usize)
            .filter(|&heap| !local || memory.memory_heaps[heap].flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL))
            .collect();
        let told = heaps.iter().any(|&heap| budget.heap_budget[heap] > 0);
        let left = |heap: usize| budget.heap_budget[heap].saturating_sub(budget.heap_usage[heap]);
        Some(match told {
            true => (heaps.iter().map(|&heap| left(heap)).sum(), "what the driver says is free"),
            false => (heaps.iter().map(|&heap| memory.memory_heaps[heap].size).sum(), "all that the driver says the GPU has"),
        })
    }

    /// There is no Vulkan here.
    #[cfg(target_vendor = "apple")]
    fn heaps(&self, _local: bool) -> Option<(u64, &'static str)> {
        None
    }
}

/// Bytes that this process can still have, by every rule that Linux writes down under `root`; nothing elsewhere.
fn free_on_this_machine(root: &Path) -> Vec<(u64, &'static str)> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let mut known = Vec::new();
    known.extend(kibibytes(&read("proc/meminfo"), "MemAvailable:").map(|bytes| (bytes, "free memory of this machine")));
    let limit = read("proc/self/limits").lines().find_map(|line| {
        line.strip_prefix("Max address space")?.split_whitespace().next()?.parse::<u64>().ok() // `unlimited` is no number
    });
    let used = kibibytes(&read("proc/self/status"), "VmSize:");
    known.extend(limit.zip(used).map(|(limit, used)| (limit.saturating_sub(used), "address space left by ulimit -v")));
    for line in read("proc/self/cgroup").lines() {
        // `0::/path` in version 2, `4:memory:/path` in version 1. Inside a container the path may not be there, but the root is.
        let mut fields = line.splitn(3, ':');
        let (folder, names) = match (fields.next(), fields.next()) {
            (Some("0"), Some("")) => ("sys/fs/cgroup", ["memory.max", "memory.current", "inactive_file "]),
            (_, Some(controllers)) if controllers.split(',').any(|name| name == "memory") => {
                let names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "];
                ("sys/fs/cgroup/memory", names)
            }
            _ => continue,
        };
        let path = Path::new(fields.next().unwrap_or("/")).strip_prefix("/").unwrap_or(Path::new(""));
        let groups = path.ancestors().map(|group| root.join(folder).join(group));
        known.extend(groups.filter_map(|group| left_in_group(&group, names)).map(|bytes| (bytes, "limit of the control group")));
    }
    known
}

/// Limit less use, where files that are only cached do not count as used.
fn left_in_group(group: &Path, [limit, used, cached]: [&str; 3]) -> Option<u64> {
    let number = |name: &str| std::fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok(); // `max` is no number
    let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let cached = stat.lines().find_map(|line| line.strip_prefix(cached)?.trim().parse::<u64>().ok()).unwrap_or(0);
    Some(number(limit)?.saturating_sub(number(used)?.saturating_sub(cached)))
}

/// The value of a line such as `MemAvailable:   23652860 kB`.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> Option<(u64, &'static str)> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        free_on_this_machine(root.path()).into_iter().min()
    }

    #[test]
    fn the_strictest_of_the_rules_of_linux_counts() {
        assert_eq!(machine(&[]), None);
        let meminfo = ("proc/meminfo", "MemTotal:       900 kB\nMemAvailable:    800 kB\n");
        assert_eq!(machine(&[meminfo]), Some((800 << 10, "free memory of this machine")));
        let status = ("proc/self/status", "Name:\tx\nVmSize:\t    300 kB\n");
        let limits = |soft: &str| format!("Limit  Soft  Hard\nMax address space         {soft}      unlimited     bytes\n");
        assert_eq!(machine(&[meminfo, status, ("proc/self/limits", &limits("unlimited"))]).unwrap().0, 800 << 10);
        let left = machine(&[meminfo, status, ("proc/self/limits", &limits("1024000"))]).unwrap();
        assert_eq!(left, ((1000 - 300) << 10, "address space left by ulimit -v"));
        assert_eq!(machine(&[status, ("proc/self/limits", &limits("1000"))]).unwrap().0, 0);
    }

    #[test]
    fn control_groups_of_both_versions_and_their_parents_count() {
        let group = ("proc/self/cgroup", "0::/a/b\n");
        let files = [
            group,
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "10\n"),
            ("sys/fs/cgroup/a/memory.max", "5000\n"),
            ("sys/fs/cgroup/a/memory.current", "3000\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 7\ninactive_file 1000\n"),
        ];
        assert_eq!(machine(&files), Some((3000, "limit of the control group")));
        let files = [
            ("proc/self/cgroup", "5:devices:/\n4:cpu,memory:/not/mounted\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "700\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "200\n"),
        ];
        assert_eq!(machine(&files).unwrap().0, 500);
    }
}
