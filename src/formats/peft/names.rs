//! What the parts of an adapter are called: in PEFT's files, and in this program.

/// What PEFT puts before the path of a module.
const PREFIX: &str = "base_model.model.";
/// What begins the path of a module of a causal language model.
const MODEL: &str = "model.";
/// What follows for the text part of a model that has others; transformers 4 had the two the other way round.
pub(super) const TEXT_PART: &str = "language_model.";
const OLD_TEXT_MODEL: &str = "language_model.model.";

/// A matrix's own name here, and the end of its key in a file.
const MATRICES: [(&str, &str); 4] = [
    ("lora_a", "lora_A.weight"),
    ("lora_b", "lora_B.weight"),
    ("lora_b_bias", "lora_B.bias"),
    ("lora_magnitude_vector", "lora_magnitude_vector"),
];

/// Of which of our matrices a file has one dimension.
pub fn is_vector(name: &str) -> bool {
    name.ends_with(".lora_b_bias") || name.ends_with(".lora_magnitude_vector")
}

/// Whole matrices that a file may have: their names here, which are those of the modules, and where the modules are.
pub const WHOLE: [(&str, &str); 2] = [("embed_tokens.weight", MODEL), ("lm_head.weight", "")];

/// The whole matrix that a key of a file names. PEFT before 0.7 kept its wrapper's name in the key.
pub fn whole(key: &str) -> Option<&'static str> {
    let path = key.strip_prefix(PREFIX)?.replace(".modules_to_save.default", "").replace(".modules_to_save", "");
    let fits = |(name, before): &&(&str, &str)| {
        let end = path.strip_prefix(*before).map(|inside| inside.strip_prefix(TEXT_PART).unwrap_or(inside));
        end == Some(*name)
    };
    WHOLE.iter().find(fits).map(|(name, _)| *name)
}

/// `layers.3.self_attn.q_proj.lora_a` as PEFT writes it.
pub fn in_file(name: &str, text_path: &str) -> Option<String> {
    if let Some((name, before)) = WHOLE.iter().find(|(whole, _)| *whole == name) {
        let text_path = if before.is_empty() { "" } else { text_path };
        return Some(format!("{PREFIX}{before}{text_path}{name}"));
    }
    let (module, matrix) = name.rsplit_once('.')?;
    let (_, end) = MATRICES.iter().find(|(own, _)| *own == matrix)?;
    Some(format!("{PREFIX}{MODEL}{text_path}{module}.{end}"))
}

/// The path of a module by which PEFT's patterns choose it.
pub fn path(site: &str, text_path: &str) -> String {
    format!("{MODEL}{text_path}{site}")
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
}

impl Named<'_> {
    /// `layers.3.self_attn.q_proj`
    pub fn site(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(site, _)| site)
    }
}

/// What a key names; `None` if it is none of a linear module of a layer. Some writers keep the adapter's name (`default`) in the key.
pub fn of_key(key: &str) -> Option<Named<'_>> {
    let path = key.strip_prefix(PREFIX)?;
    let inside = match path.strip_prefix(OLD_TEXT_MODEL) {
        Some(inside) => inside,
        None => {
            let inside = path.strip_prefix(MODEL)?;
            inside.strip_prefix(TEXT_PART).unwrap_or(inside)
        }
    };
    let matrix = |(own, end): &(&'static str, &str)| {
        let (stem, kind) = end.rsplit_once('.').unwrap_or((end, ""));
        let with_name = if kind.is_empty() { format!(".{stem}.default") } else { format!(".{stem}.default.{kind}") };
        let module = inside.strip_suffix(&format!(".{end}")).or_else(|| inside.strip_suffix(&with_name))?;
        Some((*own, module))
    };
    let (own, module) = MATRICES.iter().find_map(matrix)?;
    let (number, within) = module.strip_prefix("layers.")?.split_once('.')?;
    let layer = number.parse::<usize>().ok().filter(|layer| layer.to_string() == number)?;
    let own_name = within.strip_prefix("self_attn.").or_else(|| within.strip_prefix("mlp."))?;
    let before = path.len() - inside.len();
    let path = path[..before + module.len()].to_owned();
    (!own_name.contains('.')).then(|| Named { name: format!("{module}.{own}"), path, layer, module: own_name })
}
