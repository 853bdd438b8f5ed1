//! The learning rate of each step.
//!
//! With `W` warm-up steps, `N` steps in all, the peak rate `p`, and steps counted from 1:
//!
//! ```text
//! warm-up   s <= W     p * s / (W + 1)
//! then      constant   p
//!           linear     p * (1 - d)                  d = (s - 1 - W) / (N - W)
//!           cosine     p * (1 + cos(pi * d)) / 2
//! ```
//!
//! After warm-up this is what transformers' `get_linear_schedule_with_warmup` and `get_cosine_schedule_with_warmup` do. In warm-up
//! those use `(s - 1) / W`, which spends the whole first step on a rate of zero; here every step learns.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The course of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    Constant,
    Linear,
    Cosine,
}

/// A learning rate for every step of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    kind: ScheduleKind,
    peak: f64,
    warmup_steps: u64,
    total_steps: u64,
}

impl Schedule {
    /// `warmup_steps: None` takes 3 % of the steps, rounded up (none under a constant schedule, which then is what its name says).
    pub fn new(kind: ScheduleKind, peak: f64, warmup_steps: Option<u64>, total_steps: u64) -> Self {
        let warmup_steps = warmup_steps.unwrap_or(match kind {
            ScheduleKind::Constant => 0,
            ScheduleKind::Linear | ScheduleKind::Cosine => total_steps.saturating_mul(3).div_ceil(100),
        });
        Self { kind, peak, warmup_steps, total_steps }
    }

    /// Steps in which the rate rises.
    pub fn warmup_steps(&self) -> u64 {
        self.warmup_steps
    }

    /// The learning rate of `step`, counted from 1.
    pub fn learning_rate(&self, step: u64) -> f64 {
        let done = step.saturating_sub(1);
        if done < self.warmup_steps {
            return self.peak * step as f64 / (self.warmup_steps as f64 + 1.0);
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let progress = ((done - self.warmup_steps) as f64 / decay_steps as f64).min(1.0);
        match self.kind {
            ScheduleKind::Constant => self.peak,
            ScheduleKind::Linear => self.peak * (1.0 - progress),
            ScheduleKind::Cosine => self.peak * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warmup_rises_to_the_peak_and_the_decay_starts_there() {
        for kind in [ScheduleKind::Constant, ScheduleKind::Linear, ScheduleKind::Cosine] {
            let schedule = Schedule::new(kind, 1.0, Some(4), 20);
            let rates: Vec<f64> = (1..=5).map(|step| schedule.learning_rate(step)).collect();
            assert_eq!(rates, [0.2, 0.4, 0.6, 0.8, 1.0]);
        }
    }

    #[test]
    fn decays_are_those_of_transformers() {
        // transformers' lambdas at current_step = s - 1, 2 warm-up steps, 10 steps.
        let linear = Schedule::new(ScheduleKind::Linear, 1.0, Some(2), 10);
        assert_eq!(linear.learning_rate(5), (10.0 - 4.0) / (10.0 - 2.0));
        assert_eq!(linear.learning_rate(10), 1.0 / 8.0);
        let cosine = Schedule::new(ScheduleKind::Cosine, 1.0, Some(2), 10);
        assert!((cosine.learning_rate(7) - 0.5).abs() < 1e-15);
        assert_eq!(cosine.learning_rate(11), 0.0);
    }

    #[test]
    fn three_percent_of_the_steps_warm_up_unless_the_rate_is_constant() {
        assert_eq!(Schedule::new(ScheduleKind::Cosine, 1.0, None, 1000).warmup_steps(), 30);
        assert_eq!(Schedule::new(ScheduleKind::Linear, 1.0, None, 20).warmup_steps(), 1);
        assert_eq!(Schedule::new(ScheduleKind::Constant, 1.0, None, 1000).warmup_steps(), 0);
    }

    #[test]
    fn more_warmup_than_steps_never_reaches_the_peak_and_never_panics() {
        let schedule = Schedule::new(ScheduleKind::Cosine, 1.0, Some(100), 10);
        assert!((1..=10).all(|step| schedule.learning_rate(step) < 0.1));
    }
}
