//! Candidates timed against each other.
//!
//! Each runs the product by itself, on buffers of its size. A product that would take longer than [`LONG`] on this device is made smaller:
//! its longest side is halved, the number of rows and columns of the tiles that decide stays. Short ones are repeated until they take
//! [`SHORT`]. Rounds are interleaved, so that all candidates meet the same state of the machine, and each challenger is compared with the
//! fixed rule's form round by round.

use crate::Result;
use crate::gpu::{Device, Pipeline, Slice};
use crate::kernel::Class;
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
/// Floating-point operations of the product by which the device's speed is estimated.
const PROBE: f64 = 5e7;

/// What the race of one class gave.
pub(super) struct Outcome {
    pub winner: &'static str,
    /// Median seconds of one product, by candidate; of those that left the race, as far as they came.
    pub seconds: Vec<(&'static str, f64)>,
}

/// Times the candidates, of which the first is the rule's. `None` if there was not enough time.
pub(super) fn race(clock: &Clock, class: &Class, candidates: &[&'static str], deadline: Instant) -> Result<Option<Outcome>> {
    let Some(rule) = candidates.first() else { return Ok(None) };
    let (class, repeats) = size(clock, class, rule)?;
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
    Ok(Some(Outcome { winner: winner.id, seconds: runners.iter().map(|runner| (runner.id, seconds(runner))).collect() }))
}

/// The product that stands for the class, and how often it is repeated in a measurement.
fn size(clock: &Clock, class: &Class, rule: &'static str) -> Result<(Class, usize)> {
    let fits = |class: &Class| class.operands().iter().all(|tensor| tensor.max_bytes() <= clock.device.max_binding());
    let smaller_until = |done: &dyn Fn(&Class) -> bool| {
        let mut class = *class;
        while let Some(half) = class.halved().filter(|_| !done(&class)) {
            class = half;
        }
        class
    };
    let probe = smaller_until(&|class| class.flops() <= PROBE && fits(class));
    let trial = Course::new(clock.device, &probe)?.trial(clock.device, &probe, rule)?;
    clock.time(&trial, 1)?;
    let rate = probe.flops() / clock.time(&trial, 1)?.max(1e-9);
    let chosen = smaller_until(&|class| class.flops() <= rate * LONG.as_secs_f64() && fits(class));
    let repeats = (SHORT.as_secs_f64() * rate / chosen.flops()).ceil().clamp(1.0, 100.0);
    Ok((chosen, repeats as usize))
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

/// A dispatch of one candidate, ready to be encoded.
struct Trial {
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
    workgroups: [u32; 3],
    /// Holds the parameters as long as the group needs them.
    _params: Slice,
}

/// Buffers of one product.
struct Course {
    a: Slice,
    b: Slice,
    out: Slice,
}

impl Course {
    fn new(device: &Device, class: &Class) -> Result<Self> {
        let [a, b, out] = class.operands().map(|tensor| device.allocate("autotune", tensor.max_bytes()));
        Ok(Self { a: a?, b: b?, out: out? })
    }

    fn trial(&self, device: &Device, class: &Class, id: &str) -> Result<Trial> {
        let dispatch = class.dispatch(id, &device.facts);
        let pipeline = device.pipeline(dispatch.kernel, &dispatch.constants)?;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let params = device.allocate_for("autotune", dispatch.params.len(), usage)?;
        device.write(&params, &dispatch.params);
        // Without an addend the kernel does not read the third binding.
        let group = pipeline.bind(device, [&params, &self.a, &self.b, &self.a, &self.out].into_iter());
        Ok(Trial { pipeline, group, workgroups: dispatch.workgroups, _params: params })
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
            pass.set_pipeline(&trial.pipeline.pipeline);
            pass.set_bind_group(0, &trial.group, &[]);
            for _ in 0..repeats {
                pass.dispatch_workgroups(trial.workgroups[0], trial.workgroups[1], trial.workgroups[2]);
            }
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
