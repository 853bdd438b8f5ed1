//! The one place that asks the system for its GPU drivers.

/// Drivers that can compute: Vulkan, Metal, DX12.
///
/// graftling opens no window, so Vulkan is asked for without what windows need. With it, Mesa's layer that sorts GPUs looks for the
/// desktop, and where there is none Debian 12's libwayland writes `error: XDG_RUNTIME_DIR is invalid or not set` to standard error.
pub(super) fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    #[cfg(all(unix, not(target_vendor = "apple")))]
    if let Some(instance) = windowless(&descriptor) {
        return instance;
    }
    wgpu::Instance::new(descriptor)
}

/// What Vulkan needs to show anything on the desktops of Linux and its like.
#[cfg(all(unix, not(target_vendor = "apple")))]
const DESKTOPS: [&std::ffi::CStr; 3] = [c"VK_KHR_wayland_surface", c"VK_KHR_xcb_surface", c"VK_KHR_xlib_surface"];

/// Vulkan, which is all that there is on such systems, without a connection to a desktop; `None` where there is no Vulkan.
#[cfg(all(unix, not(target_vendor = "apple")))]
fn windowless(descriptor: &wgpu::InstanceDescriptor) -> Option<wgpu::Instance> {
    use wgpu::hal::vulkan;
    let hal = wgpu::hal::InstanceDescriptor {
        name: "graftling",
        flags: descriptor.flags,
        memory_budget_thresholds: descriptor.memory_budget_thresholds,
        backend_options: descriptor.backend_options.clone(),
        telemetry: None,
        display: None,
    };
    let without_desktops =
        |arguments: vulkan::CreateInstanceCallbackArgs| arguments.extensions.retain(|name| !DESKTOPS.contains(name));
    // SAFETY: wgpu-hal asks that its list is only added to, as it takes every extension that is there for enabled. What it does with
    // these three is to make surfaces of windows, and it looks into this list before (wgpu-hal 30.0.1, `create_surface_from_wayland`
    // and its siblings); graftling makes no surface. The instance is handed over whole.
    unsafe {
        let instance = vulkan::Instance::init_with_callback(&hal, Some(Box::new(without_desktops))).ok()?;
        Some(wgpu::Instance::from_hal::<wgpu::hal::api::Vulkan>(instance))
    }
}

#[cfg(all(test, unix, not(target_vendor = "apple")))]
mod tests {
    use super::*;

    #[test]
    fn no_desktop_is_looked_for() {
        // SAFETY: it is only read.
        let hal = instance();
        let hal =
            unsafe { hal.as_hal::<wgpu::hal::api::Vulkan>() }.expect("tests need a Vulkan driver; ./tools/test installs one");
        let names: Vec<_> = hal.shared_instance().extensions().to_vec();
        assert!(!names.is_empty() && !names.iter().any(|name| DESKTOPS.contains(name)), "{names:?}");
    }
}
