//! Experts as PEFT adapts them with transformers 5, where the matrices of all experts are one parameter each, `gate_up_proj` `[E, 2 I, hidden]` and
//! `down_proj` `[E, hidden, I]`, named by `target_parameters`.
//!
//! A pair is `lora_A [r E, in]`, of which rows `e r .. (e + 1) r` are expert e's, and `lora_B [out, r E]`, of which columns `k E + e` are. The
//! parameter that is wrapped first, `gate_up_proj` where there are both, has `base_layer` in its keys. Read, they are the pairs of gate, up and
//! down that graftling has: gate and up with the same A, each with its half of B. What the configuration says of the parameters it then says of
//! the modules of single experts, which is how they are written again.
//!
//! Of a family whose experts are no modules at all ([`ExpertNames::together`]) they stay what they are, and are written so again. There rows of B
//! alternate between gate and up, as the parameter's columns do; here those of gate come first, and all rows are by expert.

use std::collections::BTreeMap;

use super::patterns::Patterns;
use super::{AdapterConfig, AdapterTensor, is_router, names};
use crate::architecture::experts::{ExpertNames, MOST_EXPERTS, names_with};
use crate::formats::adapter_folder::{number, within_layer};

/// The parameters, in the order in which PEFT wraps them.
const PARAMETERS: [&str; 2] = ["gate_up_proj", "down_proj"];

/// Does a name of `target_parameters` mean one of [`PARAMETERS`]?
pub(super) fn is_name(name: &str) -> bool {
    PARAMETERS.iter().any(|parameter| name.rsplit('.').next() == Some(parameter))
}

/// Is this (`layers.3.mlp.experts.down_proj`) a parameter of all experts?
pub(super) fn is_parameter(site: &str) -> bool {
    let own = within_layer(site).and_then(|(_, within)| within.strip_prefix(ExpertNames::USUAL.experts)?.strip_prefix('.'));
    own.is_some_and(|own| PARAMETERS.contains(&own))
}

/// The router whose parameter this is, which is adapted as the linear layer that it was in transformers 4: `mlp.gate` of `mlp.gate.weight`.
pub(super) fn router(parameter: &str) -> Option<&str> {
    parameter.strip_suffix(".weight").filter(|module| module.rsplit('.').next().is_some_and(is_router))
}

/// The path of the parameter that has the matrix of an expert's module with this path (`model.layers.3.mlp.experts.7.gate_proj`), or that it
/// is itself; `None` for any other module.
pub(super) fn parameter_of(path: &str) -> Option<String> {
    let (parent, module) = path.rsplit_once('.')?;
    if parent.ends_with(".experts") && PARAMETERS.contains(&module) {
        return Some(path.to_owned());
    }
    let (experts, expert) = parent.rsplit_once('.')?;
    let layer = experts.strip_suffix("experts")?.trim_end_matches('.').rsplit_once('.')?.0;
    number(expert)?;
    let parameter = PARAMETERS[usize::from(names_with(module)?.1 == 2)];
    // Where transformers 5 has the experts of all families.
    Some(format!("{layer}.{}.{parameter}", ExpertNames::USUAL.experts))
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
    let mut tensors = Vec::new();
    let mut ranks: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    while let Some((place, a)) = found.pop_first() {
        let Place { layer, wrapped_first, .. } = place;
        let site_of = |parameter: &str| format!("layers.{layer}.{}.{parameter}", ExpertNames::USUAL.experts);
        let targets = PARAMETERS.map(|parameter| config.chosen.means_parameter(&names::path(&site_of(parameter), "")));
        let what = format!("layer {layer}: the pair of the experts");
        let b = found.remove(&Place { is_b: true, ..place });
        let Some(b) = b.filter(|_| !place.is_b) else { return Err(format!("{what} lacks lora_A or lora_B")) };
        let is_gate_up = match (targets, wrapped_first) {
            ([true, true], first) => first,
            ([gate_up, _], false) if targets != [false, false] => gate_up,
            _ => return Err(format!("{what} is there, but target_parameters does not mean it")),
        };
        let parameter = PARAMETERS[usize::from(!is_gate_up)];
        let path = names::path(&site_of(parameter), "");
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
        if family.together {
            let of = |own: &str, shape, values| AdapterTensor { name: format!("{}.{own}", site_of(parameter)), shape, values };
            let rows = rows_of_experts(parts, experts, own);
            let row = |(part, expert, row): (usize, usize, usize)| {
                let first = (row * parts + part) * columns;
                let b = &b.values;
                (0..r).map(move |k| b[first + k * experts + expert])
            };
            tensors.push(of("lora_b", [experts * out, r], rows.flat_map(row).collect()));
            tensors.push(of("lora_a", a.shape, a.values));
            config.parameters.insert(parameter.to_owned());
            continue;
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

/// Which part, expert and row of it stand where in a matrix by outputs: those of one part before those of the next.
fn rows_of_experts(parts: usize, experts: usize, own: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let of_part = move |part| (0..experts).flat_map(move |expert| (0..own).map(move |row| (part, expert, row)));
    (0..parts).flat_map(of_part)
}

/// What a file has of pairs of parameters of all experts, by their keys: the inverse of [`apart`] for a family whose experts are no modules.
///
/// # Errors
/// What is wrong: a matrix without its other one, or of another shape.
pub(super) fn together(tensors: Vec<AdapterTensor>) -> Result<Vec<(String, AdapterTensor)>, String> {
    let mut given: BTreeMap<String, AdapterTensor> = tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    let sites: Vec<String> = given.keys().filter_map(|name| name.strip_suffix(".lora_a")).map(str::to_owned).collect();
    let mut found = Vec::new();
    for site in &sites {
        let (Some(a), Some(b)) = (given.remove(&format!("{site}.lora_a")), given.remove(&format!("{site}.lora_b"))) else {
            return Err(format!("{site} lacks lora_a or lora_b"));
        };
        let (parent, parameter) = site.rsplit_once('.').unwrap_or(("", site));
        let is_gate_up = parameter == PARAMETERS[0];
        let parts = if is_gate_up { 2 } else { 1 };
        let ([rows, _], [of_all, r]) = (a.shape, b.shape);
        let experts = rows / r.max(1);
        if r == 0 || experts == 0 || rows != experts * r || !of_all.is_multiple_of(parts * experts) {
            return Err(format!("{site} has matrices of shapes {:?} and {:?}", a.shape, b.shape));
        }
        let (out, columns) = (of_all / experts, r * experts);
        let mut values = vec![0.0; out * columns];
        for (from, (part, expert, row)) in rows_of_experts(parts, experts, out / parts).enumerate() {
            for k in 0..r {
                values[(row * parts + part) * columns + k * experts + expert] = b.values[from * r + k];
            }
        }
        // The one of both that is wrapped first is inside the other.
        let is_inside = is_gate_up && sites.iter().any(|other| *other == format!("{parent}.{}", PARAMETERS[1]));
        let inside = if is_inside { ".base_layer" } else { "" };
        for (own, tensor) in [("lora_A", a), ("lora_B", AdapterTensor { shape: [out, columns], values, ..b })] {
            found.push((names::in_model(&format!("{parent}{inside}.{own}.weight")), tensor));
        }
    }
    match given.into_keys().next() {
        Some(other) => Err(format!("{other} is of no pair")),
        None => Ok(found),
    }
}
