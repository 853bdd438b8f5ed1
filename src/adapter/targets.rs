//! Which modules of which layers are adapted, as users write it: `--target-modules attention,down_proj --layers 8-15,20`.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::{
    Error, Result,
    architecture::{Architecture, Part, Site, linear_modules, routers, sites},
    formats::peft::{ALIKE, Modules, Patterns, module_path, paths_of_site},
    nearest::nearest,
};

/// The modules of a model's layers that `names` mean, in the order of a forward pass, each once.
///
/// A name is a module (`q_proj`; `qkv_proj` and `gate_up_proj` in Phi-3; `gate`, the router of experts), or `attention`, `mlp`, `all-linear`, which
/// leave routers out; one string may hold several, separated by commas.
///
/// # Errors
/// [`Error::BadInput`] for an unknown name, listing the known ones and the one that is spelled most alike; also for no name.
pub fn expand_target_modules(names: &[String], model: &Architecture) -> Result<Vec<String>> {
    let modules = known_modules(model);
    let mut chosen = BTreeSet::new();
    for name in names.iter().flat_map(|names| names.split(',')).map(str::trim).filter(|name| !name.is_empty()) {
        let meant = modules.iter().enumerate().filter(|(_, (module, part))| match name {
            "all-linear" => part.is_some(),
            "attention" => *part == Some(Part::Attention),
            "mlp" => *part == Some(Part::Mlp),
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

/// The modules that can be adapted, each with its part, by which several are meant; routers are meant by their own names alone.
fn known_modules(model: &Architecture) -> Vec<(&'static str, Option<Part>)> {
    let mut modules: Vec<_> = linear_modules(model).iter().map(|site| (site.module, Some(site.part))).collect();
    for site in routers(model) {
        if modules.iter().all(|(module, _)| *module != site.module) {
            modules.push((site.module, None));
        }
    }
    modules
}

fn known_names(modules: &[(&'static str, Option<Part>)]) -> Vec<&'static str> {
    modules.iter().map(|(name, _)| *name).chain(["attention", "mlp", "all-linear"]).collect()
}

fn unknown_module(name: &str, modules: &[(&'static str, Option<Part>)]) -> Error {
    let known = known_names(modules);
    let guess = nearest(name, &known).map_or(String::new(), |closest| format!("Did you mean `{closest}`? "));
    let proposal = format!("{guess}Known: {}.", known.join(", "));
    Error::bad_input("--target-modules", format!("`{name}` is no module that can be adapted"), proposal)
}

/// What `--target-modules` or `--exclude-modules` means: names, or one regular expression for whole paths of modules.
pub fn modules(names: &[String]) -> Modules {
    let text = names.join(",");
    match text.contains(['*', '\\', '[', '(', '|', '+', '?', '^', '$']) {
        true => Modules::Pattern(text),
        false => Modules::Listed(text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()),
    }
}

/// The linear layers that these options choose, by what PEFT calls them, in the order of a forward pass.
///
/// # Errors
/// [`Error::BadInput`] as [`expand_target_modules`] and [`parse_layers`]; for a pattern that is none, or if nothing is left.
pub fn chosen_sites(
    targets: &[String],
    excluded: &[String],
    layers: Option<&[usize]>,
    model: &Architecture,
) -> Result<Vec<Site>> {
    let bad = |option: &str, problem: String, proposal: &str| Error::bad_input(option, problem, proposal);
    let no_pattern = |option: &'static str| move |problem: String| bad(option, problem, "write it as PEFT takes it");
    let path = |site: &Site| module_path(&site.name(), model.text_path);
    let targets = modules(targets);
    let named = match &targets {
        Modules::Listed(names) => expand_target_modules(names, model)?,
        Modules::Pattern(_) => Vec::new(),
    };
    let matches = targets.matcher().map_err(no_pattern("--target-modules"))?;
    if let Modules::Pattern(_) = targets {
        let others = ["lm_head".to_owned(), format!("model.{}embed_tokens", model.text_path)];
        if let Some(other) = others.iter().find(|other| matches(other)) {
            let problem = format!("means {other} too, which is no linear layer of attention or MLP");
            return Err(bad("--target-modules", problem, "write a narrower pattern; --modules-to-save trains whole matrices"));
        }
    }
    let excluded = modules(excluded);
    let left_out = match &excluded {
        Modules::Listed(names) if names.is_empty() => Modules::Listed(Vec::new()),
        Modules::Listed(names) => Modules::Listed(expand_target_modules(names, model).map_err(|error| match error {
            Error::BadInput { problem, proposal, .. } => Error::bad_input("--exclude-modules", problem, proposal),
            other => other,
        })?),
        pattern => pattern.clone(),
    };
    let is_left_out = left_out.matcher().map_err(no_pattern("--exclude-modules"))?;
    // A layer of experts is meant by its own path, or by those of all of its experts.
    let means = |option: &str, matches: &dyn Fn(&str) -> bool, site: &Site| {
        let paths = paths_of_site(site, model.text_path);
        match paths.iter().filter(|path| matches(path)).count() {
            _ if matches(&path(site)) => Ok(true),
            0 => Ok(false),
            all if all == paths.len() => Ok(true),
            some => {
                let problem =
                    format!("means {some} of the {} experts of {}; graftling adapts all or none", paths.len(), site.name());
                Err(bad(option, problem, r"write \d+ for the number of an expert"))
            }
        }
    };
    let mut chosen = Vec::new();
    let all = sites(model).into_iter().chain(routers(model));
    for site in all.filter(|site| layers.is_none_or(|layers| layers.contains(&site.layer))) {
        let is_chosen = match &targets {
            Modules::Listed(_) => named.iter().any(|name| name == site.module),
            Modules::Pattern(_) => means("--target-modules", &matches, &site)?,
        };
        if is_chosen && !means("--exclude-modules", &is_left_out, &site)? {
            chosen.push(site);
        }
    }
    match chosen.is_empty() {
        false => Ok(chosen),
        true => {
            let example = sites(model).first().map(path).unwrap_or_default();
            let proposal = format!("whole names of modules are such as {example}");
            Err(bad("--target-modules", "chooses nothing in this model".to_owned(), &proposal))
        }
    }
}

/// `q_proj=2,down_proj=6`: values by pattern, of which `usual` stands for all else. `layers`: of each adapted layer what PEFT calls it, or its
/// experts. `option` is named in errors.
///
/// # Errors
/// [`Error::BadInput`] for an entry that is none, a value out of range, a pattern that fits none of `layers`, or other values for some experts
/// of a layer than for the others.
pub fn parse_patterns<T: FromStr + Copy + PartialEq>(
    option: &str,
    text: &str,
    right: impl Fn(&T) -> bool,
    usual: T,
    layers: &[Vec<String>],
) -> Result<Patterns<T>> {
    let bad = |problem: String| Error::bad_input(option, problem, "write it as q_proj=2,down_proj=6");
    let entry = |entry: &str| {
        let problem = || bad(format!("`{entry}` is no name with a possible value"));
        let (key, value) = entry.rsplit_once('=').ok_or_else(problem)?;
        let value = value.trim().parse::<T>().ok().filter(|value| right(value)).ok_or_else(problem)?;
        Ok((key.trim().to_owned(), value))
    };
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(entry).collect::<Result<Vec<_>>>()?;
    let patterns = Patterns::new(entries).map_err(bad)?;
    if let Some(key) = patterns.unused(layers.iter().flatten().map(String::as_str)) {
        let has_experts = layers.iter().any(|paths| paths.len() > 1);
        let proposal = if has_experts { ALIKE } else { "write it as q_proj=2,down_proj=6" };
        return Err(Error::bad_input(option, format!("`{key}` is the end of no adapted module's name"), proposal));
    }
    match layers.iter().find_map(|paths| patterns.of_all(paths, usual).err()) {
        Some(problem) => Err(Error::bad_input(option, problem, ALIKE)),
        None => Ok(patterns),
    }
}

/// The layers that `text` means in a model with `num_layers` layers, sorted, each once: `8-15,20`, counted from 0, both ends
/// included; `early`, `middle` and `late`, a third each; or `30%-70%`, from the layer at 30 % of the depth to the one before 70 %.
///
/// # Errors
/// [`Error::BadInput`] if a part is no number or range, a range runs backwards, a layer does not exist, or nothing is named.
pub fn parse_layers(text: &str, num_layers: usize) -> Result<Vec<usize>> {
    let last = num_layers.saturating_sub(1);
    let bad = |problem: String| {
        Error::bad_input(
            "--layers",
            problem,
            format!(
                "Give layers from 0 to {last}, such as `0-{last}` or `0,{last}`; or early, middle, late, or a share such as 30%-70%."
            ),
        )
    };
    let mut layers = BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        if let Some(share) = share_of_depth(part) {
            let [first, end] = share.ok_or_else(|| bad(format!("`{part}` is no share of the depth")))?;
            let at = |share: f64| ((share * num_layers as f64).round() as usize).min(num_layers);
            if at(first) >= at(end) {
                return Err(bad(format!("`{part}` names no layer")));
            }
            layers.extend(at(first)..at(end));
            continue;
        }
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

/// Where a named or written share of the depth begins and ends, 0 to 1; `None` for text that is no share, `Some(None)` for a wrong one.
fn share_of_depth(text: &str) -> Option<Option<[f64; 2]>> {
    match text {
        "early" => return Some(Some([0.0, 1.0 / 3.0])),
        "middle" => return Some(Some([1.0 / 3.0, 2.0 / 3.0])),
        "late" => return Some(Some([2.0 / 3.0, 1.0])),
        _ if !text.contains('%') => return None,
        _ => {}
    }
    let percent = |text: &str| {
        let share = text.trim().strip_suffix('%')?.parse::<f64>().ok()? / 100.0;
        (0.0..=1.0).contains(&share).then_some(share)
    };
    let ends = || {
        let (first, end) = text.split_once('-')?;
        Some([percent(first)?, percent(end)?])
    };
    Some(ends())
}
