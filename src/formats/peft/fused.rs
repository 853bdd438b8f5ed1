//! Experts as PEFT adapts them with transformers 5, where the matrices of all experts are one parameter each, `gate_up_proj` `[E, 2 I, hidden]` and
//! `down_proj` `[E, hidden, I]`, named by `target_parameters`.
//!
//! A pair is `lora_A [r E, in]`, of which rows `e r .. (e + 1) r` are expert e's, and `lora_B [out, r E]`, of which columns `k E + e` are. The
//! parameter that is wrapped first, `gate_up_proj` where there are both, has `base_layer` in its keys. Read, they are the pairs of gate, up and
//! down that graftling has: gate and up with the same A, each with its half of B.

use std::collections::BTreeMap;

use super::patterns::{Modules, Patterns};
use super::{AdapterConfig, AdapterTensor, ROUTER};
use crate::architecture::experts::ExpertNames;

/// The parameters, in the order in which PEFT wraps them.
const PARAMETERS: [&str; 2] = ["gate_up_proj", "down_proj"];

/// What experts and their router hang on in their layer, in all families but Mixtral, and there too in transformers 5.
const USUAL_PARENT: &str = "mlp";

/// What stands for them here.
const MODULES: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// Which of [`PARAMETERS`] these names mean; `Err` with one that is neither.
pub(super) fn parameters(names: &[String]) -> Result<[bool; 2], &str> {
    let mut found = [false; 2];
    for name in names.iter().filter(|name| router(name).is_none()) {
        let own = name.rsplit('.').next().unwrap_or(name);
        match PARAMETERS.iter().position(|parameter| *parameter == own) {
            Some(at) => found[at] = true,
            None => return Err(name),
        }
    }
    Ok(found)
}

/// The router whose parameter this is, which is adapted as the linear layer that it was in transformers 4: `mlp.gate` of `mlp.gate.weight`.
pub(super) fn router(parameter: &str) -> Option<&str> {
    parameter.strip_suffix(".weight").filter(|module| module.rsplit('.').next() == Some(ROUTER))
}

/// A matrix of a pair in a file: its layer, whether it was wrapped first of two, and whether it is B.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    layer: usize,
    wrapped_first: bool,
    is_b: bool,
}

/// What a key names; `None` if it is none of such a pair.
pub(super) fn of_key(key: &str) -> Option<Place> {
    let (number, within) = key.strip_prefix("base_model.model.model.layers.")?.split_once('.')?;
    let layer = number.parse().ok()?;
    let own = within.strip_prefix("mlp.experts.")?;
    let (wrapped_first, own) = own.strip_prefix("base_layer.").map_or((false, own), |own| (true, own));
    let is_b = match own.strip_suffix(".weight")?.trim_end_matches(".default") {
        "lora_A" => false,
        "lora_B" => true,
        _ => return None,
    };
    Some(Place { layer, wrapped_first, is_b })
}

/// The pairs of gate, up and down, of those of a file, whose rank and factor `config` then has too. Of each: its name and its matrices.
///
/// # Errors
/// What is wrong: a pair without its other matrix, or of a shape that is none of experts.
pub(super) fn apart(
    config: &mut AdapterConfig,
    targets: [bool; 2],
    mut found: BTreeMap<Place, AdapterTensor>,
) -> Result<Vec<AdapterTensor>, String> {
    let mut tensors = Vec::new();
    let mut ranks: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    while let Some((place, a)) = found.pop_first() {
        let Place { layer, wrapped_first, .. } = place;
        let what = format!("layer {layer}: the pair of the experts");
        let b = found.remove(&Place { is_b: true, ..place });
        let Some(b) = b.filter(|_| !place.is_b) else { return Err(format!("{what} lacks lora_A or lora_B")) };
        let is_gate_up = match (targets, wrapped_first) {
            ([true, true], first) => first,
            ([gate_up, _], false) if targets != [false, false] => gate_up,
            _ => return Err(format!("{what} is there, but target_parameters does not mean it")),
        };
        let parameter = PARAMETERS[usize::from(!is_gate_up)];
        let path = format!("model.layers.{layer}.mlp.experts.{parameter}");
        let (r, scale) = (config.rank_of(&path), config.scale_of(&path));
        let [rows, input] = a.shape;
        let [out, columns] = b.shape;
        let parts = if is_gate_up { 2 } else { 1 };
        if rows != columns || !rows.is_multiple_of(r) || !out.is_multiple_of(parts) {
            return Err(format!("{what} has shapes {:?} and {:?}, but rank {r}", a.shape, b.shape));
        }
        let (experts, own) = (rows / r, out / parts);
        if config.experts != 0 && config.experts != experts {
            return Err(format!("{what} is of {experts} experts, and another of {}", config.experts));
        }
        config.experts = experts;
        let modules = if is_gate_up { &MODULES[..2] } else { &MODULES[2..] };
        for (part, module) in modules.iter().enumerate() {
            let name = format!("layers.{layer}.mlp.experts.{module}");
            let of = |expert: usize, row: usize, k: usize| b.values[(part * own + row) * columns + k * experts + expert];
            let rows_of = |expert| (0..own).flat_map(move |row| (0..r).map(move |k| (expert, row, k)));
            let values = (0..experts).flat_map(rows_of).map(|(expert, row, k)| of(expert, row, k)).collect();
            tensors.push(AdapterTensor { name: format!("{name}.lora_a"), shape: [experts * r, input], values: a.values.clone() });
            tensors.push(AdapterTensor { name: format!("{name}.lora_b"), shape: [experts * own, r], values });
            let alpha = scale * if config.use_rslora { (r as f64).sqrt() } else { r as f64 };
            if ranks.insert(module, (r, alpha)).is_some_and(|before| before != (r, alpha)) {
                return Err(format!("{what} has rank {r} and alpha {alpha}, and another layer's has others"));
            }
        }
    }
    if ranks.is_empty() {
        return Ok(tensors);
    }
    // First, so that they count before a pattern that means the fused parameters.
    let key = |module: &str| format!("experts.{module}");
    let of_ranks = ranks.iter().map(|(module, (r, _))| (key(module), *r));
    config.rank_pattern = Patterns::new(of_ranks.chain(config.rank_pattern.entries().iter().cloned()).collect())?;
    let of_alphas = ranks.iter().map(|(module, (_, alpha))| (key(module), *alpha));
    config.alpha_pattern = Patterns::new(of_alphas.chain(config.alpha_pattern.entries().iter().cloned()).collect())?;
    let mut listed = match config.chosen.targets.take() {
        Some(Modules::Listed(names)) => names,
        Some(Modules::Pattern(_)) => return Err("target_modules is a pattern beside target_parameters".to_owned()),
        None => Vec::new(),
    };
    listed.extend(ranks.keys().map(|module| key(module)));
    config.chosen.targets = Some(Modules::Listed(listed));
    config.fused_experts = true;
    Ok(tensors)
}

