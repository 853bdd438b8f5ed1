//! Candidates timed against each other.
//!
//! Each runs the product by itself, on buffers of its size. A product that would take longer than [`LONG`] on this device is made smaller:
//! its longest side is halved, the number of rows and columns of the tiles that decide stays. Short ones are repeated until they take
//! [`SHORT`]. Rounds are interleaved, so that all candidates meet the same state of the machine, and each challenger is compared with the
//! fixed rule's form round by round. A challenger that wins is kept only if it gives the numbers that the rule's form gives: a driver may
//! miscompile the one and not the other.

use crate::Result;
use crate::gpu::{Device, Pipeline, Slice};
use crate::graph::{Bind, TensorType};
use crate::kernel::Class;
use crate::ops::Random;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most that one product should take.
const LONG: Duration = Duration::from_millis(30);
/// The least that a measurement takes.
const SHORT: Duration = Duration::from_millis(2);
/// Rounds after the first, which is not counted: some drivers compile a kernel only when it runs, and caches are cold.
const ROUNDS: usize = 5;
/// Fewer rounds than this prove nothing.
const LEAST_ROUNDS: usize = 3;
/// A candidate that is so much slower than the best leaves the race.
const HOPELESS: f64 = 1.3;
/// What a challenger must need of the rule's time to win: noise alone should not change the choice.
const CLEARLY_FASTER: f64 = 0.95;
/// Floating-point operations of the first product by which the device's speed is estimated: what a slow one does in [`SHORT`].
const PROBE: f64 = 5e7;
/// The furthest that results may be apart, relative to the largest, for each sqrt(k): rounding, in f32 and in less.
const ROUNDING: [f64; 2] = [4e-6, 4e-3];

