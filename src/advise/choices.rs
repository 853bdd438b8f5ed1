//! From what the data looks like to what to adapt: each choice with its reason, its evidence, and what it would cost to be wrong.

use std::borrow::Cow;

use serde::Serialize;

use super::evidence::with_ours;
use super::looks::{Kind, Looks};
use crate::session::OpenModel;
use crate::train::options::{Recipe, TrainOptions};
use crate::train::prepare::placement_of;
use crate::{Error, Result};

/// An option of `train`, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// The key of a recipe.
    pub option: &'static str,
    /// As a recipe writes it.
    pub value: Value,
    pub why: String,
    /// Who has measured it.
    pub evidence: Cow<'static, str>,
    /// What a wrong choice would cost.
    pub if_wrong: &'static str,
    /// Whether the evidence does not reach this case, so that a sweep should decide.
    pub thin: bool,
}

/// A value of an option.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    Text(String),
    Whole(u64),
    Real(f64),
}

impl Value {
    /// As TOML writes it.
    pub fn toml(&self) -> String {
        match self {
            Self::Text(text) => toml::Value::String(text.clone()).to_string(),
            Self::Whole(number) => number.to_string(),
            Self::Real(small) if small.abs() < 1e-2 => format!("{small:e}"),
            Self::Real(number) => number.to_string(),
        }
    }

    /// As the command line takes it.
    pub fn plain(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            other => other.toml(),
        }
    }
}

const SMALLEST_RANK: usize = 8;
const LARGEST_RANK: usize = 256;
/// More passes than the three of other data, where records are few and hold what the model does not know.
const PASSES_OF_FACTS: u64 = 10;
const FEW_RECORDS: usize = 500;

/// What to adapt for data that looks like this. Memory is not looked at here.
///
/// # Errors
/// As [`placement_of`].
pub fn choices(looks: &Looks, recipe: &Recipe, model: &OpenModel) -> Result<Vec<Choice>> {
    let kinds = looks.kinds();
    let knowledge = kinds.contains(&Kind::Facts) || kinds.contains(&Kind::Code);
    let unsure = looks.rules().iter().any(|rule| rule.is_near());
    Ok(vec![
        method(),
        modules(&kinds, knowledge, unsure),
        rank(looks, &kinds, recipe, model)?,
        Choice {
            option: "lora_alpha",
            value: Value::Real(TrainOptions::LORA_ALPHA),
            why: "one scale for all ranks: with alpha / r the best learning rate hardly depends on the rank".to_string(),
            evidence: "LoRA Without Regret (2025)".into(),
            if_wrong: "as a wrong learning rate, by the same factor",
            thin: false,
        },
        Choice {
            option: "learning_rate",
            value: Value::Real(2e-4),
            why: "adapters want about ten times the rate of a full fine-tune".to_string(),
            evidence: with_ours(
                "LoRA Without Regret (2025): the best rate of LoRA is about 10 x that of full fine-tuning; LoRA Learns Less and Forgets Less \
                 (2024) says the same",
                "rate-and-rank",
                "loss on questions after few steps",
                |arm| Some(format!("{} {}", arm.name, arm.figure("check loss")?.loss())),
            ),
            if_wrong: "three times too low learns too little in the same steps; ten times too high may not learn at all: the first steps' loss \
                       tells",
            thin: looks.records < FEW_RECORDS,
        },
        epochs(looks, &kinds),
    ])
}

fn method() -> Choice {
    Choice {
        option: "adapter_method",
        value: Value::Text("lora".to_string()),
        why: "a LoRA learns as much as a bottleneck adapter of its size, and it alone can be merged into the weights and run by llama.cpp"
            .to_string(),
        evidence: "LLM-Adapters (Hu et al. 2023, arXiv 2304.01933), LLaMA-7B / 13B on arithmetic: LoRA 46.9 / 51.1, parallel bottlenecks \
                   46.4 / 50.2, sequential ones 44.6 / 48.9 %"
            .into(),
        if_wrong: "a point or two of what is learned; a bottleneck costs as much to train",
        thin: false,
    }
}

