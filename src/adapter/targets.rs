//! Which modules of which layers are adapted, as users write it: `--target-modules attention,down_proj --layers 8-15,20`.

use std::collections::BTreeSet;

use crate::{
    Error, Result,
    architecture::{Architecture, Part, linear_modules},
    nearest::nearest,
};

/// The modules of a model's layers that `names` mean, in the order of a forward pass, each once.
///
/// A name is a module (`q_proj`; `qkv_proj` and `gate_up_proj` in Phi-3), or `attention`, `mlp`, `all-linear`; one string may hold several,
/// separated by commas.
///
/// # Errors
/// [`Error::BadInput`] for an unknown name, listing the known ones and the one that is spelled most alike; also for no name.
pub fn expand_target_modules(names: &[String], model: &Architecture) -> Result<Vec<String>> {
    let modules: Vec<(&'static str, Part)> = linear_modules(model).iter().map(|site| (site.module, site.part)).collect();
    let mut chosen = BTreeSet::new();
    for name in names.iter().flat_map(|names| names.split(',')).map(str::trim).filter(|name| !name.is_empty()) {
        let meant = modules.iter().enumerate().filter(|(_, (module, part))| match name {
            "all-linear" => true,
            "attention" => *part == Part::Attention,
            "mlp" => *part == Part::Mlp,
            _ => name == *module,
        });
        let indices: Vec<usize> = meant.map(|(index, _)| index).collect();
        if indices.is_empty() {
            return Err(unknown_module(name, &modules));
        }
        chosen.extend(indices);
    }
    if chosen.is_empty() {
        let proposal = format!("Give one or more of: {}.", known_names(&modules).join(", "));
        return Err(Error::bad_input("--target-modules", "names no module", proposal));
    }
    Ok(chosen.into_iter().map(|index| modules[index].0.to_owned()).collect())
}

fn known_names(modules: &[(&'static str, Part)]) -> Vec<&'static str> {
    modules.iter().map(|(name, _)| *name).chain(["attention", "mlp", "all-linear"]).collect()
}

fn unknown_module(name: &str, modules: &[(&'static str, Part)]) -> Error {
    let known = known_names(modules);
    let guess = nearest(name, &known).map_or(String::new(), |closest| format!("Did you mean `{closest}`? "));
    let proposal = format!("{guess}Known: {}.", known.join(", "));
    Error::bad_input("--target-modules", format!("`{name}` is no module that can be adapted"), proposal)
}

/// The layers that `text` means in a model with `num_layers` layers, sorted, each once: `8-15,20`, counted from 0, both ends
/// included.
///
/// # Errors
/// [`Error::BadInput`] if a part is no number or range, a range runs backwards, a layer does not exist, or nothing is named.
pub fn parse_layers(text: &str, num_layers: usize) -> Result<Vec<usize>> {
    let last = num_layers.saturating_sub(1);
    let bad = |problem: String| {
        Error::bad_input("--layers", problem, format!("Give layers from 0 to {last}, such as `0-{last}` or `0,{last}`."))
    };
    let mut layers = BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let number = |text: &str| {
            text.trim().parse::<usize>().map_err(|_| bad(format!("`{part}` is neither a layer nor a range of layers")))
        };
        let (first, end) = match part.split_once('-') {
            Some((first, end)) => (number(first)?, number(end)?),
            None => (number(part)?, number(part)?),
        };
        if first > end {
            return Err(bad(format!("the range `{part}` runs backwards")));
        }
        if end >= num_layers {
            return Err(bad(format!("layer {end} does not exist: the model has {num_layers} layers, 0 to {last}")));
        }
        layers.extend(first..=end);
    }
    if layers.is_empty() {
        return Err(bad(format!("`{text}` names no layer")));
    }
    Ok(layers.into_iter().collect())
}
