//! A plan on a device: buffers allocated, kernels compiled, bind groups made; ready to be replayed.

use super::launches::{MOST, kernels, largest, launch, operands};
use super::{Pacer, Place, Plan, borrow};
use crate::gpu::{ALIGNMENT, Device, Pipeline, Readback, Slice, compile_all, lock};
use crate::graph::{Bind, Call, Counts, Dispatch, Graph, Node, Op, Operand, Origin, Value, ValueId};
use crate::kernel::Tuning;
use crate::{Error, Result};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// A weight, adapter, state or gradient in buffers of the caller; more than one slice where it is split by rows.
#[derive(Clone, Debug)]
pub struct Pinned {
    pub slices: Vec<Slice>,
    /// First row in each slice.
    pub part_starts: Vec<usize>,
}

impl From<Slice> for Pinned {
    fn from(slice: Slice) -> Self {
        Self { slices: vec![slice], part_starts: vec![0] }
    }
}

/// A device, and the forms of matmul that were measured to be fast on it: what executables are made on.
#[derive(Clone)]
pub struct Tuned {
    pub device: Arc<Device>,
    pub tuning: Tuning,
}

/// A device that computes by the fixed rules.
impl From<Arc<Device>> for Tuned {
    fn from(device: Arc<Device>) -> Self {
        Self { device, tuning: Tuning::NONE }
    }
}

/// One dispatch, ready to be encoded.
pub(super) struct Step {
    pub(super) kernel: &'static str,
    /// Index of the node that it belongs to.
    pub(super) node: usize,
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
    pub(super) workgroups: [u32; 3],
    pub(super) work: Work,
}

/// What a dispatch has to do: its part of its node's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    /// Floating-point operations.
    pub(super) flops: f64,
    /// Bytes that have to be moved: see [`crate::graph::Op::traffic`].
    pub(super) bytes: f64,
}

impl Step {
    /// Encodes the dispatch, if there is anything to do.
    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass) {
        if !self.workgroups.contains(&0) {
            pass.set_pipeline(&self.pipeline.pipeline);
            pass.set_bind_group(0, &self.group, &[]);
            pass.dispatch_workgroups(self.workgroups[0], self.workgroups[1], self.workgroups[2]);
        }
    }
}

/// A graph that runs on a device. Built once, replayed for every batch.
pub struct Executable {
    pub(super) graph: Graph,
    plan: Plan,
    pub(super) device: Arc<Device>,
    tuning: Tuning,
    /// By value: where it is, if it is anywhere.
    memory: HashMap<ValueId, Pinned>,
    /// Slots of the arena.
    arena: Vec<Slice>,
    /// Bytes of the arena that are this executable's own, and not lent by another one.
    arena_bytes: usize,
    params: Slice,
    pub(super) steps: Vec<Step>,
    /// Inputs that nobody has written yet.
    unwritten: Mutex<HashSet<ValueId>>,
    /// The row counts for which parameters are on the device.
    counts: Option<Counts>,
    pacer: Pacer,
    /// Dispatches of the run that are not submitted yet.
    left: usize,
    /// Counts of dispatches after which a slice ends even if it holds more.
    ends: BTreeSet<usize>,
}

impl Executable {
    /// Allocates and compiles what `graph` needs on the device of `place`. `keep` are values to be read after a run; `pinned` are the buffers of
    /// weights, adapters and states, and of gradients that are wanted in a certain place.
    ///
    /// # Errors
    /// If the device cannot hold it, a kernel does not compile, or a weight, adapter or state that a node needs is not in `pinned`.
    pub fn new(place: impl Into<Tuned>, graph: Graph, keep: &[ValueId], pinned: HashMap<ValueId, Pinned>) -> Result<Self> {
        Self::beside(None, place, graph, keep, pinned)
    }

