//! Small random graphs: the plan on the GPU and the f64 interpreter agree in every value and every gradient, and a plan that reuses
//! buffers, or one that computes parts of the forward pass again, agrees with one that keeps everything, bit for bit. A failure shrinks to a small graph, which is printed.

use crate::cases;
use crate::common::run_on_device;
use crate::sketch::{Sketch, distance, map, random};
use graftling::autograd::{Root, backward};
use graftling::graph::{Counts, Graph, Matrix, Op, Origin, Rows, TensorType, ValueId};
use graftling::kernel::Layout;
use graftling::ops::add::Add;
use graftling::ops::attention::{Attention, Heads};
use graftling::ops::gather_rows::GatherRows;
use graftling::ops::glu::{Activation, Glu};
use graftling::ops::matmul::Matmul;
use graftling::ops::rms_norm::RmsNorm;
use graftling::ops::rope::{Rope, rope_table};
use graftling::ops::scale::Scale;
use graftling::plan::{Extent, Plan, Segment, recompute};
use graftling::reference;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};

const HEAD_DIM: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Nt,
    Nn,
    Tn,
    Add,
    Scale,
    RmsNorm,
    Glu,
    Rope,
    Attention,
    GatherRows,
}

const KINDS: [Kind; 10] = [
    Kind::Nt,
    Kind::Nn,
    Kind::Tn,
    Kind::Add,
    Kind::Scale,
    Kind::RmsNorm,
    Kind::Glu,
    Kind::Rope,
    Kind::Attention,
    Kind::GatherRows,
];

/// One node: an op, and which of the values that suit it it is applied to.
#[derive(Clone, Copy, Debug)]
struct Step {
    kind: Kind,
    picks: [u8; 3],
}

#[derive(Clone)]
struct Recipe {
    tokens: usize,
    steps: Vec<Step>,
    seed: u64,
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let step = (prop::sample::select(KINDS.to_vec()), any::<[u8; 3]>()).prop_map(|(kind, picks)| Step { kind, picks });
    (2usize..40, prop::collection::vec(step, 1..10), 0u64..1000).prop_map(|(tokens, steps, seed)| Recipe { tokens, steps, seed })
}

/// A graph under construction.
struct Built {
    sketch: Sketch,
    /// Floating-point values, leaves and outputs.
    values: Vec<ValueId>,
    seed: u64,
}

impl Built {
    fn pick(&self, pick: u8, fits: impl Fn(TensorType) -> bool) -> Option<ValueId> {
        let fitting: Vec<ValueId> = self.values.iter().copied().filter(|&id| fits(self.sketch.graph[id].tensor)).collect();
        // The newest first, so that the simplest choice builds a chain.
        (!fitting.is_empty()).then(|| fitting[fitting.len() - 1 - usize::from(pick) % fitting.len()])
    }

    fn leaf(&mut self, rows: Rows, columns: usize, scale: f64) -> ValueId {
        self.seed += 1;
        let count = rows.resolve(&self.sketch.counts);
        let values = map(&random(self.seed, [count, columns]), |x| x * scale);
        let id = self.sketch.leaf(TensorType::f32(rows, columns), values);
        self.values.push(id);
        id
    }

    /// A frozen-sized second operand of a product: one that is there and fits, or a new one.
    fn operand(&mut self, pick: u8, rows: Option<usize>, columns: Option<usize>) -> ValueId {
        let fits = |tensor: TensorType| {
            matches!(tensor.shape.rows, Rows::Fixed(n) if rows.is_none_or(|rows| rows == n) && n > 1)
                && columns.is_none_or(|columns| columns == tensor.shape.columns)
        };
        let known = self.pick(pick, fits).filter(|_| pick.is_multiple_of(2));
        known.unwrap_or_else(|| {
            let other = [4, 8, 12, 7][usize::from(pick) / 2 % 4];
            let (rows, columns) = (rows.unwrap_or(other), columns.unwrap_or(other));
            self.leaf(Rows::Fixed(rows), columns, 0.7)
        })
    }

