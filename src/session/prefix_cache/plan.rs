//! Whether a run caches its prefix, for which data, and in how many bytes; known before anything is allocated.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{PrefixCacheType, StorePlan};
use crate::byte_size::ByteSize;
use crate::data::Dataset;
use crate::{Error, Result};

/// Where the hidden states that enter the lowest adapted layer are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrefixCacheMode {
    /// In memory, where they are needed more than once.
    #[default]
    Auto,
    Off,
    Memory,
    /// In a file in the output folder.
    Disk,
}

/// What the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrefixCacheOptions {
    pub mode: PrefixCacheMode,
    /// Bound of all that is kept; `None` takes [`PrefixCacheOptions::MEMORY`] or [`PrefixCacheOptions::DISK`].
    pub size: Option<ByteSize>,
    pub dtype: PrefixCacheType,
}

impl PrefixCacheOptions {
    pub const MEMORY: ByteSize = ByteSize(1 << 30);
    pub const DISK: ByteSize = ByteSize(8 << 30);

    /// That no cache of the training data is ordered, of a run whose steps need every layer.
    ///
    /// # Errors
    /// Bad input: one is.
    pub fn only_held_out(&self) -> Result<()> {
        match self.mode {
            PrefixCacheMode::Auto | PrefixCacheMode::Off => Ok(()),
            PrefixCacheMode::Memory | PrefixCacheMode::Disk => {
                let problem =
                    "the load balancing loss is one of the routers of all layers, so every step runs the layers below too";
                let proposal = "leave the option out, or the loss: --router-aux-loss-coef 0";
                Err(Error::bad_input("--prefix-cache", problem, proposal))
            }
        }
    }

    fn bound(&self) -> usize {
        let default = if self.mode == PrefixCacheMode::Disk { Self::DISK } else { Self::MEMORY };
        self.size.unwrap_or(default).0
    }
}

/// A data set, and whether its examples are seen more than once.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub data: &'a Dataset,
    pub repeatedly: bool,
}

/// The lowest layer that training, and evaluation on held-out data, runs in each batch; `None` for the whole model. Where it is given, a
/// [`PrefixCache`](super::PrefixCache) stands for the layers below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lowest {
    pub train: Option<usize>,
    pub held_out: Option<usize>,
}

/// What is cached in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixCachePlan {
    /// The lowest adapted layer: those below it are the prefix.
    pub first_layer: usize,
    pub on_disk: bool,
    /// Most bytes that are kept.
    pub bound: usize,
    /// The training data; `None` where it does not pay.
    pub train: Option<StorePlan>,
    /// The held-out data.
    pub held_out: Option<StorePlan>,
}

impl PrefixCachePlan {
    /// Plans the cache of a model whose lowest adapted layer is `first_layer`. The bound goes to the training data first. Without an
    /// order to cache, only what is seen repeatedly is cached; a type that rounds is such an order, so that the numbers of a run do not
    /// depend on its length. `train` is `None` where each step has to run all layers.
    ///
    /// # Errors
    /// Bad input: a cache is ordered, but no layer lies below the adapters.
    pub fn new(
        options: &PrefixCacheOptions,
        first_layer: usize,
        hidden_size: usize,
        train: Option<Seen>,
        held_out: Option<Seen>,
    ) -> Result<Self> {
        let mode = options.mode;
        let ordered = matches!(mode, PrefixCacheMode::Memory | PrefixCacheMode::Disk);
        if ordered && first_layer == 0 {
            let problem = "layer 0 is adapted, so no part of the model stays the same and there is nothing to cache";
            return Err(Error::bad_input(
                "--prefix-cache",
                problem,
                "leave the option out, or adapt upper layers only (--layers)",
            ));
        }
        let rounds = options.dtype != PrefixCacheType::F32;
        let bound = options.bound();
        let mut left = bound;
        let mut plan_of = |seen: Seen| {
            let wanted = ordered || rounds || (mode == PrefixCacheMode::Auto && seen.repeatedly);
            if first_layer == 0 || mode == PrefixCacheMode::Off || !wanted {
                return None;
            }
            let lengths = seen.data.examples.iter().map(|example| example.input_ids.len());
            let plan = StorePlan::new(lengths, hidden_size, options.dtype, left);
            left -= plan.bytes();
            (rounds || plan.bytes() > 0).then_some(plan)
        };
        let train = train.and_then(&mut plan_of);
        let held_out = held_out.and_then(plan_of);
        Ok(Self { first_layer, on_disk: mode == PrefixCacheMode::Disk, bound, train, held_out })
    }

