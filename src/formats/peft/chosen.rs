//! Which modules `adapter_config.json` means, by PEFT's rules, compared with those of which there are tensors.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use regex::Regex;

use super::patterns::{Modules, compiled, ends};
use super::{AdapterConfig, CONFIG, WRONG_ADAPTER, fused, means_routers, names};
use crate::{Error, Result};

/// More layers, and more kinds of linear modules in a layer, than a model has.
const MOST_LAYERS: usize = 10_000;
const MOST_KINDS: usize = 100;

/// Of each adapted layer the whole names in a file of the modules that it is there.
pub(super) type Paths = BTreeMap<String, BTreeSet<String>>;

/// The keys by which a file chooses modules.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    pub(super) targets: Option<Modules>,
    pub(super) excluded: Option<Modules>,
    /// `layers_to_transform`; `None` for all.
    pub(super) layers: Option<BTreeSet<usize>>,
    /// `layers_pattern`: regular expressions for what stands before a layer's number.
    pub(super) before_layers: Vec<String>,
    /// Of `target_parameters`: names that mean gate_up_proj and down_proj of experts.
    pub(super) parameters: Vec<String>,
}

/// Two configurations are equal if the same modules are adapted; this is only how one file says it.
impl PartialEq for Chosen {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Chosen {
    /// Whether `target_parameters` means the parameter with this path (`model.layers.3.mlp.experts.down_proj`).
    pub(super) fn means_parameter(&self, path: &str) -> bool {
        ends(path).any(|end| self.parameters.iter().any(|name| name == end))
    }

    /// A test of the paths of linear modules in layers; `None` where no file has said anything.
    ///
    /// # Errors
    /// A key that is no regular expression here, and the problem.
    pub fn matcher(&self) -> std::result::Result<Option<impl Fn(&str) -> bool + '_>, (&'static str, String)> {
        let Some(targets) = &self.targets else { return Ok(None) };
        let key = |key| move |problem| (key, problem);
        let all = matches!(targets, Modules::Pattern(pattern) if pattern.eq_ignore_ascii_case("all-linear"));
        let is_target = targets.matcher().map_err(key("target_modules"))?;
        let excluded = self.excluded.as_ref().map(Modules::matcher).transpose().map_err(key("exclude_modules"))?;
        let of_layer = |before: &String| compiled(&format!(r"^(?:(?:|.*?\.){before}\.(?P<layer>\d+)\.)"), before);
        let of_layer = match self.before_layers.is_empty() {
            true => vec![compiled(r"^.*?\.[^.]*\.(?P<layer>\d+)\.", "").map_err(key("layers_pattern"))?],
            false => {
                self.before_layers.iter().map(of_layer).collect::<std::result::Result<_, _>>().map_err(key("layers_pattern"))?
            }
        };
        Ok(Some(move |path: &str| {
            // Parameters are chosen by their names alone.
            if fused::parameter_of(path).is_some_and(|parameter| self.means_parameter(&parameter)) {
                return true;
            }
            if excluded.as_ref().is_some_and(|excludes| excludes(path)) {
                return false;
            }
            // PEFT compares layers only with those that a name's end has chosen.
            let whole = || matches!(targets, Modules::Listed(names) if names.iter().any(|name| name == path));
            let in_layers = || self.layers.as_ref().is_none_or(|layers| in_layers(layers, &of_layer, path));
            all || (is_target(path) && (in_layers() || whole()))
        }))
    }

    /// The listed names that are the end of none of `paths`: PEFT writes the list that it was given, also with modules of other families.
    pub fn without_module<'c>(&'c self, paths: &'c [String]) -> impl Iterator<Item = &'c str> {
        let names = match &self.targets {
            Some(Modules::Listed(names)) => names.as_slice(),
            _ => &[],
        };
        let meant: HashSet<&str> = paths.iter().flat_map(|path| ends(path)).collect();
        names.iter().map(String::as_str).filter(move |name| !meant.contains(name))
    }
}

fn in_layers(layers: &BTreeSet<usize>, of_layer: &[Regex], path: &str) -> bool {
    let Some(found) = of_layer.iter().find_map(|pattern| pattern.captures(path)) else { return false };
    found.name("layer").and_then(|layer| layer.as_str().parse().ok()).is_some_and(|layer: usize| layers.contains(&layer))
}