    fn apply(&mut self, op: impl Op + 'static, inputs: &[ValueId]) {
        let output = self.sketch.one(op, inputs);
        self.values.push(output);
    }

    /// Appends a node, or nothing where no value suits.
    fn step(&mut self, step: Step, packing: &Packing) {
        let [first, second, third] = step.picks;
        let is_rows = |tensor: TensorType| !matches!(tensor.shape.rows, Rows::Fixed(_));
        let Some(x) = self.pick(first, is_rows) else { return };
        let x_type = self.sketch.graph[x].tensor;
        let columns = x_type.shape.columns;
        let scale = [1.0, -0.5][usize::from(third) % 2];
        match step.kind {
            Kind::Nt => {
                let b = self.operand(second, None, Some(columns));
                let out = self.sketch.graph[b].tensor.shape.rows.max();
                let addend =
                    self.pick(third, |tensor| tensor == TensorType::f32(x_type.shape.rows, out)).filter(|_| third % 3 == 0);
                let inputs: Vec<ValueId> = [x, b].into_iter().chain(addend).collect();
                self.apply(Matmul { layout: Layout::NT, scale }, &inputs);
            }
            Kind::Nn => {
                let b = self.operand(second, Some(columns), None);
                self.apply(Matmul { layout: Layout::NN, scale }, &[x, b]);
            }
            Kind::Tn => {
                let other = self.pick(second, |tensor| tensor.shape.rows == x_type.shape.rows).unwrap_or(x);
                self.apply(Matmul { layout: Layout::TN, scale: 0.25 * scale }, &[x, other]);
            }
            Kind::Add => {
                let other = self.pick(second, |tensor| tensor == x_type).unwrap_or(x);
                self.apply(Add, &[x, other]);
            }
            Kind::Scale => self.apply(Scale { factor: scale }, &[x]),
            Kind::RmsNorm => {
                self.seed += 1;
                let weight = random(self.seed, [1, columns]);
                let weight = self.sketch.frozen(weight);
                self.apply(RmsNorm::new(1e-2), &[x, weight]);
            }
            Kind::Glu => {
                let up = self.pick(second, |tensor| tensor == x_type).unwrap_or(x);
                self.apply(Glu { activation: [Activation::Silu, Activation::GeluTanh][usize::from(third) % 2] }, &[x, up]);
            }
            Kind::Rope => {
                let fits = |tensor: TensorType| {
                    matches!(tensor.shape.rows, Rows::Tokens(_)) && tensor.shape.columns.is_multiple_of(HEAD_DIM)
                };
                if let Some(x) = self.pick(first, fits) {
                    self.apply(Rope { inverse: third % 4 == 0, ..Rope::new(HEAD_DIM) }, &[x, packing.position, packing.table]);
                }
            }
            Kind::Attention => {
                let fits = |tensor: TensorType| {
                    matches!(tensor.shape.rows, Rows::Tokens(_)) && tensor.shape.columns.is_multiple_of(HEAD_DIM)
                };
                let Some(q) = self.pick(first, fits) else { return };
                let heads = self.sketch.graph[q].tensor.shape.columns / HEAD_DIM;
                let shares = |tensor: TensorType| fits(tensor) && heads.is_multiple_of(tensor.shape.columns / HEAD_DIM);
                let Some(k) = self.pick(second, shares) else { return };
                let k_type = self.sketch.graph[k].tensor;
                let v = self.pick(third, |tensor| tensor == k_type).unwrap_or(k);
                let heads = Heads {
                    softcap: (third % 5 == 0).then_some(0.75),
                    window: (second % 3 == 0).then_some(1 + usize::from(second) % 7),
                    ..Heads::new(heads, k_type.shape.columns / HEAD_DIM, HEAD_DIM)
                };
                self.apply(Attention(heads), &[q, k, v, packing.position, packing.segment_start]);
            }
            Kind::GatherRows => {
                if let Some(x) = self.pick(first, |tensor| matches!(tensor.shape.rows, Rows::Tokens(_))) {
                    self.apply(GatherRows, &[x, packing.rows]);
                }
            }
        }
    }
}