    /// [`Executable::new`], in the arena of another executable as far as that has room. The two must not run at the same time, and what
    /// one of them keeps has to be read before the other one runs.
    ///
    /// # Errors
    /// As [`Executable::new`].
    pub fn beside(
        other: Option<&Self>,
        place: impl Into<Tuned>,
        graph: Graph,
        keep: &[ValueId],
        pinned: HashMap<ValueId, Pinned>,
    ) -> Result<Self> {
        let Tuned { device, tuning } = place.into();
        let plan = Plan::new(&graph, keep, &pinned.keys().copied().collect::<HashSet<_>>());
        let inputs: HashSet<ValueId> = graph.value_ids().filter(|id| plan.places[id.0] == Place::Input).collect();
        if let Some(id) = graph.value_ids().find(|id| inputs.contains(id) && graph[*id].origin != Origin::Input) {
            let Value { name, origin, .. } = &graph[id];
            return Err(hole(format!("the {origin:?} `{name}`, which a node needs, has no place on the device")));
        }
        if let Some((name, bytes)) = plan.largest(&graph).filter(|(_, bytes)| *bytes > device.max_binding()) {
            return Err(Error::failed(
                format!("GPU `{}`", device.info.name),
                format!("`{name}` needs {bytes} bytes in one piece; its largest binding is {} bytes", device.max_binding()),
                "use shorter rows (--max-length) or fewer of them (--batch-size)",
            ));
        }
        let lent: &[Slice] = other.map_or(&[], |other| &other.arena);
        let sizes: Vec<usize> = lent.iter().map(|slot| slot.bytes).collect();
        let (mut slots, mut arena_bytes) = (Vec::new(), 0);
        for (&bytes, lender) in plan.slots.iter().zip(borrow(&plan.slots, &sizes)) {
            slots.push(match lender {
                Some(slot) => lent[slot].part(0, bytes),
                None => device.allocate("activations", bytes)?,
            });
            arena_bytes += if lender.is_none() { bytes } else { 0 };
        }
        let mut memory = pinned;
        for id in graph.value_ids() {
            let bytes = graph[id].tensor.max_bytes();
            let place = match plan.places[id.0] {
                Place::Arena(region) => Pinned::from(slots[region.slot].part(region.offset, bytes)),
                Place::Input => Pinned::from(device.allocate(&graph[id].name, bytes)?),
                Place::Same(other) => memory[&other].clone(),
                Place::Pinned | Place::Unused => continue,
            };
            memory.insert(id, place);
        }
        let scratch = |node: usize| -> Vec<Slice> {
            plan.scratch[node].iter().map(|region| slots[region.slot].part(region.offset, region.bytes)).collect()
        };

        let dispatches = largest(&graph, &plan, &|id| memory[&id].part_starts.clone(), &device.facts, &tuning);
        compile_all(&device, &kernels(&dispatches))?;

        let count: usize = dispatches.iter().map(|(_, list)| list.len()).sum();
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let params = device.allocate_for("parameters", count * ALIGNMENT, usage)?;
        let mut steps = Vec::with_capacity(count);
        for (node, list) in &dispatches {
            let scratch = scratch(*node);
            for dispatch in list {
                let pipeline = device.pipeline(dispatch.kernel, &dispatch.constants)?;
                let own = params.part(steps.len() * ALIGNMENT, dispatch.params.len());
                let (index, node) = (*node, &graph.nodes()[*node]);
                let slices: Vec<&Slice> = dispatch
                    .bindings
                    .iter()
                    .map(|bind| match *bind {
                        Bind::Input(index) => &memory[&node.inputs[index]].slices[0],
                        Bind::InputPart(index, part) => &memory[&node.inputs[index]].slices[part],
                        Bind::Output(index) => &memory[&node.outputs[index]].slices[0],
                        Bind::Scratch(index) => &scratch[index],
                    })
                    .collect();
                let group = pipeline.bind(&device, std::iter::once(&own).chain(slices));
                steps.push(Step {
                    kernel: dispatch.kernel.name,
                    node: index,
                    pipeline,
                    group,
                    workgroups: [0; 3],
                    work: Work::default(),
                });
            }
        }
        device.check()?;
        let (counts, pacer) = (None, Pacer::default());
        let unwritten = Mutex::new(inputs);
        Ok(Self {
            graph,
            plan,
            device,
            tuning,
            memory,
            arena: slots,
            arena_bytes,
            params,
            steps,
            unwritten,
            counts,
            pacer,
            left: 0,
            ends: BTreeSet::new(),
        })
    }

