//! Matmul at the shapes of SmolLM2-135M, in GFLOP/s: `cargo bench --bench matmul [-- FILTER]`.
//!
//! Each line is one product. The columns are the families of kernels: what graftling chooses on this device, and what it would choose if the
//! device were of another kind. All of a line are measured in turn, round by round, so that they meet the same state of the machine.
//! Printed are best / median.
//!
//! `cargo bench --bench matmul -- formats` compares formats of weights instead, in every form that measurement may choose: of each the time
//! in units of that of bf16 in the rule's form in the same round, median of the rounds. `-- experts` compares a layer of experts with a dense MLP.

#[path = "matmul/experts.rs"]
mod experts;

use graftling::gpu::Device;
use graftling::graph::{Counts, DType, Graph, Origin, Rows, TensorType, ValueId};
use graftling::kernel::{Arithmetic, Class, Facts, Layout, Tuning};
use graftling::ops::matmul::Matmul;
use graftling::plan::{Executable, Pinned, Tuned};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

const ROUNDS: usize = 7;
/// Work of one measurement: products that are too short to be timed are repeated.
const FLOPS: usize = 200_000_000;

/// What it is, layout, m, n, k, storage of b, with an addend?
const PRODUCTS: [(&str, Layout, [usize; 3], DType, bool); 28] = [
    ("gate, up", Layout::NT, [512, 1536, 576], DType::F32, false),
    ("gate, up", Layout::NT, [512, 1536, 576], DType::BF16, false),
    ("gate, up", Layout::NT, [512, 1536, 576], DType::F16, false),
    ("gate, up", Layout::NT, [512, 1536, 576], DType::Q8_0, false),
    ("gate, up", Layout::NT, [512, 1536, 576], DType::Q4_1, false),
    ("down", Layout::NT, [512, 576, 1536], DType::Q4_1, false),
    ("down", Layout::NT, [512, 576, 1536], DType::F32, false),
    ("q, o", Layout::NT, [512, 576, 576], DType::F32, false),
    ("k, v", Layout::NT, [512, 192, 576], DType::F32, false),
    ("d gate, d up", Layout::NN, [512, 576, 1536], DType::F32, true),
    ("d gate, d up", Layout::NN, [512, 576, 1536], DType::BF16, true),
    ("d gate, d up", Layout::NN, [512, 576, 1536], DType::Q8_0, true),
    ("d gate, d up", Layout::NN, [512, 576, 1536], DType::Q4_1, true),
    ("d down", Layout::NN, [512, 1536, 576], DType::F32, true),
    ("logits", Layout::NT, [128, 49152, 576], DType::F32, false),
    ("logits", Layout::NT, [128, 49152, 576], DType::Q4_1, false),
    ("d logits", Layout::NN, [128, 576, 49152], DType::Q4_1, false),
    ("d logits", Layout::NN, [128, 576, 49152], DType::F32, false),
    ("x A^T", Layout::NT, [512, 8, 576], DType::F32, false),
    ("y + u B^T", Layout::NT, [512, 1536, 8], DType::F32, true),
    ("d_y B", Layout::NN, [512, 8, 1536], DType::F32, false),
    ("d_x + d_u A", Layout::NN, [512, 576, 8], DType::F32, true),
    ("d_y^T u", Layout::TN, [1536, 8, 512], DType::F32, false),
    ("d_u^T x", Layout::TN, [8, 1536, 512], DType::F32, false),
    ("one token", Layout::NT, [1, 1536, 576], DType::F32, false),
    ("one token", Layout::NT, [1, 1536, 576], DType::BF16, false),
    ("one token", Layout::NT, [1, 1536, 576], DType::Q4_1, false),
    ("one token, logits", Layout::NT, [1, 49152, 576], DType::F32, false),
];

/// Products of a layer whose rows are whole blocks of every format.
const OF_FORMATS: [(&str, Layout, [usize; 3]); 3] = [
    ("gate, up", Layout::NT, [512, 1536, 512]),
    ("d gate, d up", Layout::NN, [512, 512, 1536]),
    ("d logits", Layout::NN, [128, 512, 8192]),
];
/// The formats that are compared, first what they are compared with.
const FORMATS: [DType; 9] =
    [DType::BF16, DType::Q8_0, DType::Q6_K, DType::Q5_0, DType::Q5_K, DType::Q4_1, DType::Q4_K, DType::Q4_0, DType::NF4];

/// A product, repeated until a measurement takes long enough, on a device.
struct Job {
    executable: Executable,
    last: ValueId,
    repeats: usize,
    seconds: Vec<f64>,
}