/// The inputs that describe rows.
struct Packing {
    position: ValueId,
    segment_start: ValueId,
    rows: ValueId,
    table: ValueId,
}

impl Recipe {
    fn build(&self) -> Built {
        // Room for more rows than there are: memory is planned for the maximum, work follows the count.
        let (tokens, most) = (self.tokens, self.tokens + 3);
        let cut = 1 + self.seed as usize % tokens;
        let starts: Vec<usize> = (0..tokens).map(|row| if row < cut { 0 } else { cut }).collect();
        let picked: Vec<usize> = (0..tokens).step_by(2).collect();
        let mut sketch = Sketch { counts: Counts { tokens, supervised: picked.len() }, ..Default::default() };
        let mut column = |rows: Rows, values: Vec<usize>| {
            let matrix = Matrix::new([values.len(), 1], values.into_iter().map(|value| value as f64).collect());
            sketch.leaf(TensorType::u32(rows, 1), matrix)
        };
        let position = column(Rows::Tokens(most), starts.iter().enumerate().map(|(row, start)| row - start).collect());
        let segment_start = column(Rows::Tokens(most), starts);
        let rows = column(Rows::Supervised(most), picked);
        let table = rope_table(&[1.0, 0.1], 1.0, most).into_iter().map(f64::from).collect();
        let table = sketch.frozen(Matrix::new([most, HEAD_DIM], table));
        let packing = Packing { position, segment_start, rows, table };
        let mut built = Built { sketch, values: Vec::new(), seed: self.seed * 1000 };
        for columns in [8, 4] {
            built.leaf(Rows::Tokens(most), columns, 1.0);
        }
        self.steps.iter().for_each(|&step| built.step(step, &packing));
        built
    }
}

impl fmt::Debug for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let built = self.build();
        writeln!(f, "{} tokens, seed {}\n{}", self.tokens, self.seed, print(&built.sketch.graph))
    }
}

fn print(graph: &Graph) -> String {
    let mut text = String::new();
    for node in graph.nodes() {
        let inputs: Vec<String> = node.inputs.iter().map(|&id| format!("{} {}", graph[id].name, graph[id].tensor)).collect();
        let outputs: Vec<String> = node.outputs.iter().map(|&id| graph[id].tensor.to_string()).collect();
        writeln!(text, "    {} = {:?}({}) -> {}", node.name, node.op, inputs.join(", "), outputs.join(", ")).unwrap();
    }
    text
}

/// The built graph with gradients of its last value by every leaf.
struct Case {
    sketch: Sketch,
    last: ValueId,
    /// The gradient of the last value.
    seed: ValueId,
    /// Each leaf that can have a gradient, with it where the last value depends on the leaf.
    gradients: Vec<(ValueId, Option<ValueId>)>,
    /// The last value, then the gradients.
    ends: Vec<ValueId>,
    /// Every output of every node.
    all: Vec<ValueId>,
    /// The same with parts of the forward pass computed again.
    recomputed: Graph,
}

