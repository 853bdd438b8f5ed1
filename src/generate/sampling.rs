//! From logits to the next token: greedy, temperature, top-k and top-p (nucleus; Holtzman et al. 2020, section 3.1).
//!
//! The order is that of transformers: temperature, then top-k, then top-p, then one draw from what is left. A temperature of 0 is
//! greedy decoding. Equal logits are ordered by token id, the lower first, so no result depends on how a sort treats ties.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood 2014) used as a counter: draw `i` of seed `s` is a pure function of `(s, i)`. The
//! same seed, options and logits give the same tokens on every machine and in every release that keeps this page.

use crate::{Error, Result};

/// How the next token is chosen. The default is greedy decoding.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sampling {
    /// Divides the logits; 0 = greedy.
    pub temperature: f64,
    /// Only the k most probable tokens; `None` = all.
    pub top_k: Option<usize>,
    /// Only the smallest set of most probable tokens that together reach this probability; `None` = all.
    pub top_p: Option<f64>,
    pub seed: u64,
}

impl Sampling {
    /// Checks the ranges.
    ///
    /// # Errors
    /// Bad input, naming the option: a temperature below 0, a top-k of 0, a top-p outside (0, 1].
    pub fn check(&self) -> Result<()> {
        let within = |option: &str, is: bool, problem: String, proposal: &str| match is {
            true => Ok(()),
            false => Err(Error::bad_input(option, problem, proposal)),
        };
        let temperature = self.temperature;
        let is = temperature.is_finite() && temperature >= 0.0;
        within("--temperature", is, format!("{temperature} is out of range"), "give 0 (greedy) or above, such as 0.7")?;
        within("--top-k", self.top_k != Some(0), "no token is left to choose from".into(), "give 1 or more")?;
        let top_p = self.top_p.unwrap_or(1.0);
        within("--top-p", top_p > 0.0 && top_p <= 1.0, format!("{top_p} is out of range"), "give a value above 0 and up to 1")
    }
}

/// Chooses tokens one after the other; counts its draws.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    draws: u64,
    /// Token ids, the most probable first; kept to save an allocation a token.
    order: Vec<u32>,
    /// Unnormalised probabilities in that order.
    weights: Vec<f64>,
}

impl Sampler {
    /// A sampler at its first draw.
    ///
    /// # Errors
    /// As [`Sampling::check`].
    pub fn new(sampling: Sampling) -> Result<Self> {
        sampling.check()?;
        Ok(Self { sampling, draws: 0, order: Vec::new(), weights: Vec::new() })
    }

    /// The next token for `logits` `[vocab_size]`. A logit that is NaN counts as minus infinity.
    ///
    /// # Errors
    /// Failed, when no logit is above minus infinity or one is plus infinity: the model's numbers are broken.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        let best = best(logits)?;
        if self.is_greedy() {
            return Ok(best);
        }
        let kept = self.weigh(logits, best);
        let total: f64 = self.weights[..kept].iter().sum();
        let mut left = uniform(self.sampling.seed, self.draws) * total;
        self.draws += 1;
        for (&id, &weight) in self.order.iter().zip(&self.weights).take(kept) {
            if left < weight {
                return Ok(id);
            }
            left -= weight;
        }
        // Rounding of the running difference can leave a grain: it belongs to the last token that can be drawn.
        Ok(self.order[(0..kept).rev().find(|&at| self.weights[at] > 0.0).unwrap_or(0)])
    }

    /// How many tokens the next draw is from, at least one. They are the most probable ones at the temperature, in the order of falling
    /// logits and rising ids.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn choices(&mut self, logits: &[f32]) -> Result<usize> {
        let best = best(logits)?;
        Ok(if self.is_greedy() { 1 } else { self.weigh(logits, best) })
    }

    /// Is the most probable token always the next one?
    fn is_greedy(&self) -> bool {
        self.sampling.temperature == 0.0 || self.sampling.top_k == Some(1)
    }

    /// Fills `order` and `weights` with what top-k leaves at the temperature; gives how many of them top-p leaves.
    fn weigh(&mut self, logits: &[f32], best: u32) -> usize {
        let highest = logits[best as usize];
        self.keep_most_probable(logits);
        let exponent = |id: u32| (f64::from(logits[id as usize]) - f64::from(highest)) / self.sampling.temperature;
        self.weights.clear();
        self.weights.extend(self.order.iter().map(|&id| exponent(id).exp()));
        nucleus(&self.weights, self.sampling.top_p.unwrap_or(1.0))
    }

    /// Fills `order` with the tokens that top-k leaves, sorted by falling logit, then by rising id.
    fn keep_most_probable(&mut self, logits: &[f32]) {
        self.order.clear();
        self.order.extend((0..logits.len() as u32).filter(|&id| logits[id as usize] > f32::NEG_INFINITY));
        let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if let Some(top_k) = self.sampling.top_k.filter(|&top_k| top_k < self.order.len()) {
            self.order.select_nth_unstable_by(top_k - 1, by_logit);
            self.order.truncate(top_k);
        }
        self.order.sort_unstable_by(by_logit);
    }
}

/// [`greedy`] of logits that are none of a broken model.
fn best(logits: &[f32]) -> Result<u32> {
    let broken = |problem: &str| {
        let proposal = "try --weights f32; if that does not help, the model file or the adapter is damaged";
        Error::failed("next token", problem, proposal)
    };
    match greedy(logits) {
        None => Err(broken("the model gave no usable logit")),
        Some(best) if logits[best as usize] == f32::INFINITY => Err(broken("the model gave an infinite logit")),
        Some(best) => Ok(best),
    }
}