/// Sets modules and layers to what the tensors say, and compares them with what the config says. `paths`: of each adapted layer
/// (`layers.3.self_attn.q_proj`) its whole name in the file, or those of its experts.
pub(super) fn adopt_modules(path: &Path, config: &mut AdapterConfig, paths: &Paths) -> Result<()> {
    let bad = |place: String, problem: String| Error::bad_input(place, problem, WRONG_ADAPTER);
    let layer_of = |site: &str| site.split('.').nth(1).and_then(|layer| layer.parse::<usize>().ok()).unwrap_or_default();
    // The module's own name, and what it hangs on in its layer.
    let home_of = |site: &str| {
        let (home, module) = site.splitn(3, '.').nth(2).and_then(|within| within.rsplit_once('.')).unwrap_or_default();
        (module.to_owned(), home.to_owned())
    };
    let homes: BTreeSet<(String, String)> = paths.keys().map(|site| home_of(site)).collect();
    let layers: BTreeSet<usize> = paths.keys().map(|site| layer_of(site)).collect();
    if homes.len() > MOST_KINDS {
        let problem = format!("has tensors of {} kinds of modules, more than any model has", homes.len());
        return Err(bad(path.display().to_string(), problem));
    }
    let chosen = std::mem::take(&mut config.chosen);
    let means = chosen.matcher().unwrap_or_else(|(key, problem)| {
        tracing::warn!("{}: {CONFIG}: key `{key}`: {problem}: the modules are those that have tensors", path.display());
        None
    });
    // A file of transformers 4 has the names of that time, and its words may be about today's.
    let first = paths.values().flatten().next().and_then(|path| path.split_once("layers."));
    let before = first.map_or_else(|| names::path("", ""), |(before, _)| before.to_owned());
    let today = names::path("", if before.contains(names::TEXT_PART) { names::TEXT_PART } else { "" });
    let is_meant = |path: &str| {
        let within = path.find("layers.").map_or(path, |at| &path[at..]);
        means.as_ref().is_none_or(|means| means(path) || means(&format!("{today}{within}")))
    };
    // PEFT makes no adapter for a module that is not chosen, and so uses none of its tensors.
    if let Some((site, _)) = paths.iter().find(|(_, paths)| !paths.iter().all(|path| is_meant(path))) {
        let keys = "target_modules, exclude_modules and layers_to_transform";
        let problem =
            format!("has tensors of {} in layer {}, which {CONFIG} does not choose by {keys}", home_of(site).0, layer_of(site));
        return Err(bad(path.display().to_string(), problem));
    }
    let of = |layer: usize, (module, home): &(String, String)| format!("layers.{layer}.{home}.{module}");
    let product = layers.iter().flat_map(|layer| homes.iter().map(|home| (*layer, &home.0, of(*layer, home))));
    // A layer may have a module of this name in another place: experts, or one MLP.
    let elsewhere =
        |layer: usize, module: &str| homes.iter().any(|home| home.0 == module && paths.contains_key(&of(layer, home)));
    let lacking: Vec<(usize, &String, String)> =
        product.filter(|(layer, module, site)| !paths.contains_key(site) && !elsewhere(*layer, module)).collect();
    // The first expert stands for all.
    let experts = config.experts.min(1);
    let means_for_sure =
        |site: &str| means.is_some() && names::modules(site, experts).iter().all(|module| is_meant(&format!("{before}{module}")));
    // A layer without experts has no router, nor anything in its place.
    let is_owed = |(_, module, site): &&(usize, &String, String)| !means_routers(module) && means_for_sure(site);
    if let Some((layer, module, _)) = lacking.iter().find(is_owed) {
        let problem = format!("has no tensors in layer {layer}, where {CONFIG} means it too");
        return Err(bad(format!("{}: module {module}", path.display()), problem));
    }
    // The number of layers is not known here; the one after the last stands for all that follow.
    let is_list = matches!(chosen.targets, Some(Modules::Listed(_)));
    let last = layers.last().copied().unwrap_or(0);
    let mut others = (0..=last.saturating_add(1)).filter(|layer| !layers.contains(layer));
    let means_every_layer =
        is_list && last < MOST_LAYERS && others.all(|layer| homes.iter().all(|home| means_for_sure(&of(layer, home))));
    config.layers_to_transform = (!means_every_layer).then(|| layers.into_iter().collect());
    // By their own names, modules in all places are meant.
    let by_names = matches!(&chosen.targets, Some(Modules::Listed(names)) if names.iter().all(|name| !name.contains('.')))
        && chosen.parameters.is_empty();
    let is_module = |(module, home): &&(String, String)| home.contains('.') && !config.parameters.contains(module);
    let in_many_places = homes.iter().any(|home| is_module(&home)) && !by_names;
    config.only = (!lacking.is_empty() || in_many_places).then(|| paths.keys().cloned().collect());
    config.target_modules = homes.into_iter().map(|(module, _)| module).collect::<BTreeSet<_>>().into_iter().collect();
    drop(means);
    config.chosen = chosen;
    Ok(())
}
