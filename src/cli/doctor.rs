//! `graftling doctor`: which GPUs there are, what they offer, and what training will need.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use clap::Args;
use graftling::gpu::{Device, WANTED_FEATURES, adapters, kind};
use graftling::graph::{Counts, Graph, Origin, Rows, TensorType};
use graftling::kernel::{Arithmetic, Layout, Matrices};
use graftling::ops::Random;
use graftling::ops::matmul::Matmul;
use graftling::plan::Executable;
use graftling::reference;
use graftling::train::needs::table;
use graftling::{Error, Result};

/// Show the GPUs of this machine, what of them graftling uses, and the memory that training needs
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  graftling doctor
  graftling train --device 1 ...        use the GPU with number 1 of this list
  graftling train --device radeon ...   use the first GPU whose name contains \"radeon\"")]
pub struct DoctorArgs {}

/// Runs the command.
///
/// # Errors
/// Failed: there is no GPU that can be used.
pub fn run(_: DoctorArgs) -> Result<()> {
    let adapters = adapters();
    if adapters.is_empty() {
        // The same words as every command that needs a GPU.
        return Device::open(None).map(|_| ());
    }
    let mut report = String::new();
    let mut usable = 0;
    for (number, adapter) in adapters.iter().enumerate() {
        let _ = writeln!(report, "{}", describe(number, adapter));
        usable += usize::from(match works(adapter) {
            Ok(()) => {
                let _ = writeln!(report, "   opens, and computes a product right\n");
                true
            }
            Err(error) => {
                let _ = writeln!(report, "   cannot be used: {error}\n");
                false
            }
        });
    }
    let _ = writeln!(report, "Without --device, graftling takes number 0.\n");
    report.push_str(&table()?);
    super::print(&report)?;
    match usable {
        0 => Err(Error::failed("GPU", "none of the adapters can be used", "update the graphics driver")),
        _ => Ok(()),
    }
}

fn describe(number: usize, adapter: &wgpu::Adapter) -> String {
    let info = adapter.get_info();
    let limits = adapter.limits();
    let mut text = format!("{number}: {}\n", info.name);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "   {name:<22}{value}");
    };
    line("kind", kind(&info).to_string());
    line("backend", format!("{}, driver {} {}", info.backend, info.driver, info.driver_info));
    line("largest buffer", size(limits.max_buffer_size as f64));
    line("largest binding", format!("{} (larger weights are split)", size(limits.max_storage_buffer_binding_size as f64)));
    let invocations = limits.max_compute_invocations_per_workgroup;
    line("workgroup", format!("{invocations} invocations, {}", size(f64::from(limits.max_compute_workgroup_storage_size))));
    if adapter.features().contains(wgpu::Features::SUBGROUP) {
        line("subgroup", format!("{} to {} invocations", info.subgroup_min_size, info.subgroup_max_size));
    }
    let matrices: Vec<&str> = Matrices::offered(adapter).into_iter().map(Matrices::name).collect();
    if !matrices.is_empty() {
        line("cooperative matrices", format!("{} (with --matmul cooperative)", matrices.join(", ")));
    }
    let names = |features: wgpu::Features| {
        let names: Vec<String> = features.iter_names().map(|(name, _)| name.to_lowercase()).collect();
        if names.is_empty() { "none".to_string() } else { names.join(", ") }
    };
    line("features in use", names(adapter.features() & WANTED_FEATURES));
    line("features missing", format!("{} (none is required)", names(WANTED_FEATURES - adapter.features())));
    text.truncate(text.trim_end().len());
    text
}

/// Opens the adapter and multiplies two matrices on it, with the kernel that training takes there, so that the driver's compiler is tried too.
fn works(adapter: &wgpu::Adapter) -> Result<()> {
    const SIDE: usize = 96;
    let device = Arc::new(Device::on(adapter, Arithmetic::F32)?);
    let mut graph = Graph::new();
    let tensor = TensorType::f32(Rows::Fixed(SIDE), SIDE);
    let operands = ["a", "b"].map(|name| graph.leaf(name, tensor, Origin::Input));
    let product = Matmul { layout: Layout::NT, scale: 1.0 }.append(&mut graph, operands, None, "product")?;
    let mut random = Random(1);
    let matrices = operands.map(|operand| (operand, random.matrix([SIDE, SIDE], 1.0)));
    let expected = reference::run(&graph, matrices.iter().cloned().collect(), &Counts::default());
    let mut executable = Executable::new(device, graph, &[product], HashMap::new())?;
    for (operand, matrix) in &matrices {
        executable.write(*operand, &matrix.data.iter().map(|&value| value as f32).collect::<Vec<_>>());
    }
    executable.run(&Counts::default())?;
    let found = executable.read(product, SIDE * SIDE)?;
    // What is not a number is not near either.
    let right = found.iter().zip(&expected[&product].data).all(|(found, expected)| (f64::from(*found) - expected).abs() <= 1e-4);
    match right {
        true => Ok(()),
        false => Err(Error::failed("test", "a product of two matrices came out wrong", "update the graphics driver")),
    }
}

/// Bytes for people.
fn size(bytes: f64) -> String {
    let (mut value, mut unit) = (bytes, "B");
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    let decimals = usize::from(value < 10.0 && unit != "B");
    format!("{value:.decimals$} {unit}")
}
