//! AdapterHub's `adapter_config.json`: which of its keys count, and what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{BottleneckConfig, InitWeights, Input, NAME, Named, ReductionFactor, VERSION};
use crate::formats::adapter_folder::{Rule, Settings, number, read_settings};
use crate::{Error, Result};

/// The keys of `BnConfig` in adapters 1.3.
const KEYS: [(&str, Rule); 35] = [
    ("mh_adapter", Rule::Read),
    ("output_adapter", Rule::Read),
    ("reduction_factor", Rule::Read),
    ("non_linearity", Rule::Read),
    ("original_ln_before", Rule::Read),
    ("original_ln_after", Rule::Read),
    ("residual_before_ln", Rule::Read),
    ("is_parallel", Rule::Read),
    ("scaling", Rule::Read),
    ("dropout", Rule::Read),
    ("init_weights", Rule::Read),
    ("leave_out", Rule::Read),
    // These models have no cross attention to put one after.
    ("cross_adapter", Rule::Harmless),
    // How the start was drawn.
    ("init_weights_seed", Rule::Harmless),
    // Only with a norm of the adapter's own.
    ("adapter_residual_before_ln", Rule::Harmless),
    ("ln_before", Rule::Off),
    ("ln_after", Rule::Off),
    ("use_gating", Rule::Off),
    ("stochastic_depth", Rule::Off),
    ("architecture", Rule::Off),
    ("inv_adapter", Rule::Off),
    ("invertible_adapter", Rule::Off),
    ("inv_adapter_reduction_factor", Rule::Harmless),
    ("phm_layer", Rule::Off),
    // Only with phm_layer.
    ("phm_dim", Rule::Harmless),
    ("factorized_phm_W", Rule::Harmless),
    ("shared_W_phm", Rule::Harmless),
    ("shared_phm_rule", Rule::Harmless),
    ("factorized_phm_rule", Rule::Harmless),
    ("phm_c_init", Rule::Harmless),
    ("phm_init_range", Rule::Harmless),
    ("learn_phm", Rule::Harmless),
    ("hypercomplex_nonlinearity", Rule::Harmless),
    ("phm_rank", Rule::Harmless),
    ("phm_bias", Rule::Harmless),
];

/// More layers than a model has.
const MOST_LAYERS: usize = 10_000;

/// The file, read with errors that name the key.
pub(super) struct ConfigFile {
    /// Beside `config`.
    about: Map<String, Value>,
    config: Settings,
}

