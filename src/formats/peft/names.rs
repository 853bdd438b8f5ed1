//! What the parts of an adapter are called: in PEFT's files, and in this program.

use super::is_router as is_router_module;
use crate::architecture::experts::{self, ExpertNames, SHARED_EXPERT, names_with, of_expert};
use crate::architecture::{Site, is_a_router};
use crate::formats::adapter_folder::{number, within_layer};

/// What PEFT puts before the path of a module.
const PREFIX: &str = "base_model.model.";
/// What begins the path of a module of a causal language model.
pub(super) const MODEL: &str = "model.";
/// What follows for the text part of a model that has others; transformers 4 had the two the other way round.
pub(super) const TEXT_PART: &str = "language_model.";
const OLD_TEXT_MODEL: &str = "language_model.model.";

/// What a key's path begins with, and what it has inside the model, which is that of the text where there are others.
pub(super) fn inside_model(key: &str) -> Option<(&str, &str)> {
    let path = key.strip_prefix(PREFIX)?;
    let inside = match path.strip_prefix(OLD_TEXT_MODEL) {
        Some(inside) => inside,
        None => {
            let inside = path.strip_prefix(MODEL)?;
            inside.strip_prefix(TEXT_PART).unwrap_or(inside)
        }
    };
    Some(path.split_at(path.len() - inside.len()))
}

/// A matrix's own name here, and the end of its key in a file.
const MATRICES: [(&str, &str); 4] = [
    ("lora_a", "lora_A.weight"),
    ("lora_b", "lora_B.weight"),
    ("lora_b_bias", "lora_B.bias"),
    ("lora_magnitude_vector", "lora_magnitude_vector"),
];

/// Of which of our matrices a file has one dimension.
pub fn is_vector(name: &str) -> bool {
    name.ends_with(".lora_b_bias") || name.ends_with(".lora_magnitude_vector") || is_norm(name) || is_bias(name)
}

/// The modules with a row for each token, and what stands before their names.
pub const VOCABULARY: [(&str, &str); 2] = [("embed_tokens", MODEL), ("lm_head", "")];

/// What a file may have of such a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfVocabulary {
    /// The whole matrix: trained (`modules_to_save`), or written because tokens were added to it.
    Whole,
    /// The rows of `trainable_token_indices`, in their order.
    Rows,
    /// The model's own matrix beside the trained one.
    Original,
}

/// The module, and what of it a key names. PEFT before 0.7 kept its wrapper's name in the key, and newer ones do beside added tokens.
pub fn of_vocabulary(key: &str) -> Option<(&'static str, OfVocabulary)> {
    VOCABULARY.iter().find_map(|(module, before)| {
        let inside = match before.is_empty() {
            true => key.strip_prefix(PREFIX).map(|path| path.strip_prefix(TEXT_PART).unwrap_or(path))?,
            false => inside_model(key)?.1,
        };
        let what = match inside.strip_prefix(*module)?.strip_prefix('.')? {
            "weight" | "modules_to_save.weight" | "modules_to_save.default.weight" | "token_adapter.base_layer.weight" => {
                OfVocabulary::Whole
            }
            "token_adapter.trainable_tokens_delta" | "token_adapter.trainable_tokens_delta.default" => OfVocabulary::Rows,
            "original_module.weight" => OfVocabulary::Original,
            _ => return None,
        };
        Some((*module, what))
    })
}

/// Is one of our matrices (`layers.3.input_layernorm.weight`, `norm.weight`) the weight of a norm?
pub fn is_norm(name: &str) -> bool {
    let module = name.strip_suffix(".weight").filter(|module| module.ends_with("norm"));
    module.is_some_and(|module| module == "norm" || module.starts_with("layers."))
}

/// Is one of our matrices (`layers.3.mlp.gate.weight`) a router of experts?
pub fn is_router(name: &str) -> bool {
    name.starts_with("layers.") && is_a_router(name)
}

/// The key by which transformers 5 finds a router, of one by which transformers 4 does, where the two differ. PEFT looks for the one or the other,
/// whatever it renames besides, so a file has both.
pub fn router_of_today(key: &str) -> Option<String> {
    if is_a_router(key) { experts::router_of_today(key) } else { None }
}