    /// Puts the same graph with other numbers in its ops, an adapter at another strength, say, in the place of the one that runs: the same
    /// kernels on the same buffers, of which only the parameters are sent again. Gives whether it was one; where it is another computation,
    /// nothing has changed.
    pub fn renumber(&mut self, graph: Graph) -> bool {
        let is_same = |a: &Value, b: &Value| a.name == b.name && a.tensor == b.tensor && a.origin == b.origin;
        let has_same = |a: &Node, b: &Node| a.op.name() == b.op.name() && a.inputs == b.inputs && a.outputs == b.outputs;
        if graph.values().len() != self.graph.values().len()
            || graph.nodes().len() != self.graph.nodes().len()
            || !graph.values().iter().zip(self.graph.values()).all(|(a, b)| is_same(a, b))
            || !graph.nodes().iter().zip(self.graph.nodes()).all(|(a, b)| has_same(a, b))
        {
            return false;
        }
        // The numbers of an op may decide which kernel computes it.
        let launched = |graph: &Graph, node: usize| {
            launch(graph, &|id| self.memory[&id].part_starts.clone(), &self.device.facts, &self.tuning, node, &MOST)
        };
        let calls_same =
            |a: &Dispatch, b: &Dispatch| a.kernel.name == b.kernel.name && a.constants == b.constants && a.bindings == b.bindings;
        let runs_same = |&node: &usize| {
            let (a, b) = (launched(&graph, node), launched(&self.graph, node));
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| calls_same(a, b))
        };
        if !self.plan.nodes.iter().all(runs_same) {
            return false;
        }
        (self.graph, self.counts) = (graph, None);
        true
    }

    /// The graph that runs.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The memory plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Kernel calls of the last run.
    pub fn dispatches(&self) -> usize {
        self.steps.iter().filter(|step| !step.workgroups.contains(&0)).count()
    }

    /// Bytes of the arena, without what another executable lends.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    /// Bytes on the device besides what the caller pinned or another executable lends: arena, inputs, parameters.
    pub fn own_bytes(&self) -> usize {
        self.arena_bytes + self.plan.input_bytes(&self.graph) + self.params.bytes
    }

    /// Writes an input (from its first row on) for the next run.
    pub fn write<T: bytemuck::Pod>(&self, input: ValueId, values: &[T]) {
        if !values.is_empty()
            && let Some(place) = self.memory.get(&input)
        {
            self.device.write(&place.slices[0], bytemuck::cast_slice(values));
            lock(&self.unwritten).remove(&input);
        }
    }

    /// Reads the first `count` values of a kept value after a run.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn read(&self, value: ValueId, count: usize) -> Result<Vec<f32>> {
        self.device.read(&self.memory[&value].slices[0], count)
    }

    /// Starts reading the first `count` values of a kept value after a run, without waiting for them.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn read_later(&self, value: ValueId, count: usize) -> Result<Readback> {
        Readback::start(&self.device, &self.memory[&value].slices[0], count)
    }

    /// Runs the graph with these row counts. Returns when everything is submitted; reading waits for the results.
    ///
    /// # Errors
    /// If an input was never written, or the device is lost or reports an error.
    pub fn run(&mut self, counts: &Counts) -> Result<()> {
        self.repeat(counts, 1)
    }

    /// Runs the graph several times, with as many dispatches in a submission as their time allows: for measurements.
    ///
    /// # Errors
    /// If the device is lost or reports an error.
    pub fn repeat(&mut self, counts: &Counts, times: usize) -> Result<()> {
        self.prepare(counts)?;
        self.left = self.steps.len() * times;
        self.complete()
    }

    /// Submits the first slice of a run, which gives the device work while the host does something else; [`Executable::complete`]
    /// submits the rest.
    ///
    /// # Errors
    /// If the device is lost or reports an error.
    pub fn begin(&mut self, counts: &Counts) -> Result<()> {
        self.prepare(counts)?;
        self.left = self.steps.len();
        self.submit_slice()
    }

    /// Submits what is left of a run.
    ///
    /// # Errors
    /// If the device is lost or reports an error.
    pub fn complete(&mut self) -> Result<()> {
        self.complete_beside(|_| Ok(false))
    }

    /// [`Executable::complete`] of a run beside something else: `beside` is called before the first slice and after each, when all but the
    /// newest are done, with the run's dispatches that are left to be submitted. It says whether it took its time.
    ///
    /// # Errors
    /// `beside`'s; if the device is lost or reports an error.
    pub fn complete_beside(&mut self, mut beside: impl FnMut(Range<usize>) -> Result<bool>) -> Result<()> {
        self.pacer.resume();
        loop {
            if beside(self.steps.len().saturating_sub(self.left)..self.steps.len())? {
                self.pacer.look_away();
            }
            if self.left == 0 {
                break;
            }
            self.submit_slice()?;
        }
        self.pacer.finish();
        self.device.check()
    }

    /// From now on slices end after so many dispatches of a run, too.
    pub fn end_slices_at(&mut self, dispatches: impl IntoIterator<Item = usize>) {
        self.ends = dispatches.into_iter().collect();
    }

    /// By slice: after how many dispatches of a run nothing reads or writes it any more, 0 where nothing does at all.
    pub fn last_uses(&self, slices: &[Slice]) -> Vec<usize> {
        let buffers: HashSet<_> = slices.iter().map(|slice| Arc::as_ptr(&slice.buffer)).collect();
        let mut uses: Vec<(usize, &Slice)> = Vec::new();
        for (index, step) in self.steps.iter().enumerate() {
            let node = &self.graph.nodes()[step.node];
            let places = node.inputs.iter().chain(&node.outputs).filter_map(|id| self.memory.get(id));
            let near = places.flat_map(|place| &place.slices).filter(|slice| buffers.contains(&Arc::as_ptr(&slice.buffer)));
            uses.extend(near.map(|slice| (index + 1, slice)));
        }
        let last = |slice: &Slice| uses.iter().rev().find(|(_, used)| used.overlaps(slice)).map_or(0, |(count, _)| *count);
        slices.iter().map(last).collect()
    }

    /// Encodes and submits as many of the dispatches that are left as a slice holds.
    fn submit_slice(&mut self) -> Result<()> {
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            while self.left > 0 {
                // A repeated run goes through the same steps again.
                let at = (self.steps.len() - self.left % self.steps.len()) % self.steps.len();
                let step = &self.steps[at];
                self.left -= 1;
                step.encode(&mut pass);
                let is_full = !step.workgroups.contains(&0) && self.pacer.record(step.work.flops);
                if is_full || self.ends.contains(&(at + 1)) {
                    break;
                }
            }
        }
        self.pacer.submit(&self.device, encoder.finish())
    }

    /// Sends the parameters for these row counts, if those on the device are for others.
    ///
    /// # Errors
    /// Names an input that has rows in this run and was never written: what it holds is no one's.
    pub(super) fn prepare(&mut self, counts: &Counts) -> Result<()> {
        let has_rows = |id: &&ValueId| self.graph[**id].tensor.shape.rows.resolve(counts) > 0;
        if let Some(id) = lock(&self.unwritten).iter().find(has_rows) {
            return Err(hole(format!("the input `{}` was not written before the run", self.graph[*id].name)));
        }
        if self.counts != Some(*counts) {
            self.resize(counts);
        }
        Ok(())
    }

    /// Computes parameters and workgroup counts for new row counts, and sends the parameters.
    fn resize(&mut self, counts: &Counts) {
        let mut bytes = vec![0; self.params.bytes];
        let mut steps = self.steps.iter_mut().enumerate();
        for &node in &self.plan.nodes {
            let (inputs, outputs) = operands(&self.graph, &|id| self.memory[&id].part_starts.clone(), node, counts);
            let op = &*self.graph.nodes()[node].op;
            let list = op.launch(&Call { inputs: &inputs, outputs: &outputs, device: &self.device.facts, tuning: &self.tuning });
            let work = work(op, &inputs, &outputs, &list);
            for (dispatch, work) in list.into_iter().zip(work) {
                let (index, step) = steps.next().expect("the number of dispatches does not depend on the row counts");
                bytes[index * ALIGNMENT..index * ALIGNMENT + dispatch.params.len()].copy_from_slice(&dispatch.params);
                step.workgroups = dispatch.workgroups;
                step.work = work;
            }
        }
        self.device.write(&self.params, &bytes);
        self.counts = Some(*counts);
    }
}

/// A graph that would compute with what no one gave it.
fn hole(problem: String) -> Error {
    Error::failed("plan", problem, "this is a mistake of graftling, not yours: please report it with the command and the model")
}

/// The work of a node's dispatches, one by one.
fn work(op: &dyn Op, inputs: &[Operand], outputs: &[Operand], list: &[Dispatch]) -> Vec<Work> {
    let shapes = |operands: &[Operand]| operands.iter().map(|operand| [operand.rows, operand.columns()]).collect::<Vec<_>>();
    let (flops, bytes) = (op.flops(&shapes(inputs), &shapes(outputs)) as f64, op.traffic(inputs, outputs) as f64);
    let parts: Vec<f64> =
        list.iter().map(|dispatch| if dispatch.workgroups.contains(&0) { 0.0 } else { dispatch.work }).collect();
    let all = parts.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    parts.into_iter().map(|part| Work { flops: flops * (part / all), bytes: bytes * (part / all) }).collect()
}
