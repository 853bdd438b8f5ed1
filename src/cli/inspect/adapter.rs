//! `graftling inspect ADAPTER`: what the folder of an adapter says of it, and what its tensors are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use graftling::Result;
use graftling::adapter::added_tokens;
use graftling::formats::adapter_file::AdapterFile;
use graftling::formats::peft::{AdapterTensor, CONFIG, module_paths, raw_config};
use graftling::train::tell::about::About;
use serde_json::{Map, Value, json};

use super::tables::{aligned, binary_size, grouped, row};

/// Keys of it that are shown whatever they say, in this order; of the others those that are on.
const SHOWN: [&str; 17] = [
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "use_dora",
    "init_lora_weights",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "trainable_token_indices",
    "bias",
    "lora_bias",
    "lora_dropout",
];

/// Where AdapterHub's file has the method's own options.
const INNER: &str = "config";

/// Tokens that the report for people names.
const NAMED: usize = 12;

/// Keys that say how others run or file it.
const NOT_SHOWN: [&str; 6] = ["peft_type", "task_type", "inference_mode", "auto_mapping", "fan_in_fan_out", "revision"];

/// What a run of graftling depended on that an adapter's own files do not say.
const OF_THE_RUN: [&str; 9] = [
    "init_lora_weights",
    "loraplus_lr_ratio",
    "router_aux_loss_coef",
    "learning_rate",
    "lr_schedule",
    "batch_size",
    "gradient_accumulation_steps",
    "max_steps",
    "weights",
];

/// Whether a place is the folder of an adapter, and not of a model beside which an adapter lies.
pub(super) fn is_adapter(place: &str) -> bool {
    let folder = Path::new(place);
    folder.join(CONFIG).is_file() && !folder.join("config.json").exists()
}

/// An adapter's folder.
pub(super) struct Found {
    folder: String,
    config: Map<String, Value>,
    /// As graftling understands it, or why it does not.
    used: Result<(AdapterFile, Vec<AdapterTensor>)>,
    /// The tokens that it adds, by their ids.
    named: BTreeMap<u32, String>,
    run: Option<About>,
}

/// The modules of one name.
#[derive(Default)]
struct Modules {
    sites: BTreeSet<String>,
    layers: BTreeSet<usize>,
    ranks: BTreeSet<usize>,
    /// As text: the same numbers are the same text.
    scales: BTreeSet<String>,
    parameters: u64,
}

impl Found {
    /// Reads it. What graftling cannot use is described as far as its configuration goes.
    ///
    /// # Errors
    /// Bad input: the configuration is no JSON object.
    pub(super) fn read(place: &str) -> Result<Self> {
        let folder = Path::new(place);
        // Names are a help; an adapter is described without them as well.
        let named = added_tokens::all(folder).unwrap_or_default();
        Ok(Self {
            folder: place.to_owned(),
            config: raw_config(folder)?,
            used: AdapterFile::load(folder),
            named: named.into_iter().map(|(id, token)| (id, token.content)).collect(),
            run: About::read(folder),
        })
    }

    fn method(&self) -> String {
        let is_on = |key: &str| self.config.get(key) == Some(&Value::Bool(true));
        if let Ok((AdapterFile::AdapterHub(_), _)) = &self.used {
            return "bottlenecks of AdapterHub".to_owned();
        }
        match self.config.get("peft_type").and_then(Value::as_str) {
            Some("LORA") if is_on("use_dora") => "DoRA".to_owned(),
            Some("LORA") if is_on("use_rslora") => "LoRA, rank-stabilised".to_owned(),
            Some("LORA") => "LoRA".to_owned(),
            Some(other) => other.to_owned(),
            None => "of no method that it names".to_owned(),
        }
    }

    /// The modules by name, and whole matrices by theirs.
    fn modules(&self) -> BTreeMap<String, Modules> {
        let mut all: BTreeMap<String, Modules> = BTreeMap::new();
        let Ok((file, tensors)) = &self.used else { return all };
        for tensor in tensors {
            let (site, own) = tensor.name.rsplit_once('.').unwrap_or((&tensor.name, ""));
            let name = site.rsplit('.').next().unwrap_or(site);
            let modules = all.entry(name.to_owned()).or_default();
            modules.parameters += tensor.values.len() as u64;
            modules.sites.insert(site.to_owned());
            let Some(layer) = site.split('.').nth(1).and_then(|number| number.parse().ok()) else { continue };
            modules.layers.insert(layer);
            let (rank, scale) = match file {
                AdapterFile::Peft(config) if own.starts_with("lora_") => {
                    // By what is used of the adapter, all experts of a layer are alike.
                    let path = &module_paths(site, config.experts, config.text_path)[0];
                    (config.rank_of(path), config.scale_of(path))
                }
                AdapterFile::AdapterHub(config) if own == "adapter_down" => (tensor.shape[0], config.scaling),
                _ => continue,
            };
            modules.ranks.insert(rank);
            modules.scales.insert(format!("{scale:.4}").trim_end_matches('0').trim_end_matches('.').to_owned());
        }
        all
    }

    /// By matrix, the tokens that have rows of their own.
    fn token_rows(&self) -> impl Iterator<Item = (&String, &Vec<u32>)> {
        let config = match &self.used {
            Ok((AdapterFile::Peft(config), _)) => Some(config),
            _ => None,
        };
        config.into_iter().flat_map(|config| &config.token_indices)
    }

