//! What the parts of a bottleneck are called: in AdapterHub's files, and in this program.

use super::super::adapter_folder::within_layer;

/// Where a bottleneck stands in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// After attention: `attention_adapters`, at `self_attn.o_proj`.
    Attention,
    /// After, or beside, the MLP: `output_adapters`, at `mlp.down_proj`.
    Mlp,
}

impl Place {
    const ALL: [Self; 2] = [Self::Attention, Self::Mlp];

    /// The library's module.
    fn module(self) -> &'static str {
        if self == Self::Attention { "attention_adapters" } else { "output_adapters" }
    }

    /// The linear layer after which it stands.
    fn site(self) -> &'static str {
        if self == Self::Attention { "self_attn.o_proj" } else { "mlp.down_proj" }
    }
}

/// A matrix's own name here, and the end of its key in a file. The second of each pair is a bias.
const MATRICES: [(&str, &str); 4] = [
    ("adapter_down", "adapter_down.0.weight"),
    ("adapter_down_bias", "adapter_down.0.bias"),
    ("adapter_up", "adapter_up.weight"),
    ("adapter_up_bias", "adapter_up.bias"),
];

/// What may stand before `layers.` in a file: a model with a head says `model.`, one without says nothing, and the text part of a model that
/// has others has a name of its own.
const BEFORE: [&str; 5] = ["model.language_model.", "language_model.model.", "model.", "language_model.", ""];

/// A key of a file, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// `layers.3.mlp.down_proj.adapter_up`
    pub name: String,
    pub layer: usize,
    pub place: Place,
    matrix: usize,
}

impl Key {
    /// The shape that it has in a file.
    pub fn shape(&self, hidden: usize, size: usize) -> Vec<usize> {
        match self.matrix {
            0 => vec![size, hidden],
            1 => vec![size],
            2 => vec![hidden, size],
            _ => vec![hidden],
        }
    }

    /// The hidden size of a model whose tensor has this shape, if that tells.
    pub fn hidden_of(&self, shape: &[usize]) -> Option<usize> {
        match self.matrix {
            0 => shape.get(1).copied(),
            1 => None,
            _ => shape.first().copied(),
        }
    }
}

/// What a key of a file names; `None` if it is no part of a bottleneck of this adapter.
pub fn of_key(key: &str, adapter: &str) -> Option<Key> {
    let (layer, rest) = BEFORE.iter().find_map(|before| within_layer(key.strip_prefix(before)?))?;
    let place = Place::ALL.into_iter().find(|place| rest.starts_with(place.module()))?;
    let end = rest.strip_prefix(place.module())?.strip_prefix(".adapters.")?.strip_prefix(adapter)?.strip_prefix('.')?;
    let matrix = MATRICES.iter().position(|(_, known)| *known == end)?;
    let name = format!("layers.{layer}.{}.{}", place.site(), MATRICES[matrix].0);
    Some(Key { name, layer, place, matrix })
}

/// `layers.3.mlp.down_proj.adapter_up` as a file has it; `None` for what is no such name.
pub fn in_file(name: &str, text_path: &str, adapter: &str) -> Option<String> {
    let (site, own) = name.rsplit_once('.')?;
    let (_, end) = MATRICES.iter().find(|(known, _)| *known == own)?;
    let place = Place::ALL.into_iter().find(|place| site.ends_with(place.site()))?;
    let layer = site.strip_suffix(place.site())?;
    Some(format!("model.{text_path}{layer}{}.adapters.{adapter}.{end}", place.module()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for name in ["layers.3.mlp.down_proj.adapter_up_bias", "layers.10.self_attn.o_proj.adapter_down"] {
            let key = in_file(name, "", "mine").unwrap();
            assert_eq!(of_key(&key, "mine").unwrap().name, name);
            assert_eq!(of_key(&key, "min"), None);
            assert_eq!(of_key(&in_file(name, "language_model.", "mine").unwrap(), "mine").unwrap().name, name);
            assert_eq!(of_key(key.strip_prefix("model.").unwrap(), "mine").unwrap().name, name);
        }
        let key = "model.layers.0.attention_adapters.adapters.a.adapter_down.0.weight";
        assert_eq!(in_file("layers.0.self_attn.o_proj.adapter_down", "", "a").unwrap(), key);
        for other in ["model.layers.00.output_adapters.adapters.a.adapter_up.bias", "model.invertible_adapters.a.F.0.weight"] {
            assert_eq!(of_key(other, "a"), None);
        }
        assert_eq!(in_file("layers.0.mlp.up_proj.adapter_up", "", "a"), None);
    }
}