fn differentiate(recipe: &Recipe) -> Option<Case> {
    let Built { mut sketch, seed, .. } = recipe.build();
    let last = sketch.graph.nodes().last()?.outputs[0];
    let forward = sketch.graph.nodes().len();
    let leaves: Vec<ValueId> =
        sketch.leaves.iter().map(|(id, _)| *id).filter(|&id| sketch.graph[id].origin == Origin::Adapter).collect();
    let shape = sketch.graph[last].tensor.shape.resolve(&sketch.counts);
    let seed_id = sketch.graph.leaf("seed", sketch.graph[last].tensor, Origin::Input);
    sketch.leaves.push((seed_id, random(seed + 1, shape)));
    let gradients = backward(&mut sketch.graph, Root::Seed(last, seed_id), &leaves).unwrap_or_else(|error| panic!("{error}"));
    let is_node = |id: &ValueId| matches!(sketch.graph[*id].origin, Origin::Node(..));
    let mut seen = HashSet::new();
    let gradients: Vec<(ValueId, Option<ValueId>)> = leaves.into_iter().zip(gradients).collect();
    let ends: Vec<ValueId> = std::iter::once(last)
        .chain(gradients.iter().filter_map(|(_, gradient)| *gradient))
        .filter(is_node)
        .filter(|id| seen.insert(*id))
        .collect();
    let all = sketch.graph.value_ids().filter(is_node).collect();
    let recomputed = recompute(&sketch.graph, forward, &segments(recipe.seed, forward));
    Some(Case { sketch, last, seed: seed_id, gradients, ends, all, recomputed })
}

/// The forward pass as one segment, or cut in up to three, as the seed chooses.
fn segments(seed: u64, forward: usize) -> Vec<Segment> {
    if seed.is_multiple_of(2) {
        return vec![Segment { nodes: 0..forward, extent: Extent::Whole }];
    }
    let mut cuts = [0, seed as usize % (forward + 1), seed as usize / 7 % (forward + 1), forward];
    cuts.sort_unstable();
    let extent = |index: usize| if (seed >> index).is_multiple_of(3) { Extent::Cheap } else { Extent::Whole };
    cuts.windows(2).enumerate().map(|(index, cut)| Segment { nodes: cut[0]..cut[1], extent: extent(index) }).collect()
}

/// Bound for a graph of at most ten nodes: 100 times that of one node's gradient.
const BOUND: f64 = 1e-3;

/// Of a directional derivative in f64, relative to the sum of its terms' magnitudes.
const DIRECTIONAL: f64 = 1e-4;