impl Job {
    fn new(place: &Tuned, layout: Layout, [m, n, k]: [usize; 3], dtype: DType, addend: bool) -> graftling::Result<Self> {
        let (a, b) = match layout {
            Layout::NT => ([m, k], [n, k]),
            Layout::NN => ([m, k], [k, n]),
            Layout::TN => ([k, m], [k, n]),
        };
        let repeats = (FLOPS / (2 * m * n * k)).clamp(1, 64);
        let mut graph = Graph::new();
        let mut pinned: HashMap<ValueId, Pinned> = HashMap::new();
        let mut leaf = |graph: &mut Graph, name: &str, [rows, columns]: [usize; 2], dtype| -> graftling::Result<ValueId> {
            let tensor = TensorType::new(Rows::Fixed(rows), columns, dtype);
            let id = graph.leaf(name, tensor, Origin::Weight);
            pinned.insert(id, place.device.allocate(name, tensor.max_bytes())?.into());
            Ok(id)
        };
        let operands = [leaf(&mut graph, "a", a, DType::F32)?, leaf(&mut graph, "b", b, dtype)?];
        let addend = if addend { Some(leaf(&mut graph, "addend", [m, n], DType::F32)?) } else { None };
        let product = Matmul { layout, scale: 1.0 };
        let outputs: Vec<ValueId> =
            (0..repeats).map(|_| product.append(&mut graph, operands, addend, "product").expect("the operands fit")).collect();
        let last = outputs[repeats - 1];
        let executable = Executable::new(place.clone(), graph, &outputs, pinned)?;
        let mut job = Self { executable, last, repeats, seconds: Vec::new() };
        job.run()?;
        Ok(job)
    }

    /// Seconds of one product.
    fn run(&mut self) -> graftling::Result<f64> {
        let start = Instant::now();
        self.executable.run(&Counts::default())?;
        self.executable.read(self.last, 1)?;
        Ok(start.elapsed().as_secs_f64() / self.repeats as f64)
    }
}

/// The device as it is and as if it were of other kinds, by the name of the column.
fn devices() -> graftling::Result<Vec<(&'static str, Arc<Device>)>> {
    let as_if = |change: &dyn Fn(&mut Facts)| -> graftling::Result<Arc<Device>> {
        let mut device = Device::open(std::env::var("GRAFTLING_TEST_DEVICE").ok().as_deref())?;
        change(&mut device.facts);
        Ok(Arc::new(device))
    };
    Ok(vec![
        ("chosen", as_if(&|_| {})?),
        ("for CPU drivers", as_if(&|facts| (facts.cpu_driver, facts.subgroup) = (true, None))?),
        ("for GPUs", as_if(&|facts| (facts.cpu_driver, facts.subgroup) = (false, None))?),
    ])
}

/// Every form of every format, of one product after the other.
fn formats(device: &Arc<Device>) -> graftling::Result<()> {
    for (name, layout, size) in OF_FORMATS {
        let [m, n, k] = size;
        println!("{layout:?} {name}, {m} x {n} x {k}\n\n| weights | form | of bf16 | GFLOP/s |\n|---|---|---:|---:|");
        let mut jobs = Vec::new();
        for dtype in FORMATS {
            let class = Class { layout, size, dtype, arithmetic: Arithmetic::F32 };
            for id in class.candidates(&device.facts) {
                let tuning = Tuning::new(HashMap::from([(class, id.to_owned())]));
                let job = Job::new(&Tuned { device: device.clone(), tuning }, layout, size, dtype, false)?;
                jobs.push((dtype, id, job));
            }
        }
        for _ in 0..ROUNDS {
            for (_, _, job) in &mut jobs {
                let seconds = job.run()?;
                job.seconds.push(seconds);
            }
        }
        let bf16 = jobs[0].2.seconds.clone();
        for (dtype, id, job) in &jobs {
            let mut ratios: Vec<f64> = job.seconds.iter().zip(&bf16).map(|(own, bf16)| own / bf16).collect();
            ratios.sort_by(f64::total_cmp);
            let best = job.seconds.iter().copied().fold(f64::INFINITY, f64::min);
            println!("| {dtype} | {id} | {:.2} | {:.1} |", ratios[ROUNDS / 2], (2 * m * n * k) as f64 / best / 1e9);
        }
        println!();
    }
    Ok(())
}

fn main() -> graftling::Result<()> {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let devices = devices()?;
    match filter.as_str() {
        "formats" => return formats(&devices[0].1),
        "experts" => return experts::compare(&devices[0].1),
        _ => {}
    }
    println!("{} ({}), GFLOP/s, best / median of {ROUNDS}\n", devices[0].1.info.name, devices[0].1.info.driver_info);
    let names: Vec<&str> = devices.iter().map(|(name, _)| *name).collect();
    println!("| product | m x n x k | weights | {} |\n|---|---|---|{}", names.join(" | "), "---|".repeat(names.len()));
    for (name, layout, size, dtype, addend) in PRODUCTS.into_iter().filter(|product| product.0.contains(&filter)) {
        let mut jobs = devices
            .iter()
            .map(|(_, device)| Job::new(&device.clone().into(), layout, size, dtype, addend))
            .collect::<graftling::Result<Vec<_>>>()?;
        for _ in 0..ROUNDS {
            for job in &mut jobs {
                let seconds = job.run()?;
                job.seconds.push(seconds);
            }
        }
        let [m, n, k] = size;
        print!("| {layout:?} {name} | {m} x {n} x {k} | {dtype} |");
        for job in &mut jobs {
            job.seconds.sort_by(f64::total_cmp);
            let rate = |seconds: f64| (2 * m * n * k) as f64 / seconds / 1e9;
            print!(" {:.1} / {:.1} |", rate(job.seconds[0]), rate(job.seconds[ROUNDS / 2]));
        }
        println!();
    }
    Ok(())
}
