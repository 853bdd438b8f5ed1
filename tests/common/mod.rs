//! What several test files share: one device, and ops run on it beside the reference.
#![allow(dead_code)] // each test file uses its own part

pub mod not_run;

use graftling::gpu::{Device, Slice, padded};
use graftling::graph::{Counts, DType, Graph, Matrix, Origin, Rows, TensorType, ValueId};
use graftling::kernel::Facts;
use graftling::ops::Example;
use graftling::plan::{Executable, Pinned, Tuned};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// The device that all tests of this process use: the default one, or that named in `GRAFTLING_TEST_DEVICE`.
pub fn device() -> Arc<Device> {
    static DEVICE: OnceLock<Arc<Device>> = OnceLock::new();
    let open = || {
        let choice = std::env::var("GRAFTLING_TEST_DEVICE").ok();
        let device = Device::open(choice.as_deref()).expect("tests need a GPU driver; ./tools/test installs a software one");
        eprintln!("testing on {} ({})", device.info.name, device.info.driver_info);
        Arc::new(device)
    };
    DEVICE.get_or_init(open).clone()
}

/// The same adapter, opened as if it had only what `facts` say: so kernels that the engine chooses on other devices run here too.
pub fn device_with(facts: Facts) -> Arc<Device> {
    let choice = std::env::var("GRAFTLING_TEST_DEVICE").ok();
    let mut device = Device::open(choice.as_deref()).expect("tests need a GPU driver; ./tools/test installs a software one");
    device.facts = facts;
    Arc::new(device)
}

/// Bytes before and after each output that no kernel may touch.
const GUARD_BYTES: usize = 256;
const GUARD: u8 = 0xa5;

pub fn as_f32(matrix: &Matrix) -> Vec<f32> {
    matrix.data.iter().map(|&value| value as f32).collect()
}

/// A graph with one leaf of origin `origin` for each input of the example, and its op applied.
pub fn graph_of(example: &Example, origin: Origin) -> (Graph, Vec<ValueId>, Vec<ValueId>) {
    let mut graph = Graph::new();
    let leaves: Vec<ValueId> = example
        .inputs
        .iter()
        .enumerate()
        .map(|(index, (tensor, _))| {
            let origin = if tensor.dtype == DType::F32 { origin } else { Origin::Input };
            graph.leaf(format!("input{index}"), *tensor, origin)
        })
        .collect();
    let op = SharedOp(example.op.clone());
    let outputs = graph.apply(op, &leaves, "op").expect("an example fits its op");
    (graph, leaves, outputs)
}

/// Runs a graph on the device and reads `wanted`, each of which lies between guard words. Leaves are uploaded to buffers of their own.
pub fn run_on_device(graph: &Graph, leaves: &[(ValueId, Matrix)], wanted: &[ValueId], counts: &Counts) -> Vec<Vec<f32>> {
    run_on(&device(), graph, leaves, wanted, counts)
}

/// [`run_on_device`] on a device of the test's own.
pub fn run_on(
    place: &(impl Into<Tuned> + Clone),
    graph: &Graph,
    leaves: &[(ValueId, Matrix)],
    wanted: &[ValueId],
    counts: &Counts,
) -> Vec<Vec<f32>> {
    run_split(place, graph, leaves, wanted, counts, None)
}