/// The norm or router of which a key has the trained weight, as we name its matrix; `Err` for the model's own beside it.
pub fn norm_or_router(key: &str) -> Option<Result<String, ()>> {
    let (_, inside) = inside_model(key)?;
    let ends = [".modules_to_save.default.weight", ".modules_to_save.weight", ".original_module.weight", ".weight"];
    let (module, end) = ends.iter().find_map(|end| Some((inside.strip_suffix(end)?, *end)))?;
    let name = format!("{module}.weight");
    let is_saved = is_norm(&name) || is_router(&name);
    is_saved.then(|| if end.contains("original_module") { Err(()) } else { Ok(name) })
}

/// Is one of our matrices (`layers.3.self_attn.q_proj.bias`) the bias of a linear layer?
pub fn is_bias(name: &str) -> bool {
    name.strip_suffix(".bias").and_then(linear_module).is_some()
}

/// The layer of a linear module (`layers.3.self_attn.q_proj`), and what [`linear_within`] says of the rest.
fn linear_module(module: &str) -> Option<(usize, (&str, Option<usize>, &str))> {
    let (layer, within) = within_layer(module)?;
    Some((layer, linear_within(within)?))
}

/// The bias that a key has, as we name it: of an adapted layer PEFT keeps the layer in one of its own.
pub fn bias(key: &str) -> Option<String> {
    let (_, inside) = inside_model(key)?;
    let module = inside.strip_suffix(".base_layer.bias").or_else(|| inside.strip_suffix(".bias"))?;
    linear_module(module).map(|_| format!("{module}.bias"))
}

/// The module of the vocabulary of which one of our matrices (`embed_tokens.weight`, `lm_head.token_rows`) is a part.
pub fn vocabulary_module(name: &str) -> Option<(&'static str, OfVocabulary)> {
    let (module, own) = name.split_once('.')?;
    let what = match own {
        "weight" => OfVocabulary::Whole,
        "token_rows" => OfVocabulary::Rows,
        _ => return None,
    };
    VOCABULARY.iter().find(|(known, _)| *known == module).map(|(known, _)| (*known, what))
}

/// `layers.3.self_attn.q_proj.lora_a` as PEFT writes it. `adapts` says whether a linear layer has an adapter.
pub fn in_file(name: &str, text_path: &str, adapts: impl Fn(&str) -> bool) -> Option<String> {
    if let Some((module, what)) = vocabulary_module(name) {
        let (_, before) = VOCABULARY.iter().find(|(known, _)| *known == module)?;
        let text_path = if before.is_empty() { "" } else { text_path };
        let own = if what == OfVocabulary::Rows { "token_adapter.trainable_tokens_delta" } else { "weight" };
        return Some(format!("{PREFIX}{before}{text_path}{module}.{own}"));
    }
    if is_norm(name) || is_router(name) {
        return Some(format!("{PREFIX}{MODEL}{text_path}{name}"));
    }
    let (module, matrix) = name.rsplit_once('.')?;
    if is_bias(name) {
        let inner = if adapts(module) { ".base_layer" } else { "" };
        return Some(format!("{PREFIX}{MODEL}{text_path}{module}{inner}.bias"));
    }
    let (_, end) = MATRICES.iter().find(|(own, _)| *own == matrix)?;
    Some(format!("{PREFIX}{MODEL}{text_path}{module}.{end}"))
}

/// The key of what has this name in a model of text alone.
pub(super) fn in_model(name: &str) -> String {
    format!("{PREFIX}{MODEL}{name}")
}

/// The path of a module by which PEFT's patterns choose it.
pub fn path(site: &str, text_path: &str) -> String {
    format!("{MODEL}{text_path}{site}")
}

/// The modules that a linear layer (`layers.3.mlp.experts.gate_proj`) is in PEFT: one for each of so many experts, or itself.
pub fn modules(site: &str, experts: usize) -> Vec<String> {
    match of_expert(site, 0) == site {
        false if experts > 0 => (0..experts).map(|expert| of_expert(site, expert)).collect(),
        _ => vec![site.to_owned()],
    }
}