    /// The lowest layers that training and evaluation run in each batch.
    pub fn lowest(&self) -> Lowest {
        let of = |store: &Option<StorePlan>| store.as_ref().map(|_| self.first_layer);
        Lowest { train: of(&self.train), held_out: of(&self.held_out) }
    }

    /// Bytes in host memory or on disk.
    pub fn bytes(&self) -> usize {
        self.train.iter().chain(&self.held_out).map(StorePlan::bytes).sum()
    }

    /// Examples that have room, and examples in all, of all data that is cached.
    pub fn examples(&self) -> (usize, usize) {
        let plans = self.train.iter().chain(&self.held_out).map(StorePlan::examples);
        plans.fold((0, 0), |sum, plan| (sum.0 + plan.0, sum.1 + plan.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{DataReport, Example};

    fn data(lengths: &[usize]) -> Dataset {
        let example = |&length: &usize| Example { input_ids: vec![3; length], labels: vec![None; length], line: 1 };
        Dataset { examples: lengths.iter().map(example).collect(), report: DataReport::default() }
    }

    fn plan(options: PrefixCacheOptions, first_layer: usize, repeatedly: bool) -> PrefixCachePlan {
        let (train, held_out) = (data(&[4, 3]), data(&[2, 9]));
        let seen = |data| Seen { data, repeatedly };
        PrefixCachePlan::new(&options, first_layer, 8, Some(seen(&train)), Some(seen(&held_out))).unwrap()
    }

    #[test]
    fn only_what_is_seen_again_and_lies_below_an_adapter_is_cached() {
        let options = PrefixCacheOptions::default();
        assert_eq!(plan(options, 2, true).examples(), (4, 4));
        assert_eq!(plan(options, 2, true).bytes(), 18 * 8 * 4);
        assert_eq!(plan(options, 2, false).lowest().train, None);
        assert_eq!(plan(options, 0, true).lowest().train, None);
        assert_eq!(plan(PrefixCacheOptions { mode: PrefixCacheMode::Off, ..options }, 2, true).examples(), (0, 0));
        let disk = PrefixCacheOptions { mode: PrefixCacheMode::Disk, ..options };
        assert!(plan(disk, 2, false).on_disk && plan(disk, 2, false).lowest().train == Some(2));
        let half = PrefixCacheOptions { dtype: PrefixCacheType::Bf16, ..options };
        assert_eq!((plan(half, 2, false).lowest().train, plan(half, 0, true).lowest().train), (Some(2), None));
        let error = PrefixCachePlan::new(&disk, 0, 8, Some(Seen { data: &data(&[4]), repeatedly: true }), None).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        // Where each step runs all layers, only held-out data is cached, and nothing else may be ordered.
        let held_out = data(&[2, 9]);
        let seen = Seen { data: &held_out, repeatedly: true };
        let lowest = PrefixCachePlan::new(&options, 2, 8, None, Some(seen)).unwrap().lowest();
        assert_eq!((lowest.train, lowest.held_out), (None, Some(2)));
        assert!(options.only_held_out().is_ok() && disk.only_held_out().unwrap_err().to_string().contains("--prefix-cache"));
    }

    #[test]
    fn the_bound_holds_for_all_data_and_training_comes_first() {
        let bound = |tokens: usize| PrefixCacheOptions { size: Some(ByteSize(tokens * 8 * 4)), ..Default::default() };
        assert_eq!(plan(bound(9), 2, true).examples(), (3, 4));
        assert_eq!(plan(bound(9), 2, true).bytes(), 9 * 8 * 4);
        assert_eq!(plan(bound(6), 2, true).train.unwrap().examples(), (1, 2));
        assert_eq!(plan(bound(1), 2, true).lowest().train, None);
    }
}