proptest! {
    #![proptest_config(cases(400))]

    /// The gradients of the whole graph, in f64, along a random direction of all leaves together, are the central difference of the graph
    /// itself. So is how the rules of single nodes are put together: where a value is used twice, its gradients are added, once each.
    #[test]
    fn gradients_of_whole_graphs_are_their_central_differences(recipe in recipe()) {
        let Some(Case { sketch, last, seed, gradients, .. }) = differentiate(&recipe) else { return Ok(()) };
        let Sketch { graph, leaves, counts } = &sketch;
        let values = reference::run(graph, leaves.iter().cloned().collect(), counts);
        let weights = &values[&seed].data;
        let largest = graph.value_ids().filter_map(|id| values.get(&id)).flat_map(|value| &value.data).fold(0.0f64, |most, x| most.max(x.abs()));
        prop_assume!(largest < 1e6);
        let trained: Vec<ValueId> = gradients.iter().map(|(leaf, _)| *leaf).collect();
        let directions: HashMap<ValueId, Matrix> =
            trained.iter().enumerate().map(|(salt, id)| (*id, random(recipe.seed ^ (salt as u64) << 20, [values[id].rows, values[id].columns]))).collect();
        let forward = recipe.build().sketch.graph;
        let objective = |step: f64| -> f64 {
            let moved = leaves.iter().filter(|(id, _)| *id != seed).map(|(id, matrix)| match directions.get(id) {
                Some(direction) => {
                    let data = matrix.data.iter().zip(&direction.data).map(|(x, d)| x + step * d).collect();
                    (*id, Matrix::new([matrix.rows, matrix.columns], data))
                }
                None => (*id, matrix.clone()),
            });
            let out = &reference::run(&forward, moved.collect(), counts)[&last];
            out.data.iter().zip(weights).map(|(value, weight)| value * weight).sum()
        };
        let terms = gradients.iter().filter_map(|(leaf, gradient)| gradient.map(|gradient| (leaf, gradient)));
        let terms: Vec<f64> =
            terms.flat_map(|(leaf, gradient)| values[&gradient].data.iter().zip(&directions[leaf].data).map(|(g, d)| g * d)).collect();
        let central = |step: f64| (objective(step) - objective(-step)) / (2.0 * step);
        let (wide, narrow, by_rule) = (central(1e-5), central(5e-6), terms.iter().sum::<f64>());
        let scale = terms.iter().map(|term| term.abs()).sum::<f64>().max(1.0);
        // Where two steps disagree, the graph bends within them, and the difference is no derivative.
        prop_assume!((wide - narrow).abs() <= 0.2 * DIRECTIONAL * scale);
        prop_assert!((narrow - by_rule).abs() <= DIRECTIONAL * scale, "{by_rule} by rule, {narrow} by differences\n{}", print(graph));
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn the_plan_agrees_with_the_interpreter(recipe in recipe()) {
        let Some(Case { sketch, ends, all, recomputed, .. }) = differentiate(&recipe) else { return Ok(()) };
        let Sketch { graph, leaves, counts } = &sketch;
        let expected = reference::run(graph, leaves.iter().cloned().collect(), counts);
        // A nudge of the leaves, ten times what f32 rounds away: where it moves a value by much, the graph is at fault and not the GPU.
        let nudged = leaves.iter().enumerate().map(|(salt, (id, matrix))| {
            if graph[*id].tensor.dtype != graftling::graph::DType::F32 {
                return (*id, matrix.clone());
            }
            let noise = random(salt as u64, [matrix.rows, matrix.columns]);
            let data = matrix.data.iter().zip(noise.data).map(|(x, noise)| x * (1.0 + 1e-6 * noise)).collect();
            (*id, Matrix::new([matrix.rows, matrix.columns], data))
        });
        let nudged = reference::run(graph, nudged.collect(), counts);
        let largest = all.iter().flat_map(|id| &expected[id].data).fold(0.0f64, |most, x| most.max(x.abs()));
        prop_assume!(largest < 1e6);

        let reused = run_on_device(graph, leaves, &ends, counts);
        let kept = run_on_device(graph, leaves, &all, counts);
        let again = run_on_device(&recomputed, leaves, &ends, counts);
        let again_in_f64 = reference::run(&recomputed, leaves.iter().cloned().collect(), counts);
        for ((id, values), again) in ends.iter().zip(&reused).zip(&again) {
            let same = values.iter().zip(again).all(|(a, b)| a.to_bits() == b.to_bits()) && again_in_f64[id] == expected[id];
            prop_assert!(same, "`{}` differs when computed again\n{}", graph[*id].name, print(&recomputed));
            let other = &kept[all.iter().position(|known| known == id).unwrap()];
            let same = values.iter().zip(other).all(|(a, b)| a.to_bits() == b.to_bits());
            prop_assert!(same, "`{}` differs when buffers are reused\n{}", graph[*id].name, print(graph));
        }
        for (id, values) in all.iter().zip(&kept) {
            let expected = &expected[id];
            let found = Matrix::new([expected.rows, expected.columns], values.iter().map(|&x| f64::from(x)).collect());
            // What is left when large numbers cancel is not held to their rounding.
            let least = 1e-3 * largest;
            let sensitivity = distance(&nudged[id], expected, least);
            let distance = distance(&found, expected, least);
            prop_assert!(
                distance <= BOUND.max(10.0 * sensitivity),
                "`{}` is {distance:e} off (a nudge of 1e-6 moves it by {sensitivity:e})\n{}", graph[*id].name, print(graph)
            );
        }
    }

    /// In the plan, no node writes where a value rests that is still to be read, nor into a buffer that it also reads.
    #[test]
    fn no_plan_overwrites_what_is_still_needed(recipe in recipe()) {
        use graftling::plan::{Place, Region};
        let Some(Case { sketch, ends, recomputed, .. }) = differentiate(&recipe) else { return Ok(()) };
        let graph = if recipe.seed.is_multiple_of(3) { &sketch.graph } else { &recomputed };
        let pinned: HashSet<ValueId> = sketch.leaves.iter().map(|(id, _)| *id).collect();
        let plan = Plan::new(graph, &ends, &pinned);
        let last_read = |id: ValueId| -> usize {
            if ends.contains(&id) {
                return usize::MAX;
            }
            plan.nodes.iter().copied().filter(|&node| graph.nodes()[node].inputs.contains(&id)).max().unwrap_or(0)
        };
        let region = |id: &ValueId| if let Place::Arena(region) = plan.places[id.0] { Some(region) } else { None };
        let overlap = |a: &Region, b: &Region| a.slot == b.slot && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
        for (at, &node) in plan.nodes.iter().enumerate() {
            let (inputs, outputs) = (&graph.nodes()[node].inputs, &graph.nodes()[node].outputs);
            let written: Vec<Region> = outputs.iter().filter_map(region).chain(plan.scratch[node].iter().copied()).collect();
            let touched: HashSet<usize> =
                written.iter().copied().chain(inputs.iter().filter_map(region)).map(|region| region.slot).collect();
            let read: HashSet<usize> = inputs.iter().filter_map(region).map(|region| region.slot).collect();
            prop_assert_eq!(touched.len(), written.len() + read.len(), "a buffer is written and used otherwise by one node");
            prop_assert!(written.iter().all(|region| region.offset + region.bytes <= plan.slots[region.slot]));
            for &earlier in &plan.nodes[..at] {
                for &value in &graph.nodes()[earlier].outputs {
                    if let Some(kept) = region(&value) {
                        prop_assert!(
                            !written.iter().any(|written| overlap(written, &kept)) || last_read(value) < node,
                            "`{}` is overwritten by `{}`\n{}", graph[value].name, graph.nodes()[node].name, print(graph)
                        );
                        prop_assert!(kept.bytes >= graph[value].tensor.max_bytes());
                    }
                }
            }
        }
    }
}

/// Random graphs are worth their name: all ops occur, values are shared, buffers are reused.
#[test]
fn the_generator_reaches_everything() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut ops, mut shared, mut reused, mut repeated) = (HashSet::new(), 0, 0, 0);
    for _ in 0..60 {
        let recipe = recipe().new_tree(&mut runner).unwrap().current();
        let Some(Case { sketch, ends, recomputed, .. }) = differentiate(&recipe) else { continue };
        let graph = &sketch.graph;
        repeated += usize::from(recomputed.nodes().len() > graph.nodes().len());
        graph.nodes().iter().for_each(|node| {
            ops.insert(format!("{:?}", node.op).split(['(', ' ']).next().unwrap().to_owned());
        });
        let uses = |id: ValueId| graph.nodes().iter().filter(|node| node.inputs.contains(&id)).count();
        shared += usize::from(graph.value_ids().any(|id| matches!(graph[id].origin, Origin::Node(..)) && uses(id) > 2));
        let pinned: HashSet<ValueId> = sketch.leaves.iter().map(|(id, _)| *id).collect();
        let plan = Plan::new(graph, &ends, &pinned);
        let values = plan.places.iter().filter(|place| matches!(place, graftling::plan::Place::Arena(_))).count();
        reused += usize::from(plan.slots.len() < values);
    }
    let expected = [
        "Matmul",
        "Add",
        "Scale",
        "RmsNorm",
        "RmsNormBackward",
        "Glu",
        "GluBackward",
        "Rope",
        "Attention",
        "GatherRows",
        "ScatterRows",
    ];
    expected.iter().for_each(|op| assert!(ops.contains(*op), "no graph has {op}: {ops:?}"));
    assert!(shared > 20 && reused > 20, "{shared} graphs share a value, {reused} plans reuse a buffer");
    assert!(repeated > 20, "{repeated} graphs compute something again");
}