/// The paths of these modules.
pub fn paths(site: &str, experts: usize, text_path: &str) -> Vec<String> {
    modules(site, experts).iter().map(|module| path(module, text_path)).collect()
}

/// The paths by which PEFT's patterns choose what a site of this program is.
pub fn paths_of_site(site: &Site, text_path: &str) -> Vec<String> {
    paths(&site.name(), site.expert_modules(), text_path)
}

/// A key of a file, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<'k> {
    /// `layers.3.self_attn.q_proj.lora_a`
    pub name: String,
    /// `model.layers.3.self_attn.q_proj`
    pub path: String,
    pub layer: usize,
    /// `q_proj`
    pub module: &'k str,
    /// Of which expert, where it is a layer of several; `name` is that of all of them.
    pub expert: Option<usize>,
}

impl Named<'_> {
    /// `layers.3.self_attn.q_proj`
    pub fn site(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(site, _)| site)
    }
}

/// What a key names; `None` if it is none of a linear module of a layer. Some writers keep the adapter's name (`default`) in the key.
pub fn of_key(key: &str) -> Option<Named<'_>> {
    let (before, inside) = inside_model(key)?;
    let matrix = |(own, end): &(&'static str, &str)| {
        let (stem, kind) = end.rsplit_once('.').unwrap_or((end, ""));
        let with_name = if kind.is_empty() { format!(".{stem}.default") } else { format!(".{stem}.default.{kind}") };
        let module = inside.strip_suffix(&format!(".{end}")).or_else(|| inside.strip_suffix(&with_name))?;
        Some((*own, module))
    };
    let (own, module) = MATRICES.iter().find_map(matrix)?;
    let (layer, (parent, expert, own_name)) = linear_module(module)?;
    let path = format!("{before}{module}");
    Some(Named { name: format!("layers.{layer}.{parent}.{own_name}.{own}"), path, layer, module: own_name, expert })
}

/// What a module hangs on in its layer, which expert's it is, and its own name: `mlp.experts.7.gate_proj`.
fn linear_within(within: &str) -> Option<(&str, Option<usize>, &str)> {
    let (parent, module) = within.rsplit_once('.')?;
    if matches!(parent, "self_attn" | "mlp" | SHARED_EXPERT) || (is_router_module(module) && experts::is_parent(parent)) {
        return Some((parent, None, module));
    }
    let (parent, expert) = parent.rsplit_once('.')?;
    let (family, _) = names_with(module)?;
    // In memory, transformers 5 has the experts of all families in one place.
    let is_theirs = [family.experts, ExpertNames::USUAL.experts].contains(&parent);
    Some((family.experts, Some(number(expert).filter(|_| is_theirs)?), module))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text part of a larger model as it is called today, and as transformers 4 called it; a model of text alone.
    #[test]
    fn all_that_is_inside_a_model_is_found_by_one_rule() {
        for before in ["model.", "model.language_model.", "language_model.model."] {
            let key = |inside: &str| format!("base_model.model.{before}{inside}");
            assert_eq!(inside_model(&key("norm.weight")), Some((before, "norm.weight")));
            let name = "layers.3.input_layernorm.weight";
            assert_eq!(norm_or_router(&key(name)), Some(Ok(name.to_owned())));
            assert_eq!(norm_or_router(&key("norm.original_module.weight")), Some(Err(())));
            assert_eq!(bias(&key("layers.3.self_attn.q_proj.base_layer.bias")).unwrap(), "layers.3.self_attn.q_proj.bias");
            assert_eq!(of_vocabulary(&key("embed_tokens.weight")), Some(("embed_tokens", OfVocabulary::Whole)));
            let key = key("layers.3.self_attn.q_proj.lora_A.default.weight");
            let named = of_key(&key).unwrap();
            assert_eq!((named.name.as_str(), named.layer), ("layers.3.self_attn.q_proj.lora_a", 3));
            assert_eq!(named.path, format!("{before}layers.3.self_attn.q_proj"));
        }
        // A layer has one spelling.
        assert_eq!(of_key("base_model.model.model.layers.03.self_attn.q_proj.lora_A.weight"), None);
        assert_eq!(bias("base_model.model.model.layers.+3.self_attn.q_proj.bias"), None);
    }
}
