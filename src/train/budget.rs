//! `--recompute` and `--memory-budget`: how a user says what may be computed again and how much memory a run may take, and what
//! follows from it.

use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::memory::{Memory, Planner};
use super::step::Recompute;
use crate::byte_size::{ByteSize, from_text_or_number};
use crate::{Error, Result};

/// The value of `--recompute`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecomputeOption {
    None,
    /// What costs next to nothing: norms, activation functions, dropout. The default: SmolLM2's activations shrink by 30 % for 1 % more time.
    Cheap,
    /// So many layers, the lowest adapted ones.
    Layers(usize),
    All,
    /// As little as the memory budget allows.
    Auto,
}

impl FromStr for RecomputeOption {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.trim() {
            "none" => Ok(Self::None),
            "cheap" => Ok(Self::Cheap),
            "all" => Ok(Self::All),
            "auto" => Ok(Self::Auto),
            number => {
                let wrong = |_| format!("`{number}` is neither none, cheap, all, auto nor a number of layers");
                number.parse().map(Self::Layers).map_err(wrong)
            }
        }
    }
}

impl RecomputeOption {
    /// What it asks for, where it does not depend on a budget.
    pub fn fixed(self) -> Option<Recompute> {
        match self {
            Self::None => Some(Recompute::None),
            Self::Cheap => Some(Recompute::Layers(0)),
            Self::Layers(count) => Some(Recompute::Layers(count)),
            Self::All => Some(Recompute::Layers(usize::MAX)),
            Self::Auto => None,
        }
    }
}

impl<'de> Deserialize<'de> for RecomputeOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        from_text_or_number(deserializer)
    }
}

/// The plan with what the options choose. Without `option`, a budget means [`RecomputeOption::Auto`].
///
/// # Errors
/// Bad input, with the plan's figures: the run does not fit the budget, or `auto` has none.
pub fn within_budget(planner: Planner, option: Option<RecomputeOption>, budget: Option<ByteSize>) -> Result<Planner> {
    let option = option.unwrap_or(if budget.is_some() { RecomputeOption::Auto } else { RecomputeOption::Cheap });
    let all = Recompute::Layers(planner.layers());
    let (planner, how) = match (option.fixed(), budget) {
        (Some(fixed), _) => (planner.with(fixed), "with this --recompute"),
        (None, Some(budget)) => {
            let least = planner.least_recompute(budget.0).unwrap_or(all);
            (planner.with(least), "even if every layer is computed again")
        }
        (None, None) => {
            let proposal = "give --memory-budget (2GiB, 600MB), or --recompute all, cheap, none or a number of layers";
            return Err(Error::bad_input("--recompute auto", "there is no budget to choose by", proposal));
        }
    };
    match budget {
        Some(budget) if planner.memory().total() > budget.0 => Err(too_small(&planner, budget, how)),
        _ => Ok(planner),
    }
}

fn too_small(planner: &Planner, budget: ByteSize, how: &str) -> Error {
    let Memory { weights, adapters, optimizer, activations, inputs, evaluation } = planner.memory();
    let [total, weights, adapter, activations] =
        [planner.memory().total(), weights, adapters + optimizer, activations + inputs + evaluation].map(ByteSize);
    let problem = format!(
        "{budget} are not enough: the run needs {total} {how} (weights {weights}, adapter and optimizer {adapter}, activations \
         {activations})"
    );
    let proposal = "use shorter rows (--max-length), fewer at a time (--batch-size, with more --gradient-accumulation-steps), smaller \
                    weights (--weights bf16), a smaller --lora-r, fewer --layers, or a larger budget (a run that goes on by --resume: a larger budget, \
                    or --recompute all)";
    Error::bad_input("--memory-budget", problem, proposal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recompute_is_a_word_or_a_number_of_layers() {
        let option = |text: &str| text.parse::<RecomputeOption>();
        assert_eq!(option("none"), Ok(RecomputeOption::None));
        assert_eq!(option("cheap").unwrap().fixed(), Some(Recompute::Layers(0)));
        assert_eq!(option("all").unwrap().fixed(), Some(Recompute::Layers(usize::MAX)));
        assert_eq!(option("12"), Ok(RecomputeOption::Layers(12)));
        assert!(option("some").unwrap_err().contains("some"));
        assert!(option("-1").is_err());
    }
}
