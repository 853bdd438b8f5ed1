//! `--rope-scaling`: another stretch of the rotary embedding than the config's, for longer contexts.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, de::Error as _};

use super::rope::yarn_attention_factor;
use super::{Architecture, RopeScaling};

/// What stands in place of the model's scaling: `none`, `linear:FACTOR`, `dynamic:FACTOR`, `yarn:FACTOR` or `llama3:FACTOR`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeOverride {
    None,
    Linear(f64),
    Dynamic(f64),
    Yarn(f64),
    Llama3(f64),
}

impl FromStr for RopeOverride {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, factor) = text.split_once(':').unwrap_or((text, ""));
        let factor = || match factor.parse::<f64>() {
            Ok(factor) if (1.0..=1024.0).contains(&factor) => Ok(factor),
            _ => Err(format!("`{text}` has no factor from 1 to 1024; write it like yarn:4")),
        };
        match kind {
            "none" => Ok(Self::None),
            "linear" => Ok(Self::Linear(factor()?)),
            "dynamic" => Ok(Self::Dynamic(factor()?)),
            "yarn" => Ok(Self::Yarn(factor()?)),
            "llama3" => Ok(Self::Llama3(factor()?)),
            "longrope" => Err(
                "`longrope` divides each frequency by a factor that was searched for with the model, so only its config can ask for it; \
                 try yarn:4"
                    .to_owned(),
            ),
            _ => Err(format!("`{text}` is none of none, linear:FACTOR, dynamic:FACTOR, yarn:FACTOR, llama3:FACTOR")),
        }
    }
}

impl std::fmt::Display for RopeOverride {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Linear(factor) => write!(f, "linear:{factor}"),
            Self::Dynamic(factor) => write!(f, "dynamic:{factor}"),
            Self::Yarn(factor) => write!(f, "yarn:{factor}"),
            Self::Llama3(factor) => write!(f, "llama3:{factor}"),
        }
    }
}

impl<'de> Deserialize<'de> for RopeOverride {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Architecture {
    /// Stretches the context that the model was made for, whatever its config says about stretching. Layers with a window keep their
    /// rotation: they never look further than that.
    pub fn override_rope(&mut self, scaling: RopeOverride) {
        let Some(first) = self.ropes.first() else { return };
        let max = self.max_position_embeddings;
        let original = match first.scaling {
            RopeScaling::Linear { factor } => ((max as f64 / factor) as usize).max(1),
            RopeScaling::Llama3 { original_max_position_embeddings, .. }
            | RopeScaling::Yarn { original_max_position_embeddings, .. }
            | RopeScaling::LongRope { original_max_position_embeddings, .. } => original_max_position_embeddings,
            _ => max,
        };
        let (factor, scaling) = match scaling {
            RopeOverride::None => (1.0, RopeScaling::None),
            RopeOverride::Linear(factor) => (factor, RopeScaling::Linear { factor }),
            // Its context is longer than the positions that its config names.
            RopeOverride::Dynamic(factor) => (1.0, RopeScaling::Dynamic { factor, original_max_position_embeddings: original }),
            RopeOverride::Yarn(factor) => {
                let attention_factor = yarn_attention_factor(factor, 1.0);
                let (beta_fast, beta_slow, truncate) = (32.0, 1.0, true);
                let original_max_position_embeddings = original;
                let yarn = RopeScaling::Yarn {
                    factor,
                    attention_factor,
                    beta_fast,
                    beta_slow,
                    truncate,
                    original_max_position_embeddings,
                };
                (factor, yarn)
            }
            RopeOverride::Llama3(factor) => {
                let (low_freq_factor, high_freq_factor) = (1.0, 4.0);
                let original_max_position_embeddings = original;
                let rule = RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings };
                (factor, rule)
            }
        };
        self.ropes[0].scaling = scaling;
        self.max_position_embeddings = ((original as f64 * factor) as usize).min(u32::MAX as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_stretches_the_context_that_the_model_was_made_for() {
        let config = |rope: &str| {
            let text = format!(
                r#"{{"architectures":["LlamaForCausalLM"],"vocab_size":8,"hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,
                    "num_attention_heads":1,"max_position_embeddings":64{rope}}}"#
            );
            Architecture::from_json_str(&text).unwrap()
        };
        for (rope, original) in [("", 64), (r#","rope_scaling":{"rope_type":"linear","factor":4}"#, 16)] {
            for text in ["none", "linear:2", "dynamic:3", "yarn:2.5", "llama3:8"] {
                let scaling: RopeOverride = text.parse().unwrap();
                assert_eq!(scaling.to_string(), text);
                let mut model = config(rope);
                model.override_rope(scaling);
                let factor: f64 = text.split_once(':').map_or(1.0, |(_, factor)| factor.parse().unwrap());
                assert_eq!(model.context(), (original as f64 * factor) as usize);
                assert!(model.check("test").is_ok() && model.supported().is_ok());
                assert_eq!(model.ropes[0].scaling == RopeScaling::None, text == "none");
            }
        }
        for wrong in ["", "yarn", "yarn:", "yarn:0.5", "linear:nan", "dynamic", "longrope:2", "spiral:2"] {
            assert!(wrong.parse::<RopeOverride>().is_err(), "{wrong}");
        }
    }
}