/// What belongs to a router (`layers.3.mlp.gate`, and what follows), by the name that it has in this family.
fn of_family(name: &str, names: &ExpertNames) -> String {
    let mut parts: Vec<&str> = name.split('.').collect();
    if let ["layers", _, parent, ROUTER, ..] = parts.as_mut_slice() {
        *parent = names.parent;
    }
    parts.join(".")
}

/// A name of `modules_to_save` as this family goes by it: what hangs on something else than in other families is meant by its own name, if
/// all of it is, since that is the same in every version of transformers.
pub fn router_name(saved: &str, names: &ExpertNames) -> String {
    if names.parent == USUAL_PARENT || !saved.ends_with(ROUTER) {
        return saved.to_owned();
    }
    let parts = saved.split('.').map(|part| if part == USUAL_PARENT { names.parent } else { part });
    let named = parts.collect::<Vec<_>>().join(".");
    if named == format!("{}.{ROUTER}", names.parent) { ROUTER.to_owned() } else { named }
}

impl AdapterConfig {
    /// Calls experts that a file had fused, and so without the names of a family, by those of this one; and routers, whichever version of
    /// transformers wrote them.
    pub fn name_experts(&mut self, tensors: &mut [AdapterTensor], names: &ExpertNames) {
        tensors.iter_mut().for_each(|tensor| tensor.name = of_family(&tensor.name, names));
        self.only = self.only.take().map(|only| only.iter().map(|name| of_family(name, names)).collect());
        self.modules_to_save.iter_mut().for_each(|saved| *saved = router_name(saved, names));
        if !self.fused_experts {
            return;
        }
        let renamed = |name: &str| {
            let own = MODULES.iter().zip(names.modules).find(|(module, _)| name.contains(&format!("experts.{module}")));
            own.map_or_else(
                || name.to_owned(),
                |(module, own)| {
                    let name = name.replace("mlp.experts", names.experts);
                    name.replace(&format!("experts.{module}"), &format!("experts.{own}"))
                },
            )
        };
        tensors.iter_mut().for_each(|tensor| tensor.name = renamed(&tensor.name));
        self.only = self.only.take().map(|only| only.iter().map(|name| renamed(name)).collect());
        if let Some(Modules::Listed(listed)) = &mut self.chosen.targets {
            listed.iter_mut().for_each(|name| *name = renamed(name));
        }
        if names.modules != MODULES {
            let own = |module: &String| {
                MODULES.iter().position(|known| known == module).map_or(module.clone(), |at| names.modules[at].to_owned())
            };
            self.target_modules = self.target_modules.iter().map(own).collect();
        }
        // The same keys in the same order, so none can be no pattern now.
        let ranks = self.rank_pattern.entries().iter().map(|(key, r)| (renamed(key), *r)).collect();
        let alphas = self.alpha_pattern.entries().iter().map(|(key, alpha)| (renamed(key), *alpha)).collect();
        if let (Ok(ranks), Ok(alphas)) = (Patterns::new(ranks), Patterns::new(alphas)) {
            (self.rank_pattern, self.alpha_pattern) = (ranks, alphas);
        }
    }
}
