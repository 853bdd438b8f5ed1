//! Experts as PEFT adapts them with transformers 5, where the matrices of all experts are one parameter each, `gate_up_proj` `[E, 2 I, hidden]` and
//! `down_proj` `[E, hidden, I]`, named by `target_parameters`.
//!
//! A pair is `lora_A [r E, in]`, of which rows `e r .. (e + 1) r` are expert e's, and `lora_B [out, r E]`, of which columns `k E + e` are. The
//! parameter that is wrapped first, `gate_up_proj` where there are both, has `base_layer` in its keys. Read, they are the pairs of gate, up and
//! down that graftling has: gate and up with the same A, each with its half of B. What the configuration says of the parameters it then says of
//! the modules of single experts, which is how they are written again.

use std::collections::BTreeMap;

use super::patterns::Patterns;
use super::{AdapterConfig, AdapterTensor, ROUTER, names};
use crate::architecture::experts::{ExpertNames, MOST_EXPERTS, names_with};
use crate::formats::adapter_folder::{number, within_layer};

/// The parameters, in the order in which PEFT wraps them.
const PARAMETERS: [&str; 2] = ["gate_up_proj", "down_proj"];

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

/// The place in [`PARAMETERS`] of the one that has the matrix of an expert's module with this path (`model.layers.3.mlp.experts.7.gate_proj`);
/// `None` for any other module.
pub(super) fn parameter_of(path: &str) -> Option<usize> {
    let mut ends = path.rsplit('.');
    let (module, expert) = (ends.next()?, ends.next()?);
    if ends.next() != Some("experts") || number(expert).is_none() {
        return None;
    }
    names_with(module).map(|(_, place)| usize::from(place == 2))
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
    // No model that has other parts beside its text has experts here.
    let (_, inside) = names::inside_model(key).filter(|(before, _)| *before == names::MODEL)?;
    let (layer, within) = within_layer(inside)?;
    let own = within.strip_prefix(ExpertNames::USUAL.experts)?.strip_prefix('.')?;
    let (wrapped_first, own) = own.strip_prefix("base_layer.").map_or((false, own), |own| (true, own));
    let is_b = match own.strip_suffix(".weight")?.trim_end_matches(".default") {
        "lora_A" => false,
        "lora_B" => true,
        _ => return None,
    };
    Some(Place { layer, wrapped_first, is_b })
}

/// The pairs of gate, up and down, by the names of a family, of those of a file, whose rank and factor `config` then has too. Of each: its name
/// and its matrices.
///
/// # Errors
/// What is wrong: a pair without its other matrix, or of a shape that is none of experts.
pub(super) fn apart(
    config: &mut AdapterConfig,
    family: &ExpertNames,
    mut found: BTreeMap<Place, AdapterTensor>,
) -> Result<Vec<AdapterTensor>, String> {
    let targets = config.chosen.parameters;
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
        let path = names::path(&format!("layers.{layer}.{}.{parameter}", ExpertNames::USUAL.experts), "");
        let (r, scale) = (config.rank_of(&path), config.scale_of(&path));
        let [rows, input] = a.shape;
        let [out, columns] = b.shape;
        let parts = if is_gate_up { 2 } else { 1 };
        if rows != columns || !rows.is_multiple_of(r) || !out.is_multiple_of(parts) {
            return Err(format!("{what} has shapes {:?} and {:?}, but rank {r}", a.shape, b.shape));
        }
        let (experts, own) = (rows / r, out / parts);
        if experts > MOST_EXPERTS {
            return Err(format!("{what} is of {experts} experts, more than any model has"));
        }
        if config.experts != 0 && config.experts != experts {
            return Err(format!("{what} is of {experts} experts, and another of {}", config.experts));
        }
        config.experts = experts;
        let modules = if is_gate_up { &family.modules[..2] } else { &family.modules[2..] };
        for (part, module) in modules.iter().enumerate() {
            let name = format!("layers.{layer}.{}.{module}", family.experts);
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
    let key = |module: &str| format!(r"experts\.\d+\.{module}");
    let of_ranks = ranks.iter().map(|(module, (r, _))| (key(module), *r));
    config.rank_pattern = Patterns::new(of_ranks.chain(config.rank_pattern.entries().iter().cloned()).collect())?;
    let of_alphas = ranks.iter().map(|(module, (_, alpha))| (key(module), *alpha));
    config.alpha_pattern = Patterns::new(of_alphas.chain(config.alpha_pattern.entries().iter().cloned()).collect())?;
    Ok(tensors)
}