fn modules(kinds: &[Kind], knowledge: bool, unsure: bool) -> Choice {
    let why = match (knowledge, kinds.contains(&Kind::Format) || kinds.contains(&Kind::Extraction)) {
        (true, _) => "the answers hold what the model does not know, and that is stored best where the MLP can change".to_string(),
        (false, true) => "the answers keep a form or come from the prompt; attention alone may be enough for that, but all modules are not worse"
            .to_string(),
        (false, false) => "nothing stands out in the data, and all modules are never far from the best".to_string(),
    };
    Choice {
        option: "target_modules",
        value: Value::Text("all-linear".to_string()),
        why,
        evidence: with_ours(
            "at equal parameters MLP alone beats q_proj and v_proj in accuracy and in forgetting (PEFT's method comparison, Llama-3.2-3B on \
             MetaMathQA: 49.4 against 47.8 %, loss on other text up by 0.032 against 0.050); attention alone falls short even with more \
             parameters (LoRA Without Regret); all > MLP > attention (Learns Less and Forgets Less)",
            "mlp-or-attention",
            "facts learned at equal parameters",
            |arm| Some(format!("{} {}", arm.name, arm.figure("trained")?.share())),
        ),
        if_wrong: "the measured placements lie within a few points of each other at one budget; attention alone is the one that falls behind",
        thin: !knowledge || unsure,
    }
}

/// The smallest power of two whose parameters are no fewer than the tokens to learn.
fn rank(looks: &Looks, kinds: &[Kind], recipe: &Recipe, model: &OpenModel) -> Result<Choice> {
    let of_rank = |r: usize| {
        let recipe = Recipe { lora_r: Some(r), out: Some(recipe.out.clone().unwrap_or_default()), ..recipe.clone() };
        Ok::<_, Error>(placement_of(&recipe.resolve()?, model)?.parameters())
    };
    let each = of_rank(1)?;
    let enough = |r: &usize| r * each >= looks.supervised_tokens;
    let ranks = || std::iter::successors(Some(SMALLEST_RANK), |r| Some(r * 2)).take_while(|r| *r <= LARGEST_RANK);
    let form_only = !kinds.is_empty() && kinds.iter().all(|kind| matches!(kind, Kind::Format | Kind::Extraction));
    let r = if form_only { SMALLEST_RANK } else { ranks().find(enough).unwrap_or(LARGEST_RANK).max(TrainOptions::LORA_R) };
    let why = match form_only {
        true => "a form takes few parameters".to_string(),
        false => format!(
            "{} parameters for {} tokens to learn: there should be no fewer parameters than that",
            r * each,
            looks.supervised_tokens
        ),
    };
    Ok(Choice {
        option: "lora_r",
        value: Value::Whole(r as u64),
        why,
        evidence: with_ours(
            "capacity: parameters should not be fewer than supervised tokens (Tinker's documentation); from rank 1 to 64 the loss moved from \
             0.5540 to 0.5449 only (the same)",
            "capacity",
            "facts learned with one matrix a layer",
            |arm| Some(format!("{} {}", arm.name, arm.figure("trained")?.share())),
        ),
        if_wrong: "too high costs memory and little else; too low leaves facts out, evenly over all of them",
        thin: false,
    })
}

fn epochs(looks: &Looks, kinds: &[Kind]) -> Choice {
    let facts = kinds.contains(&Kind::Facts) && looks.records < FEW_RECORDS;
    let (passes, why) = match facts {
        true => (PASSES_OF_FACTS, format!("{} records that are new to the model have to be seen again and again", looks.records)),
        false => (3, "the usual number; the held-out loss tells when it is too many".to_string()),
    };
    Choice {
        option: "epochs",
        value: Value::Whole(passes),
        why,
        evidence: "`graftling demo` answers its twenty facts in new wordings after it has seen each twelve times (six wordings, two passes); for \
                   other data nobody can say it without trying".into(),
        if_wrong: "too few and the facts are not there; too many and the model forgets other things: compare the loss on other text before and \
                   after (general_data of a sweep)",
        thin: facts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_toml_and_as_options() {
        let text = Value::Text("a \"b\"".to_string());
        let read: toml::Table = toml::from_str(&format!("key = {}", text.toml())).unwrap();
        assert_eq!((text.plain(), read["key"].as_str()), ("a \"b\"".to_string(), Some("a \"b\"")));
        assert_eq!([Value::Real(2e-4), Value::Real(32.0), Value::Whole(16)].map(|value| value.plain()), ["2e-4", "32", "16"]);
    }

    #[test]
    fn knowledge_is_certain_of_all_modules_and_form_asks_for_a_sweep() {
        assert!(!modules(&[Kind::Facts], true, false).thin);
        assert!(modules(&[Kind::Facts], true, true).thin && modules(&[Kind::Format], false, false).thin);
        let few = Looks { records: 40, ..Looks::default() };
        assert_eq!(epochs(&few, &[Kind::Facts]).value, Value::Whole(PASSES_OF_FACTS));
        assert_eq!(epochs(&few, &[]).value, Value::Whole(3));
    }
}