impl ConfigFile {
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |problem: String| Error::bad_input(path.display(), problem, "Copy the adapter's folder again.");
        let mut about = read_settings(path)?;
        let map = match about.remove("config") {
            Some(Value::Object(config)) => config,
            Some(other) => return Err(bad(format!("key `config` is {other}, not an object of settings"))),
            None => return Err(bad("has no key `config`".to_owned())),
        };
        let proposal = "graftling reads AdapterHub's bottleneck adapters (seq_bn, double_seq_bn, par_bn): train the adapter without this option.";
        Ok(Self { about, config: Settings { place: path.display().to_string(), map, proposal } })
    }

    fn bad(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        self.config.bad(key, problem)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.config.get(key)
    }

    fn about(&self, key: &str) -> Option<String> {
        self.about.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// What the adapter is called in the keys of its tensors.
    pub fn name(&self) -> Result<String> {
        self.about("name").ok_or_else(|| self.bad("name", "is missing: the tensors are found by it"))
    }

    /// A switch that must be there.
    fn needed(&self, key: &str) -> Result<bool> {
        if self.get(key).is_none() {
            return Err(self.bad(key, "is missing"));
        }
        self.config.switch(key, false)
    }

    pub fn into_config(self) -> Result<BottleneckConfig> {
        self.config.refuse_what_changes_the_numbers(&KEYS, true)?;
        let [after_attention, after_mlp] = [self.needed("mh_adapter")?, self.needed("output_adapter")?];
        if !after_attention && !after_mlp {
            return Err(self.bad("output_adapter", "is false as mh_adapter is: there is no bottleneck anywhere"));
        }
        Ok(BottleneckConfig {
            after_attention,
            after_mlp,
            input: self.input()?,
            reduction_factor: self.reduction_factor()?,
            non_linearity: self.non_linearity()?,
            scaling: self.scaling()?,
            dropout: self.config.dropout("dropout")?,
            init_weights: self.init_weights()?,
            leave_out: self.leave_out()?,
            base_model: self.about("model_name"),
            model_class: self.about("model_class"),
            model_type: self.about("model_type"),
            hidden_size: self.hidden_size()?,
            text_path: "",
        })
    }

    /// What goes into the bottleneck. The library's switches allow further sums of what attention or the MLP gives and of the residual; in
    /// these models all but the three would count the residual twice, or not at all.
    fn input(&self) -> Result<Input> {
        let parallel = self.config.switch("is_parallel", false)?;
        let before = self.config.switch("original_ln_before", false)?;
        let after = self.config.switch("original_ln_after", true)?;
        let odd = |key: &str, value: bool, times: &str| {
            let where_norms_are = "in a model whose norms stand before attention and MLP";
            Err(self.bad(key, format!("is {value}, so that {where_norms_are} the residual would be added {times}")))
        };
        if parallel {
            return if after { Ok(Input::Residual) } else { odd("original_ln_after", false, "nowhere") };
        }
        if self.get("residual_before_ln").is_some_and(Value::is_string) {
            return Err(self.bad("residual_before_ln", "is no switch: the library itself has no such residual in these models"));
        }
        // Without a norm in between, the residual is that of the sublayer itself, or with the model's residual added already.
        let own = self.config.switch("residual_before_ln", true)?;
        match (before, own, after) {
            (false, _, true) => Ok(Input::Output),
            (true, true, true) | (true, false, false) => Ok(Input::Sum),
            (true, false, true) => odd("residual_before_ln", false, "twice"),
            (_, _, false) => odd("original_ln_after", false, "nowhere"),
        }
    }

    fn factor(&self, value: &Value) -> Result<f64> {
        let possible = value.as_f64().filter(|factor| factor.is_finite() && *factor >= 1e-2 && *factor <= 1e9);
        possible.ok_or_else(|| self.bad("reduction_factor", format!("is {value}, which no hidden size can be divided by")))
    }

    fn reduction_factor(&self) -> Result<ReductionFactor> {
        let Some(value) = self.get("reduction_factor") else { return Err(self.bad("reduction_factor", "is missing")) };
        let Value::Object(entries) = value else { return Ok(ReductionFactor::uniform(self.factor(value)?)) };
        let (mut default, mut layers) = (None, BTreeMap::new());
        for (key, value) in entries {
            let factor = self.factor(value)?;
            match number(key).filter(|layer| *layer < MOST_LAYERS) {
                Some(layer) => drop(layers.insert(layer, factor)),
                None if key == "default" => default = Some(factor),
                None => return Err(self.bad("reduction_factor", format!("has `{key}`, which is no layer"))),
            }
        }
        Ok(ReductionFactor { default, layers })
    }

    fn non_linearity(&self) -> Result<Named> {
        let key = "non_linearity";
        let Some(name) = self.get(key).and_then(Value::as_str) else { return Err(self.bad(key, "is missing or no name")) };
        // Before the library noted its version, it used two names for other functions.
        let name = match (self.about("version").is_some(), name) {
            (false, "gelu") => "gelu_new",
            (false, "gelu_orig") => "gelu",
            (_, name) => name,
        };
        name.parse().map_err(|problem| self.bad(key, problem))
    }

    fn scaling(&self) -> Result<f64> {
        match self.get("scaling") {
            Some(Value::String(learned)) => {
                Err(self.bad("scaling", format!("is \"{learned}\": a scale that is trained itself is not supported")))
            }
            _ => self.config.number("scaling", 1.0),
        }
    }

    fn init_weights(&self) -> Result<InitWeights> {
        let Some(value) = self.get("init_weights") else { return Ok(InitWeights::Bert) };
        let known = InitWeights::NAMES.iter().find(|(name, _)| value.as_str() == Some(name));
        // What is read has its values; which way to start they came from changes none of them.
        Ok(known.map_or(InitWeights::Bert, |(_, start)| *start))
    }

    fn leave_out(&self) -> Result<BTreeSet<usize>> {
        let layer =
            |value: &Value| value.as_u64().and_then(|layer| usize::try_from(layer).ok()).filter(|layer| *layer < MOST_LAYERS);
        match self.get("leave_out") {
            None => Some(BTreeSet::new()),
            Some(Value::Array(layers)) => layers.iter().map(layer).collect::<Option<_>>(),
            Some(_) => None,
        }
        .ok_or_else(|| self.bad("leave_out", "is no list of layers"))
    }

    fn hidden_size(&self) -> Result<Option<usize>> {
        match self.about.get("hidden_size").filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => {
                let possible = value.as_u64().filter(|size| (1..1 << 24).contains(size));
                let size = possible.ok_or_else(|| self.bad("hidden_size", format!("is {value}, which no model has")))?;
                Ok(Some(size as usize))
            }
        }
    }
}

/// What the library writes for such an adapter; keys that only other kinds have are left to its defaults.
pub(super) fn to_json(config: &BottleneckConfig) -> Value {
    // The library counts a whole number as an integer, and takes none as a scale.
    let number = |value: f64| if value.fract() == 0.0 && value.abs() < 1e9 { json!(value as i64) } else { json!(value) };
    let ReductionFactor { default, layers } = &config.reduction_factor;
    let reduction_factor = match (layers.is_empty(), default) {
        (true, Some(factor)) => number(*factor),
        _ => {
            let of_layers = layers.iter().map(|(layer, factor)| (layer.to_string(), number(*factor)));
            Value::Object(of_layers.chain(default.map(|factor| ("default".to_owned(), number(factor)))).collect())
        }
    };
    json!({
        "config": {
            "adapter_residual_before_ln": false,
            "cross_adapter": false,
            "dropout": config.dropout,
            "init_weights": config.init_weights.name(),
            "inv_adapter": null,
            "inv_adapter_reduction_factor": null,
            "is_parallel": config.input == Input::Residual,
            "leave_out": config.leave_out,
            "ln_after": false,
            "ln_before": false,
            "mh_adapter": config.after_attention,
            "non_linearity": config.non_linearity.to_string(),
            "original_ln_after": true,
            "original_ln_before": config.input == Input::Sum,
            "output_adapter": config.after_mlp,
            "phm_layer": false,
            "reduction_factor": reduction_factor,
            "residual_before_ln": true,
            "scaling": config.scaling,
            "stochastic_depth": 0.0,
            "use_gating": false,
        },
        "hidden_size": config.hidden_size,
        "model_class": config.model_class,
        "model_name": config.base_model,
        "model_type": config.model_type,
        "name": NAME,
        "version": VERSION,
    })
}