/// The token with the highest logit, the lowest id among equals; `None` if no logit is above minus infinity.
pub fn greedy(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (id, &logit) in (0u32..).zip(logits) {
        if logit > best.map_or(f32::NEG_INFINITY, |best| best.1) {
            best = Some((id, logit));
        }
    }
    best.map(|best| best.0)
}

/// How many of the falling `weights` it takes to reach `top_p` of their sum; at least one.
fn nucleus(weights: &[f64], top_p: f64) -> usize {
    if top_p >= 1.0 {
        return weights.len();
    }
    let wanted = top_p * weights.iter().sum::<f64>();
    let mut reached = 0.0;
    for (at, weight) in weights.iter().enumerate() {
        reached += weight;
        if reached >= wanted {
            return at + 1;
        }
    }
    weights.len()
}

/// Draw `counter` of `seed`, uniform in [0, 1) in steps of 2^-53.
fn uniform(seed: u64, counter: u64) -> f64 {
    // The seed is scrambled first: otherwise seed s at draw i + 1 would be a neighbour of seed s + 1 at draw i.
    let bits = splitmix64(splitmix64(seed).wrapping_add(counter.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// SplitMix64's output function, after one step of its golden-ratio counter.
fn splitmix64(state: u64) -> u64 {
    let mut bits = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(sampling: Sampling, logits: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling).unwrap();
        (0..count).map(|_| sampler.sample(logits).unwrap()).collect()
    }

    fn warm(temperature: f64) -> Sampling {
        Sampling { temperature, ..Sampling::default() }
    }

    #[test]
    fn splitmix64_is_the_published_one() {
        // The first outputs for the state 1234567, as in the generator's public test vectors.
        let golden = 0x9e37_79b9_7f4a_7c15u64;
        let outputs: Vec<u64> = (0..3).map(|at: u64| splitmix64(1_234_567u64.wrapping_add(at.wrapping_mul(golden)))).collect();
        assert_eq!(outputs, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn temperature_zero_and_top_k_one_are_greedy_and_ties_go_to_the_lower_id() {
        let logits = [0.0, 3.0, 3.0, -1.0];
        assert_eq!(greedy(&logits), Some(1));
        assert_eq!(draws(warm(0.0), &logits, 5), [1; 5]);
        assert_eq!(draws(Sampling { top_k: Some(1), ..warm(5.0) }, &logits, 5), [1; 5]);
    }

    #[test]
    fn frequencies_follow_the_softmax_at_the_temperature() {
        let logits = [1.0f32, 0.0, -2.0, 2.5, 2.5];
        for temperature in [0.5, 1.0, 2.0] {
            let weights: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            let count = 40_000;
            let drawn = draws(Sampling { seed: 7, ..warm(temperature) }, &logits, count);
            for (id, weight) in weights.iter().enumerate() {
                let expected = weight / total;
                let seen = drawn.iter().filter(|&&token| token as usize == id).count() as f64 / count as f64;
                // Four standard deviations of a binomial share; the seed is fixed, so this cannot flicker.
                let bound = 4.0 * (expected * (1.0 - expected) / count as f64).sqrt();
                assert!((seen - expected).abs() <= bound, "temperature {temperature}, token {id}: {seen} for {expected}");
            }
        }
    }

    #[test]
    fn top_k_keeps_the_k_best_and_the_lower_ids_among_equals() {
        let logits = [2.0, 1.0, 2.0, 1.0, 1.0];
        let mut seen = draws(Sampling { top_k: Some(3), ..warm(3.0) }, &logits, 500);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [0, 1, 2]);
        assert_eq!(draws(Sampling { top_k: Some(99), ..warm(1.0) }, &logits, 50), draws(warm(1.0), &logits, 50));
    }

    #[test]
    fn top_p_keeps_the_smallest_set_that_reaches_it() {
        let shares = [0.5f32, 0.3, 0.15, 0.05];
        let logits: Vec<f32> = shares.iter().map(|share| share.ln()).collect();
        for (top_p, kept) in [(0.01, 1), (0.4, 1), (0.6, 2), (0.9, 3), (0.97, 4), (1.0, 4)] {
            let drawn = draws(Sampling { top_p: Some(top_p), ..warm(1.0) }, &logits, 2000);
            assert_eq!(drawn.iter().max(), Some(&(kept - 1)), "top-p {top_p}");
        }
    }

    #[test]
    fn a_seed_is_a_sequence_and_another_seed_another() {
        let logits = [0.0; 64];
        let of = |seed| draws(Sampling { seed, ..warm(1.0) }, &logits, 40);
        assert_eq!(of(3), of(3));
        assert_ne!(of(3), of(4));
        assert_ne!(of(3)[1..], of(4)[..39]);
    }

    #[test]
    fn extreme_and_broken_logits() {
        assert_eq!(draws(warm(1.0), &[-1e30, f32::NAN, 5.0, f32::NEG_INFINITY], 20), [2; 20]);
        assert_eq!(draws(warm(1e-9), &[1.0, 1.5, 1.4], 20), [1; 20]);
        for broken in [&[f32::NAN; 3][..], &[f32::NEG_INFINITY][..], &[], &[f32::INFINITY, 0.0][..]] {
            assert!(Sampler::new(warm(1.0)).unwrap().sample(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let refused = |sampling: Sampling| sampling.check().unwrap_err().to_string();
        assert!(refused(warm(-0.1)).starts_with("--temperature:"));
        assert!(refused(warm(f64::INFINITY)).starts_with("--temperature:"));
        assert!(refused(Sampling { top_k: Some(0), ..warm(1.0) }).starts_with("--top-k:"));
        assert!(refused(Sampling { top_p: Some(0.0), ..warm(1.0) }).starts_with("--top-p:"));
        assert!(refused(Sampling { top_p: Some(f64::NAN), ..warm(1.0) }).starts_with("--top-p:"));
    }
}