/// [`run_on`] with the frozen weights in several buffers, none of which holds more than so many rows, as where a weight exceeds a binding.
pub fn run_split(
    place: &(impl Into<Tuned> + Clone),
    graph: &Graph,
    leaves: &[(ValueId, Matrix)],
    wanted: &[ValueId],
    counts: &Counts,
    part_rows: Option<usize>,
) -> Vec<Vec<f32>> {
    let place: Tuned = place.clone().into();
    let device = place.device.clone();
    let mut pinned: HashMap<ValueId, Pinned> = HashMap::new();
    for (id, matrix) in leaves {
        let tensor: TensorType = graph[*id].tensor;
        let rows = tensor.shape.rows.max();
        let step = part_rows.filter(|_| graph[*id].origin == Origin::Weight).unwrap_or(rows).max(1);
        let part_starts: Vec<usize> = (0..rows.max(1)).step_by(step).collect();
        let slices = part_starts.iter().map(|&start| {
            let most = TensorType::new(Rows::Fixed(step.min(rows - start)), tensor.shape.columns, tensor.dtype);
            let slice = device.allocate(&graph[*id].name, most.max_bytes().next_multiple_of(16)).unwrap();
            // A value of this run may have fewer rows than there is room for.
            let end = (start + step).min(matrix.rows);
            let mut bytes = matrix.encoded(tensor.dtype, start.min(end)..end);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            device.write(&slice, &bytes);
            slice
        });
        pinned.insert(*id, Pinned { slices: slices.collect(), part_starts });
    }
    let mut guarded: Vec<(ValueId, Slice)> = Vec::new();
    for &id in wanted {
        let bytes = graph[id].tensor.max_bytes();
        let whole = device.allocate("guarded", padded(bytes) + 2 * GUARD_BYTES).unwrap();
        device.write(&whole, &vec![GUARD; whole.bytes]);
        let in_place =
            graph.nodes().iter().any(|node| node.op.in_place().iter().any(|(output, _)| node.outputs.get(*output) == Some(&id)));
        if !in_place {
            pinned.insert(id, whole.part(GUARD_BYTES, bytes).into());
            guarded.push((id, whole));
        }
    }
    let mut executable = Executable::new(place, graph.clone(), wanted, pinned).unwrap();
    executable.run(counts).unwrap();
    let values = wanted
        .iter()
        .map(|&id| {
            let [rows, columns] = graph[id].tensor.shape.resolve(counts);
            let values = executable.read(id, rows * columns).unwrap();
            let is_number = graph[id].tensor.dtype == DType::U32;
            values.into_iter().map(|value| if is_number { value.to_bits() as f32 } else { value }).collect()
        })
        .collect();
    for (id, whole) in guarded {
        let [rows, columns] = graph[id].tensor.shape.resolve(counts);
        let bytes: Vec<u8> = device.read(&whole, whole.bytes).unwrap();
        let end = GUARD_BYTES + rows * columns * 4;
        let touched = (0..GUARD_BYTES).chain(end..bytes.len()).find(|&at| bytes[at] != GUARD);
        assert_eq!(touched, None, "`{}` is written outside its {rows} x {columns} values", graph[id].name);
    }
    values
}

/// Largest distance, relative to the largest magnitude of the reference.
pub fn relative_distance(values: &[f32], reference: &[f64]) -> f64 {
    assert_eq!(values.len(), reference.len());
    let scale = reference.iter().fold(f64::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    values.iter().zip(reference).fold(0.0, |worst: f64, (&value, &reference)| {
        assert!(value.is_finite(), "{value} where the reference has {reference}");
        worst.max((f64::from(value) - reference).abs() / scale)
    })
}

/// An op behind a shared pointer, as an op.
#[derive(Clone, Debug)]
struct SharedOp(Arc<dyn graftling::graph::Op>);

impl graftling::graph::Op for SharedOp {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, graftling::graph::ShapeError> {
        self.0.infer(inputs)
    }
    fn derivative(&self) -> graftling::graph::Derivative<'_> {
        self.0.derivative()
    }
    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        self.0.reference(inputs, outputs)
    }
    fn scratch(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        self.0.scratch(inputs)
    }
    fn in_place(&self) -> &'static [(usize, usize)] {
        self.0.in_place()
    }
    fn launch(&self, call: &graftling::graph::Call) -> Vec<graftling::graph::Dispatch> {
        self.0.launch(call)
    }
    fn flops(&self, inputs: &[[usize; 2]], outputs: &[[usize; 2]]) -> u64 {
        self.0.flops(inputs, outputs)
    }
}
