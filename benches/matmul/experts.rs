//! A layer of 8 experts, of which each of 512 tokens is sent to 2, beside a dense MLP of the width that is active: the same products, but for
//! the router, the order of the rows, and the tiles that experts leave half empty.

use graftling::autograd::{Root, backward};
use graftling::gpu::Device;
use graftling::graph::{Counts, DType, Graph, Origin, Rows, TensorType, ValueId};
use graftling::kernel::Layout;
use graftling::ops::Random;
use graftling::ops::expert_rows::{FromExperts, ToExperts};
use graftling::ops::glu::{Activation, Glu};
use graftling::ops::matmul::{Matmul, MatmulExperts};
use graftling::ops::route::Route;
use graftling::ops::sort_by_expert::SortByExpert;
use graftling::plan::{Executable, Pinned};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

const TOKENS: usize = 512;
const EXPERTS: usize = 8;
const CHOSEN: usize = 2;
const HIDDEN: usize = 512;
/// Of one expert; the dense MLP has twice that.
const INNER: usize = 768;
const ROUNDS: usize = 9;

struct Job {
    executable: Executable,
    last: ValueId,
    seconds: Vec<f64>,
}

impl Job {
    /// Forward, and where `backwards` the gradient of the input too: the output is kept then as well, since the layers above need it.
    fn new(device: &Arc<Device>, experts: bool, dtype: DType, backwards: bool) -> graftling::Result<Self> {
        let mut graph = Graph::new();
        let mut random = Random(1);
        let mut pinned: HashMap<ValueId, Pinned> = HashMap::new();
        let mut leaf = |graph: &mut Graph, name: &str, [rows, columns]: [usize; 2], dtype: DType, origin| {
            let tensor = TensorType::new(Rows::Fixed(rows), columns, dtype);
            let id = graph.leaf(name, tensor, origin);
            let slice = device.allocate(name, tensor.max_bytes())?;
            if dtype == DType::F32 {
                let values: Vec<f32> = (0..rows * columns).map(|_| random.uniform() as f32).collect();
                device.write(&slice, bytemuck::cast_slice(&values));
            }
            pinned.insert(id, slice.into());
            Ok::<_, graftling::Error>(id)
        };
        let count = if experts { EXPERTS } else { 1 };
        let inner = if experts { INNER } else { CHOSEN * INNER };
        let x = leaf(&mut graph, "x", [TOKENS, HIDDEN], DType::F32, Origin::Input)?;
        let d_y = leaf(&mut graph, "d_y", [TOKENS, HIDDEN], DType::F32, Origin::Input)?;
        let router = leaf(&mut graph, "router", [EXPERTS, HIDDEN], DType::F32, Origin::Weight)?;
        let mut weight = |graph: &mut Graph, rows, columns| leaf(graph, "w", [count * rows, columns], dtype, Origin::Weight);
        let gate = weight(&mut graph, inner, HIDDEN)?;
        let up = weight(&mut graph, inner, HIDDEN)?;
        let down = weight(&mut graph, HIDDEN, inner)?;
        let y =
            if experts { with_experts(&mut graph, x, router, [gate, up, down]) } else { dense(&mut graph, x, [gate, up, down]) };
        let y = y.expect("the operands fit");
        let last = match backwards {
            false => y,
            true => backward(&mut graph, Root::Seed(y, d_y), &[x]).expect("all have gradients")[0].expect("y depends on x"),
        };
        let executable = Executable::new(device.clone(), graph, &[y, last], pinned)?;
        let mut job = Self { executable, last, seconds: Vec::new() };
        job.run()?;
        Ok(job)
    }

    fn run(&mut self) -> graftling::Result<f64> {
        let start = Instant::now();
        self.executable.run(&Counts::default())?;
        self.executable.read(self.last, 1)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

type Built = Result<ValueId, graftling::graph::ShapeError>;

fn dense(graph: &mut Graph, x: ValueId, [gate, up, down]: [ValueId; 3]) -> Built {
    let nt = Matmul { layout: Layout::NT, scale: 1.0 };
    let gate = nt.append(graph, [x, gate], None, "gate")?;
    let up = nt.append(graph, [x, up], None, "up")?;
    let inner = graph.apply_one(Glu { activation: Activation::Silu }, &[gate, up], "glu")?;
    nt.append(graph, [inner, down], None, "y")
}

fn with_experts(graph: &mut Graph, x: ValueId, router: ValueId, [gate, up, down]: [ValueId; 3]) -> Built {
    let logits = Matmul { layout: Layout::NT, scale: 1.0 }.append(graph, [x, router], None, "logits")?;
    let routed = graph.apply(Route { experts: CHOSEN, renormalised: true }, &[logits], "route")?;
    let order = graph.apply(SortByExpert { experts: EXPERTS }, &[routed[1]], "order")?;
    let rows = graph.apply_one(ToExperts, &[x, order[0], order[1]], "rows")?;
    let nt = MatmulExperts { layout: Layout::NT, scale: 1.0 };
    let gate = graph.apply_one(nt, &[rows, gate, order[2]], "gate")?;
    let up = graph.apply_one(nt, &[rows, up, order[2]], "up")?;
    let inner = graph.apply_one(Glu { activation: Activation::Silu }, &[gate, up], "glu")?;
    let outputs = graph.apply_one(nt, &[inner, down, order[2]], "down")?;
    graph.apply_one(FromExperts, &[outputs, order[0], order[1], routed[0]], "y")
}

/// Of each format the time with experts in units of that of the dense MLP in the same round, median of the rounds.
pub fn compare(device: &Arc<Device>) -> graftling::Result<()> {
    println!(
        "{EXPERTS} experts of {INNER}, {CHOSEN} for each of {TOKENS} tokens, hidden size {HIDDEN}; of the dense MLP's time\n"
    );
    println!("| weights | forward | forward and backward |\n|---|---:|---:|");
    for dtype in [DType::F32, DType::BF16, DType::Q8_0, DType::Q4_K] {
        print!("| {dtype} |");
        for backwards in [false, true] {
            let mut jobs = [Job::new(device, false, dtype, backwards)?, Job::new(device, true, dtype, backwards)?];
            for _ in 0..ROUNDS {
                for job in &mut jobs {
                    let seconds = job.run()?;
                    job.seconds.push(seconds);
                }
            }
            let mut ratios: Vec<f64> = jobs[1].seconds.iter().zip(&jobs[0].seconds).map(|(own, dense)| own / dense).collect();
            ratios.sort_by(f64::total_cmp);
            print!(" {:.2} |", ratios[ROUNDS / 2]);
        }
        println!();
    }
    Ok(())
}