    /// What is set beside what is always shown.
    fn others(&self) -> impl Iterator<Item = (&String, &Value)> {
        let is_on = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        };
        let known = |key: &str| SHOWN.contains(&key) || NOT_SHOWN.contains(&key) || key == INNER;
        let inner = self.config.get(INNER).and_then(Value::as_object).into_iter().flatten();
        self.config.iter().chain(inner).filter(move |(key, value)| !known(key) && is_on(value))
    }

    /// Options of the run that wrote it, where it was one of graftling's and is remembered.
    fn run_options(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let options = self.run.iter().flat_map(|run| OF_THE_RUN.map(|key| (key, run.options.get(key))));
        options.filter_map(|(key, value)| Some((key, value.filter(|value| *value != "null")?)))
    }

    /// The report as one JSON document.
    pub(super) fn json(&self) -> Value {
        let modules = self.modules();
        let of_name = |(name, found): (&String, &Modules)| {
            json!({
                "module": name,
                "count": found.sites.len(),
                "layers": found.layers,
                "ranks": found.ranks,
                "scales": found.scales.iter().filter_map(|scale| scale.parse::<f64>().ok()).collect::<Vec<_>>(),
                "parameters": found.parameters,
            })
        };
        let of_rows = |(matrix, tokens): (&String, &Vec<u32>)| {
            let token = |id: &u32| json!({ "id": id, "token": self.named.get(id) });
            (matrix.clone(), tokens.iter().map(token).collect::<Value>())
        };
        json!({
            "adapter": self.folder,
            "method": self.method(),
            "config": self.config,
            "usable": self.used.is_ok(),
            "problem": self.used.as_ref().err().map(ToString::to_string),
            "parameters": modules.values().map(|found| found.parameters).sum::<u64>(),
            "modules": modules.iter().map(of_name).collect::<Vec<_>>(),
            "trainable_token_indices": self.token_rows().map(of_rows).collect::<Map<_, _>>(),
            "run": self.run.as_ref().map(|run| json!({
                "model": run.model,
                "data": run.data,
                "total_steps": run.total_steps,
                "options": self.run_options().collect::<BTreeMap<_, _>>(),
            })),
        })
    }

    /// The report for people.
    pub(super) fn text(&self) -> String {
        let mut out = format!("{}\n  an adapter: {}\n", self.folder, self.method());
        let plain = |value: &Value| match value {
            Value::Null => "none".to_owned(),
            Value::String(text) => text.clone(),
            Value::Array(list) if list.is_empty() => "none".to_owned(),
            Value::Object(map) if map.is_empty() => "none".to_owned(),
            Value::Array(list) => list.iter().map(Value::to_string).collect::<Vec<_>>().join(", ").replace('"', ""),
            Value::Object(map) => map.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        };
        let mut table = vec![row(["Option", ""])];
        let shown = SHOWN.iter().filter_map(|key| Some((*key, self.config.get(*key)?)));
        for (key, value) in shown.chain(self.others().map(|(key, value)| (key.as_str(), value))) {
            table.push(row([key, &plain(value)]));
        }
        out += &left(&table);
        match &self.used {
            Err(error) => out += &format!("\nGraftling cannot use it: {error}\n"),
            Ok(_) => {
                let modules = self.modules();
                let joined = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(", ");
                let mut table = vec![row(["Module", "of them", "layers", "rank", "scale", "parameters"])];
                for (name, found) in &modules {
                    let ranks = joined(&found.ranks.iter().map(ToString::to_string).collect());
                    table.push(row([
                        name,
                        &found.sites.len().to_string(),
                        &ranges(&found.layers),
                        &ranks,
                        &joined(&found.scales),
                        &grouped(found.parameters),
                    ]));
                }
                let all: u64 = modules.values().map(|found| found.parameters).sum();
                table.push(row(["total", "", "", "", "", &grouped(all)]));
                out += &aligned(&table);
                out += &format!("  {} in f32\n", binary_size(4 * all));
            }
        }
        for (matrix, tokens) in self.token_rows() {
            let named = tokens.iter().take(NAMED).map(|id| match self.named.get(id) {
                Some(token) => format!("{token} ({id})"),
                None => id.to_string(),
            });
            let more = if tokens.len() > NAMED { ", ..." } else { "" };
            out += &format!("  rows of {matrix} for {} tokens: {}{more}\n", tokens.len(), named.collect::<Vec<_>>().join(", "));
        }
        if let Some(run) = &self.run {
            out += &format!("\nTrained by graftling on {}, {} steps, data {}\n", run.model, run.total_steps, run.data.join(", "));
            let options: Vec<String> =
                self.run_options().map(|(key, value)| format!("{key} {}", value.trim_matches('"'))).collect();
            out += &format!("  {}\n", options.join(", "));
        }
        out
    }
}

/// A table of two columns, both to the left.
fn left(rows: &[Vec<String>]) -> String {
    let width = rows.iter().filter_map(|row| row.first()).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let line = |row: &Vec<String>| format!("  {:<width$}  {}", row[0], row[1]).trim_end().to_owned() + "\n";
    format!("\n{}", rows.iter().skip(1).map(line).collect::<String>())
}

/// `0-3, 8, 10-11`; nothing of nothing.
fn ranges(numbers: &BTreeSet<usize>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let text = |(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_told_as_ranges() {
        let of = |numbers: &[usize]| ranges(&numbers.iter().copied().collect());
        assert_eq!([of(&[]), of(&[4]), of(&[0, 1, 2, 5, 7, 8])], [String::new(), "4".to_owned(), "0-2, 5, 7-8".to_owned()]);
    }
}
