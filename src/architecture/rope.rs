//! Rotary position embedding as data: which frequencies a layer's heads are rotated with.
//!
//! The rules are transformers' `modeling_rope_utils.py`, computed in f64: plain, linear, Llama 3's, dynamic NTK, YaRN (Peng et al. 2023,
//! arXiv 2309.00071) and LongRoPE (Ding et al. 2024, arXiv 2402.13753).

use std::f64::consts::PI;

use super::{WRONG_CONFIG, shortest_decimal};
use crate::{Error, Result};

/// One rotation: frequency i of `dim / 2` is `theta^(-2i / dim)` before scaling.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    pub theta: f64,
    /// Features of a head that are rotated, the first ones; even, at most head_dim.
    pub dim: usize,
    pub scaling: RopeScaling,
}

/// How the frequencies are stretched for longer contexts (transformers' `rope_type`).
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// All frequencies divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Sequences longer than `original_max_position_embeddings` raise theta; shorter ones are as without.
    Dynamic {
        factor: f64,
        original_max_position_embeddings: usize,
    },
    /// Llama 3.1's rule: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// Low frequencies divided by `factor`, high ones kept, a ramp over the index between; cosines and sines times `attention_factor`.
    Yarn {
        factor: f64,
        attention_factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        /// Whether the ends of the ramp are rounded to whole indices.
        truncate: bool,
        original_max_position_embeddings: usize,
    },
    /// Frequency i divided by the i-th of `short` in sequences of up to `original_max_position_embeddings` tokens, of `long` in longer
    /// ones; cosines and sines times `attention_factor`.
    LongRope {
        short: Vec<f64>,
        long: Vec<f64>,
        attention_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// Frequency i divided by the i-th of `dim / 2` factors (the tensor `rope_freqs.weight` of a GGUF file).
    Factors(Vec<f64>),
    /// A rule that graftling can name but not compute.
    Unsupported(String),
}

/// A rotation whose base grows with the length of a sequence, where it is longer than `original` tokens (dynamic NTK).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicRope {
    pub theta: f64,
    /// As [`Rope::dim`].
    pub dim: usize,
    pub factor: f64,
    /// Tokens of the longest sequence that is rotated as without scaling.
    pub original: usize,
}

impl DynamicRope {
    /// The `dim / 2` frequencies in radians a position, in a sequence of `length` tokens.
    pub fn inverse_frequencies(&self, length: usize) -> Vec<f64> {
        let (original, dim) = (self.original as f64, self.dim as f64);
        let stretch = self.factor * (length as f64).max(original) / original - (self.factor - 1.0);
        frequencies(self.theta * stretch.powf(dim / (dim - 2.0)), self.dim)
    }
}

/// `theta^(-2i / dim)` for each pair of features.
fn frequencies(theta: f64, dim: usize) -> Vec<f64> {
    (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64)).collect()
}

impl Rope {
    /// The rotation without scaling.
    pub fn plain(theta: f64, dim: usize) -> Self {
        Self { theta, dim, scaling: RopeScaling::None }
    }

