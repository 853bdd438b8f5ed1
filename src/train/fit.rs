//! Does the run fit the device? Asked before a weight is sent, and answered with the plan's figures and with what would help.

use super::memory::{Memory, StepShape};
use super::prepare::Prepared;
use super::step::Recompute;
use crate::byte_size::ByteSize;
use crate::gpu::{Device, Room};
use crate::model::weights::WeightType;
use crate::session::memory::table;
use crate::storage::DType;
use crate::{Error, Result};
use std::fmt::Write;

impl Prepared<'_> {
    /// Refuses a run that needs more memory than `device` has, as far as that is known. A `--memory-budget` is believed instead.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with what the run needs, by class, and what would make it need less.
    pub fn check_fits(&self, device: &Device) -> Result<()> {
        self.check_room(&format!("GPU `{}`", device.info.name), &device.room())
    }

    /// [`Prepared::check_fits`] on a device, called `place`, with this much room.
    ///
    /// # Errors
    /// As [`Prepared::check_fits`].
    pub fn check_room(&self, place: &str, room: &Room) -> Result<()> {
        let total = self.memory().total();
        if let Some((free, source)) = room.free.filter(|(free, _)| total as u64 > *free && self.options.memory_budget.is_none()) {
            let free = ByteSize(usize::try_from(free).unwrap_or(usize::MAX));
            let problem = format!("the run needs {}, but there are {free} ({source})", ByteSize(total));
            return Err(self.short(place, &problem, Some(free.0)));
        }
        if let Some((name, bytes)) = self.planner.largest().filter(|(_, bytes)| *bytes > room.largest_binding) {
            let [bytes, most] = [bytes, room.largest_binding].map(ByteSize);
            let problem = format!("`{name}` needs {bytes} in one piece, but the largest piece is {most}");
            return Err(self.short(place, &problem, None));
        }
        Ok(())
    }

    /// `error`; where memory was short after all, with the plan's figures.
    pub fn explained(&self, error: Error) -> Error {
        match error {
            Error::OutOfMemory { place, problem, .. } => self.short(&place, &problem, None),
            other => other,
        }
    }

    fn short(&self, place: &str, problem: &str, free: Option<usize>) -> Error {
        let Memory { weights, adapters, optimizer, activations, inputs, evaluation } = self.memory();
        let classes = [
            ("weights", weights),
            ("adapter", adapters),
            ("gradients and moments", optimizer),
            ("activations", activations),
            ("inputs", inputs),
            ("evaluation", evaluation),
        ];
        let mut proposal = "what would help:".to_string();
        for (change, needed) in self.smaller(free) {
            let fits = if free.is_some_and(|free| needed <= free) { ", which fits" } else { "" };
            let _ = write!(proposal, "\n    {change:<24}{:>12} in all{fits}", ByteSize(needed).to_string());
        }
        proposal += match self.options.resume {
            false => "\n    fewer --layers, a smaller --lora-r; --memory-budget if the device has more than it tells",
            // All else would make it another run.
            true => "\n    another --device, or an end to what else is on this one; --memory-budget if it has more than it tells",
        };
        Error::OutOfMemory { place: place.to_string(), problem: format!("{problem}{}", table(&classes)), proposal }
    }

    /// Changes of options with what the run would then need, the last being all of them; those that save less than a hundredth are
    /// left out. Numbers are halved until the run fits. A run that goes on keeps what its numbers depend on.
    fn smaller(&self, free: Option<usize>) -> Vec<(String, usize)> {
        let (now, weights) = (self.planner.shape(), self.weight_type());
        let total = self.memory().total();
        let needed = |weights: WeightType, shape: StepShape| -> Option<usize> {
            Some(self.planner_of(weights, shape).ok()?.memory().total())
        };
        let fits = |needed: usize| free.is_none_or(|free| needed <= free);
        let mut changes: Vec<(String, usize)> = Vec::new();
        let mut add = |change: String, needed: Option<usize>| -> bool {
            let saves = needed.filter(|needed| *needed < total - total / 100);
            changes.extend(saves.map(|needed| (change, needed)));
            saves.is_some()
        };

        let mut least = now;
        let all_layers = Recompute::Layers(self.planner.layers());
        if add("--recompute all".to_string(), needed(weights, StepShape { recompute: all_layers, ..now })) {
            least.recompute = all_layers;
        }
        if self.options.resume {
            return changes;
        }
        // Fewer rows, and shorter ones: no batch is then larger than this many tokens.
        let tokens = |batch_size: usize, max_length: usize| batch_size.saturating_mul(max_length).min(now.max_tokens);
        let (batch_size, max_length) = (self.options.batch_size, self.options.max_length);
        let halved = |from: usize, smallest: usize, shape: &dyn Fn(usize) -> StepShape| {
            let halves = std::iter::successors(Some(from / 2), |half| Some(half / 2)).take_while(|half| *half >= smallest);
            let all: Vec<(usize, usize)> = halves.filter_map(|half| Some((half, needed(weights, shape(half))?))).collect();
            all.iter().find(|(_, needed)| fits(*needed)).or(all.last()).copied()
        };
        let of_batch = |half: usize| StepShape { max_tokens: tokens(half, max_length), ..now };
        if let Some((half, needed)) = halved(batch_size, 1, &of_batch)
            && add(format!("--batch-size {half}"), Some(needed))
        {
            least.max_tokens = least.max_tokens.min(tokens(half, max_length));
        }
        let of_length = |half: usize| StepShape { max_tokens: tokens(batch_size, half), ..now };
        if let Some((half, needed)) = halved(max_length, 64, &of_length)
            && add(format!("--max-length {half}"), Some(needed))
        {
            least.max_tokens = least.max_tokens.min(tokens(batch_size, half));
        }
        let bf16 = WeightType::In(DType::BF16);
        let smallest = if add("--weights bf16".to_string(), needed(bf16, now)) { bf16 } else { weights };
        if changes.len() > 1 {
            changes.extend(needed(smallest, least).map(|needed| ("all of these".to_string(), needed)));
        }
        changes
    }
}
