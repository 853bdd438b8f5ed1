//! All measurements of a run, as text for a terminal; as JSON by serde.

use super::generation::GenerationReport;
use super::kernels::KernelRow;
use super::speed::Speed;
use super::step::StepReport;
use crate::kernel::Arithmetic;
use crate::plan::timings::{self, Bound, KernelTotal};
use serde::Serialize;
use std::fmt::Write;

/// What `graftling bench` has measured; parts that were not asked for are missing.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub device: String,
    pub driver: String,
    pub backend: String,
    /// The driver runs on the CPU.
    pub cpu_driver: bool,
    /// Arithmetic of the large products.
    pub matmul: Arithmetic,
    #[serde(flatten)]
    pub speed: Speed,
    pub tables: Vec<Table>,
    pub step: Option<StepReport>,
    /// The step by kernel, where the device has timestamps.
    pub step_kernels: Vec<KernelTotal>,
    pub generation: Option<GenerationReport>,
}

/// The kernels at one model's shapes.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    pub model: String,
    pub lines: Vec<KernelRow>,
}

const MIB: f64 = (1 << 20) as f64;

impl Report {
    pub fn text(&self) -> String {
        let mut text = format!("{} ({}, {})\n", self.device, self.backend, self.driver);
        if self.matmul != Arithmetic::F32 {
            let _ = writeln!(text, "large products as --matmul {} says", self.matmul.name());
        }
        let roofline = &self.speed.roofline;
        let _ = writeln!(
            text,
            "peak       {:>8.1} GFLOP/s  f32 multiply-adds in registers, {} chains of vec4 an invocation",
            roofline.flops_per_second * 1e-9,
            self.speed.chains
        );
        let _ = writeln!(
            text,
            "bandwidth  {:>8.1} GB/s     copy of {:.0} MiB, bytes read and written",
            roofline.bytes_per_second * 1e-9,
            self.speed.copied_bytes as f64 / MIB
        );
        self.tables.iter().for_each(|table| write_table(&mut text, table));
        if let Some(step) = &self.step {
            write_step(&mut text, step, self.cpu_driver);
            if step.timings.is_empty() {
                text.push_str("\nThis device has no timestamps, so there is no table by kernel.\n");
            } else {
                let _ = write!(text, "\n{}", timings::table(&step.timings, Some(roofline)));
            }
        }
        if let Some(generation) = &self.generation {
            let _ = writeln!(
                text,
                "\nGeneration: {:.1} tokens/s greedily at batch 1 ({} tokens); prompt of {} tokens at {:.1} tokens/s",
                generation.tokens_per_second, generation.tokens, generation.prompt_tokens, generation.prompt_tokens_per_second
            );
        }
        text
    }
}

fn write_table(text: &mut String, table: &Table) {
    let _ = writeln!(
        text,
        "\n{:<42} {:<28} {:>9} {:>9} {:>8}  of the bound   kernel",
        table.model, "m x n x k, or rows", "ms", "GFLOP/s", "GB/s"
    );
    for KernelRow { name, shape, kernels, measured, note, flops, .. } in &table.lines {
        let _ = write!(text, "{name:<42} {shape:<28} ");
        if let Some(measured) = measured {
            let bound = if measured.bound == Bound::Compute { "compute" } else { "memory" };
            let _ = write!(
                text,
                "{:>9.3} {:>9} {:>8.1} {:>6.1}% {bound:<7} {}",
                measured.seconds * 1e3,
                if *flops > 0.0 { format!("{:.1}", measured.flops_per_second * 1e-9) } else { "-".to_owned() },
                measured.bytes_per_second * 1e-9,
                100.0 * measured.share,
                kernels.iter().fold(Vec::new(), distinct).join(", ")
            );
        }
        let _ = writeln!(text, "{}", note.as_ref().map_or(String::new(), |note| format!("  ({note})")));
    }
}

/// Names without repetition, in order.
fn distinct<'n>(mut names: Vec<&'n str>, name: &&'n str) -> Vec<&'n str> {
    if !names.contains(name) {
        names.push(name);
    }
    names
}

fn write_step(text: &mut String, step: &StepReport, cpu_driver: bool) {
    let _ = writeln!(
        text,
        "\nTraining step of {} tokens, {} trained parameters: median {:.3} s, {:.1} tokens/s",
        step.tokens, step.trained_parameters, step.median_step_seconds, step.tokens_per_second
    );
    if let (Some(efficiency), Some(rate)) = (step.step_efficiency, step.matmul_flops_per_second) {
        let _ = writeln!(
            text,
            "step efficiency {:.1} %: its {:.1} GFLOP of matmul would take {:.3} s at the best measured rate, {:.1} GFLOP/s",
            100.0 * efficiency,
            step.matmul_flops * 1e-9,
            step.matmul_flops / rate,
            rate * 1e-9
        );
    }
    let _ = writeln!(
        text,
        "{} dispatches; the host encodes them in {:.2} ms ({:.2} us each) and hands them over in {:.2} ms{}",
        step.dispatches,
        step.encode_seconds * 1e3,
        step.encode_seconds * 1e6 / step.dispatches.max(1) as f64,
        step.submit_seconds * 1e3,
        if cpu_driver { " (in which this driver does the work, on the same cores)" } else { "" }
    );
    let memory = &step.gpu_bytes;
    let _ = writeln!(
        text,
        "GPU memory: {:.0} MiB (weights {:.0}, adapter {:.0}, optimizer {:.0}, activations {:.0}, inputs {:.0})",
        memory.total() as f64 / MIB,
        memory.weights as f64 / MIB,
        memory.adapters as f64 / MIB,
        memory.optimizer as f64 / MIB,
        memory.activations as f64 / MIB,
        memory.inputs as f64 / MIB,
    );
}