    /// The `dim / 2` frequencies in radians a position, in a sequence of `length` tokens (which most rules do not look at).
    pub fn inverse_frequencies(&self, length: usize) -> Vec<f64> {
        let plain = frequencies(self.theta, self.dim);
        let divided = |factors: &[f64]| plain.iter().zip(factors).map(|(frequency, factor)| frequency / factor).collect();
        match &self.scaling {
            RopeScaling::None | RopeScaling::Unsupported(_) => plain,
            RopeScaling::Linear { factor } => plain.iter().map(|frequency| frequency / factor).collect(),
            RopeScaling::Dynamic { .. } => self.dynamic().map_or(plain, |rope| rope.inverse_frequencies(length)),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let context = *original_max_position_embeddings as f64;
                plain.iter().map(|f| f / llama3_divisor(*f, *factor, *low_freq_factor, *high_freq_factor, context)).collect()
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, truncate, original_max_position_embeddings, .. } => {
                let context = *original_max_position_embeddings as f64;
                let (first, last) = self.yarn_ramp(*beta_fast, *beta_slow, *truncate, context);
                let slowed = |i: usize| ((i as f64 - first) / (last - first)).clamp(0.0, 1.0);
                plain.iter().enumerate().map(|(i, f)| f / factor * slowed(i) + f * (1.0 - slowed(i))).collect()
            }
            RopeScaling::LongRope { short, long, original_max_position_embeddings, .. } => {
                divided(if length > *original_max_position_embeddings { long } else { short })
            }
            RopeScaling::Factors(factors) => divided(factors),
        }
    }

    /// The indices between which YaRN goes from kept frequencies to divided ones: where a frequency turns `beta_fast` and `beta_slow`
    /// times in the original context.
    fn yarn_ramp(&self, beta_fast: f64, beta_slow: f64, truncate: bool, context: f64) -> (f64, f64) {
        let dim = self.dim as f64;
        let index = |turns: f64| dim * (context / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
        let (mut first, mut last) = (index(beta_fast), index(beta_slow));
        if truncate {
            (first, last) = (first.floor(), last.ceil());
        }
        (first, last) = (first.max(0.0), last.min(dim - 1.0));
        if first == last { (first, last + 0.001) } else { (first, last) }
    }

    /// The length of sequences beyond which the frequencies are others, but the same for all lengths.
    pub fn changes_beyond(&self) -> Option<usize> {
        match self.scaling {
            RopeScaling::LongRope { original_max_position_embeddings, .. } => Some(original_max_position_embeddings),
            _ => None,
        }
    }

    /// The rotation whose frequencies are others for every length of a sequence.
    pub fn dynamic(&self) -> Option<DynamicRope> {
        match self.scaling {
            RopeScaling::Dynamic { factor, original_max_position_embeddings: original } => {
                Some(DynamicRope { theta: self.theta, dim: self.dim, factor, original })
            }
            _ => None,
        }
    }

    /// By what cosines and sines are multiplied.
    pub fn attention_factor(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }

    /// Whether the rotation can be computed.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the rule that cannot.
    pub fn supported(&self) -> Result<()> {
        let kind = match &self.scaling {
            RopeScaling::Unsupported(kind) => kind.as_str(),
            _ => return Ok(()),
        };
        let problem = format!("the rotary embedding is scaled by `{kind}`, which graftling does not compute");
        Err(Error::bad_input("rope_scaling", problem, "Use a model whose scaling is linear, dynamic, llama3, yarn or longrope."))
    }

    pub(super) fn check(&self, place: &str) -> Result<()> {
        if !(self.theta.is_finite() && self.theta > 0.0) {
            let problem = format!("is {}, but must be positive", self.theta);
            return Err(Error::bad_input(format!("{place}: rope_theta"), problem, WRONG_CONFIG));
        }
        if self.dim == 0 || !self.dim.is_multiple_of(2) {
            let problem = format!("leaves {} features of a head to rotate, but must leave an even number", self.dim);
            return Err(Error::bad_input(format!("{place}: partial_rotary_factor"), problem, WRONG_CONFIG));
        }
        let positive = |value: &f64| value.is_finite() && *value > 0.0;
        let factors = |factors: &[f64]| factors.len() == self.dim / 2 && factors.iter().all(positive);
        let possible = match &self.scaling {
            RopeScaling::None | RopeScaling::Unsupported(_) => true,
            RopeScaling::Linear { factor } => positive(factor),
            RopeScaling::Dynamic { factor, original_max_position_embeddings } => {
                positive(factor) && *factor >= 1.0 && *original_max_position_embeddings > 0 && self.dim > 2
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                [factor, low_freq_factor, high_freq_factor].into_iter().all(positive)
                    && low_freq_factor < high_freq_factor
                    && *original_max_position_embeddings > 0
            }
            RopeScaling::Yarn {
                factor,
                attention_factor,
                beta_fast,
                beta_slow,
                original_max_position_embeddings,
                truncate: _,
            } => {
                [factor, attention_factor, beta_fast, beta_slow].into_iter().all(positive)
                    && beta_fast >= beta_slow
                    && *original_max_position_embeddings > 0
                    && self.theta != 1.0
            }
            RopeScaling::LongRope { short, long, attention_factor, original_max_position_embeddings } => {
                factors(short) && factors(long) && positive(attention_factor) && *original_max_position_embeddings > 0
            }
            RopeScaling::Factors(given) => factors(given),
        };
        if possible {
            return Ok(());
        }
        Err(Error::bad_input(format!("{place}: rope_scaling"), format!("{:?} has impossible values", self.scaling), WRONG_CONFIG))
    }
}

/// YaRN's factor of cosines and sines for a stretch, times `mscale` where a model says so.
pub(super) fn yarn_attention_factor(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// LongRoPE's.
pub(super) fn longrope_attention_factor(factor: f64, original: usize) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() }
}

/// By what Llama 3.1's rule divides a frequency (transformers `_compute_llama3_parameters`): 1 where the wavelength is short
/// against the original context, `factor` where it is long, and in between so that frequencies are interpolated linearly.
fn llama3_divisor(frequency: f64, factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_context: f64) -> f64 {
    let periods = original_context * frequency / (2.0 * PI);
    if periods < low_freq_factor {
        factor
    } else if periods > high_freq_factor {
        1.0
    } else {
        let smooth = (periods - low_freq_factor) / (high_freq_factor - low_freq_factor);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}

impl RopeScaling {
    /// The scaling that divides frequency i by `factors[i]`, as a rule if it is Llama 3's with the constants of Meta's models
    /// (`low_freq_factor` 1, `high_freq_factor` 4, original context 8192): a GGUF file keeps the divisors in f32 and forgets the rule.
    pub fn from_factors(factors: &[f32], rope_theta: f64) -> Self {
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs();
        if factors.iter().all(|&factor| factor == 1.0) {
            return Self::None;
        }
        let factor = shortest_decimal(factors.last().copied().unwrap_or(1.0));
        let head_dim = 2.0 * factors.len() as f64;
        let rule = |i: usize| llama3_divisor(rope_theta.powf(-2.0 * i as f64 / head_dim), factor, 1.0, 4.0, 8192.0);
        if factors.iter().enumerate().all(|(i, &value)| close(f64::from(value), rule(i))) {
            return Self::Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 8192 };
        }
        Self::Factors(factors.iter().map(|&factor| f64::from(factor)).collect())
    }
}

impl std::fmt::Display for RopeScaling {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Linear { factor } => write!(f, "linear by {factor}"),
            Self::Dynamic { factor, original_max_position_embeddings } => {
                write!(f, "dynamic by {factor} beyond {original_max_position_embeddings} positions")
            }
            Self::Llama3 { factor, original_max_position_embeddings, .. } => {
                write!(f, "llama3 by {factor} beyond {original_max_position_embeddings} positions")
            }
            Self::Yarn { factor, original_max_position_embeddings, .. } => {
                write!(f, "yarn by {factor} beyond {original_max_position_embeddings} positions")
            }
            Self::LongRope { original_max_position_embeddings, .. } => {
                write!(f, "longrope beyond {original_max_position_embeddings} positions")
            }
            Self::Factors(_) => f.write_str("by a factor for each frequency"),
            Self::Unsupported(kind) => write!(f, "{kind}"),
        }
    }
}