/// What the race of one class gave.
pub(super) struct Outcome {
    pub winner: &'static str,
    /// Median seconds of one product, by candidate; of those that left the race, as far as they came.
    pub seconds: Vec<(&'static str, f64)>,
}

/// Times the candidates, of which the first is the rule's. `None` if there was not enough time.
pub(super) fn race(clock: &Clock, full: &Class, candidates: &[&'static str], deadline: Instant) -> Result<Option<Outcome>> {
    let Some(rule) = candidates.first() else { return Ok(None) };
    let (class, repeats) = size(clock, full, rule)?;
    let course = Course::new(clock.device, &class)?;
    let mut runners: Vec<Runner> = candidates
        .iter()
        .map(|&id| Ok(Runner { id, trial: course.trial(clock.device, &class, id)?, seconds: Vec::new(), left: false }))
        .collect::<Result<_>>()?;
    for round in 0..=ROUNDS {
        let mut best = f64::MAX;
        for runner in runners.iter_mut().filter(|runner| !runner.left) {
            if Instant::now() >= deadline && round <= LEAST_ROUNDS {
                return Ok(None);
            }
            let times = if round == 0 { 1 } else { repeats };
            runner.seconds.push(clock.time(&runner.trial, times)?);
            best = best.min(runner.last());
        }
        if round == 0 {
            continue;
        }
        runners.iter_mut().skip(1).for_each(|runner| runner.left |= runner.last() > HOPELESS * best);
        if runners.iter().skip(1).all(|runner| runner.left) {
            break;
        }
    }
    let of_rule = runners[0].seconds.clone();
    let ratio = |runner: &Runner| median(runner.seconds.iter().zip(&of_rule).skip(1).map(|(own, rule)| own / rule));
    let winner = runners
        .iter()
        .skip(1)
        .filter(|runner| !runner.left && ratio(runner) <= CLEARLY_FASTER)
        .min_by(|a, b| ratio(a).total_cmp(&ratio(b)))
        .unwrap_or(&runners[0]);
    let seconds = |runner: &Runner| median(runner.seconds.iter().skip(1).copied());
    let winner = if winner.id == *rule || agree(clock.device, full, [rule, winner.id])? { winner.id } else { rule };
    Ok(Some(Outcome { winner, seconds: runners.iter().map(|runner| (runner.id, seconds(runner))).collect() }))
}

/// The class, and smaller products of its kind, each with the longest side halved.
fn halvings(class: &Class) -> Vec<Class> {
    std::iter::successors(Some(*class), Class::halved).collect()
}

/// The product that stands for the class, and how often it is repeated in a measurement.
fn size(clock: &Clock, class: &Class, rule: &'static str) -> Result<(Class, usize)> {
    let fits = |class: &Class| class.operands().iter().all(|tensor| tensor.max_bytes() <= clock.device.max_binding());
    let all = halvings(class);
    let largest = all.iter().position(fits).unwrap_or(all.len() - 1);
    let first = all.iter().position(|class| class.flops() <= PROBE).unwrap_or(all.len() - 1).max(largest);
    // Larger ones, until one takes long enough to be more than its launch.
    let mut rate = 0.0;
    for probe in all[largest..=first].iter().rev() {
        let trial = Course::new(clock.device, probe)?.trial(clock.device, probe, rule)?;
        clock.time(&trial, 1)?;
        let seconds = clock.time(&trial, 1)?.max(1e-9);
        rate = probe.flops() / seconds;
        if seconds >= SHORT.as_secs_f64() {
            break;
        }
    }
    let long = |class: &&Class| class.flops() > rate * LONG.as_secs_f64();
    let chosen = all[largest..].iter().find(|class| !long(class)).unwrap_or(&all[all.len() - 1]);
    let repeats = (SHORT.as_secs_f64() * rate / chosen.flops()).ceil().clamp(1.0, 1000.0);
    Ok((*chosen, repeats as usize))
}

/// Do two forms give the same product of random numbers, but for rounding? Of a small product, the smallest that both are possible for.
fn agree(device: &Device, class: &Class, ids: [&'static str; 2]) -> Result<bool> {
    let all = halvings(class);
    let possible = |class: &&Class| ids.iter().all(|id| class.candidates(&device.facts).contains(id));
    let class = all.iter().rev().find(possible).unwrap_or(class);
    let course = Course::new(device, class)?;
    let [a, b, out] = class.operands();
    let mut random = Random(7);
    for (slice, TensorType { shape, dtype }) in [(&course.a, a), (&course.b, b)] {
        let rows = shape.rows.max();
        device.write(slice, &random.stored([rows, shape.columns], 1.0, dtype).encoded(dtype, 0..rows));
    }
    let run = |id| -> Result<Vec<f32>> {
        let trial = course.trial(device, class, id)?;
        let mut encoder = device.device.create_command_encoder(&Default::default());
        trial.encode(&mut encoder.begin_compute_pass(&Default::default()), 1);
        device.queue.submit([encoder.finish()]);
        device.read(&course.out, out.shape.rows.max() * out.shape.columns)
    };
    let needs = ids.map(|id| class.dispatch(id, &device.facts).kernel.needs);
    let is_reduced = needs.iter().any(|needs| needs.f16 || needs.cooperative.is_some());
    let bound = ROUNDING[is_reduced as usize] * (class.size[2] as f64).sqrt();
    let agree = are_close(&run(ids[0])?, &run(ids[1])?, bound);
    if !agree {
        tracing::warn!("{class}: {} is faster than {} and gives other numbers: it is not taken", ids[1], ids[0]);
    }
    Ok(agree)
}

/// Is no number further from its counterpart than `bound`, relative to the largest? What is not a number is apart from all.
fn are_close(expected: &[f32], found: &[f32], bound: f64) -> bool {
    let largest = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    expected.iter().zip(found).all(|(one, other)| f64::from((one - other).abs()) <= bound * f64::from(largest))
}

struct Runner {
    id: &'static str,
    trial: Trial,
    seconds: Vec<f64>,
    left: bool,
}

impl Runner {
    fn last(&self) -> f64 {
        self.seconds.last().copied().unwrap_or(f64::MAX)
    }
}

/// The dispatches of one candidate, ready to be encoded.
struct Trial {
    passes: Vec<(Arc<Pipeline>, wgpu::BindGroup, [u32; 3])>,
    /// Hold the parameters as long as the groups need them.
    _params: Vec<Slice>,
}

impl Trial {
    fn encode(&self, pass: &mut wgpu::ComputePass, repeats: usize) {
        for (pipeline, group, [x, y, z]) in (0..repeats).flat_map(|_| &self.passes) {
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(*x, *y, *z);
        }
    }
}

/// Buffers of one product.
struct Course {
    a: Slice,
    b: Slice,
    out: Slice,
    scratch: Vec<Slice>,
}

impl Course {
    fn new(device: &Device, class: &Class) -> Result<Self> {
        let [a, b, out] = class.operands().map(|tensor| device.allocate("autotune", tensor.max_bytes()));
        let scratch =
            class.scratch().iter().map(|tensor| device.allocate("autotune", tensor.max_bytes())).collect::<Result<_>>()?;
        Ok(Self { a: a?, b: b?, out: out?, scratch })
    }

    fn trial(&self, device: &Device, class: &Class, id: &str) -> Result<Trial> {
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let mut trial = Trial { passes: Vec::new(), _params: Vec::new() };
        for dispatch in class.dispatches(id, &device.facts) {
            let pipeline = device.pipeline(dispatch.kernel, &dispatch.constants)?;
            let params = device.allocate_for("autotune", dispatch.params.len(), usage)?;
            device.write(&params, &dispatch.params);
            let place = |bind: &Bind| match bind {
                Bind::Output(_) => &self.out,
                Bind::InputPart(..) => &self.b,
                Bind::Scratch(index) => &self.scratch[*index],
                // Without an addend the kernel does not read the third binding.
                Bind::Input(_) => &self.a,
            };
            let group = pipeline.bind(device, std::iter::once(&params).chain(dispatch.bindings.iter().map(place)));
            trial.passes.push((pipeline, group, dispatch.workgroups));
            trial._params.push(params);
        }
        Ok(trial)
    }
}

/// Times dispatches by the GPU's own clock, or by the host's where there is none.
pub(super) struct Clock<'d> {
    device: &'d Device,
    queries: Option<(wgpu::QuerySet, Slice)>,
}

impl<'d> Clock<'d> {
    pub(super) fn new(device: &'d Device) -> Result<Self> {
        let offered = device.device.features().contains(wgpu::Features::TIMESTAMP_QUERY);
        let queries = offered.then(|| -> Result<_> {
            let descriptor = wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count: 2 };
            let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
            Ok((device.device.create_query_set(&descriptor), device.allocate_for("timestamps", 16, usage)?))
        });
        Ok(Self { device, queries: queries.transpose()? })
    }

    /// Seconds of one run of a dispatch that is repeated so many times.
    fn time(&self, trial: &Trial, repeats: usize) -> Result<f64> {
        let device = self.device;
        let mut encoder = device.device.create_command_encoder(&Default::default());
        let timestamp_writes = self.queries.as_ref().map(|(query_set, _)| wgpu::ComputePassTimestampWrites {
            query_set,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        });
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
            trial.encode(&mut pass, repeats);
        }
        if let Some((queries, resolved)) = &self.queries {
            encoder.resolve_query_set(queries, 0..2, &resolved.buffer, 0);
        }
        let commands = encoder.finish();
        let start = Instant::now();
        device.queue.submit([commands]);
        device.wait()?;
        let mut seconds = start.elapsed().as_secs_f64();
        if let Some((_, resolved)) = &self.queries {
            let ticks: Vec<u64> = device.read(resolved, 2)?;
            let by_device = ticks[1].saturating_sub(ticks[0]) as f64 * f64::from(device.queue.get_timestamp_period()) * 1e-9;
            // A clock that stands still, or runs ahead of the host's, is broken.
            if by_device > 0.0 && by_device <= seconds {
                seconds = by_device;
            }
        }
        Ok(seconds / repeats as f64)
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::are_close;

    #[test]
    fn results_agree_but_for_rounding() {
        let expected = [1.0, -4.0, 0.0];
        assert!(are_close(&expected, &[1.0, -4.0, 3e-6], 1e-6));
        assert!(!are_close(&expected, &[1.0, -4.0, 5e-6], 1e-6), "further than a millionth of 4");
        for broken in [f32::NAN, f32::INFINITY, 4.0] {
            assert!(!are_close(&expected, &[1.0, broken, 0.0], 1e-2), "{broken}");
        }
    }
}
