//! Which modules `adapter_config.json` and `--target-modules` mean: what PEFT adapts with the same words, by `tools/reference/targets.py`.

use std::fs;
use std::path::{Path, PathBuf};

use graftling::adapter::targets::{chosen_sites, parse_patterns};
use graftling::adapter::{LoadedAdapter, Piece};
use graftling::architecture::{Architecture, Site, sites};
use serde_json::{Value, json};

use super::{message, tiny};

/// What PEFT does with one configuration on one model.
struct Case<'a> {
    name: String,
    config: &'a Value,
    model: &'a Architecture,
    /// Whether PEFT adapts each of `sites(model)`; `None` for an error of PEFT.
    adapted: Option<Vec<bool>>,
    /// Other modules that it adapts, such as `lm_head`.
    others: bool,
    /// Of the adapted modules in their order.
    ranks: Vec<usize>,
    scales: Vec<f64>,
}

fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference")
}

fn each_case(check: impl Fn(&Case) -> Option<String>) {
    let fixture: Value = serde_json::from_str(&fs::read_to_string(reference().join("targets.json")).unwrap()).unwrap();
    let mut problems = Vec::new();
    for (family, modules) in fixture["modules"].as_object().unwrap() {
        let config = fs::read_to_string(reference().join("families").join(family).join("config.json")).unwrap();
        let model = Architecture::from_json_str(&config).unwrap();
        // Where each of our modules stands among PEFT's.
        let modules: Vec<&str> = modules.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let place = |site: &Site| modules.iter().position(|name| *name == format!("model.{}", site.name())).unwrap();
        let places: Vec<usize> = sites(&model).iter().map(place).collect();
        assert_eq!(places.len(), modules.len(), "{family}");
        for case in fixture["cases"].as_array().unwrap() {
            let peft = &case["peft"][family];
            let row = peft["adapted"].as_str().map(|row| row.bytes().map(|byte| byte == b'1').collect::<Vec<_>>());
            // A value for each adapted module, in PEFT's order, as one in ours.
            let in_order = |values: &Value, usual: f64| -> Vec<f64> {
                let row = row.iter().flat_map(|row| places.iter().filter(|place| row[**place]).map(move |place| (row, *place)));
                let among = row.map(|(row, place)| row[..place].iter().filter(|adapted| **adapted).count());
                among.map(|at| values.get(at).map_or(usual, |value| value.as_f64().unwrap())).collect()
            };
            let case = Case {
                name: format!("{family} {}", case["config"]),
                config: &case["config"],
                model: &model,
                adapted: row.as_ref().map(|row| places.iter().map(|place| row[*place]).collect()),
                others: peft["others"].is_array(),
                ranks: in_order(&peft["ranks"], 2.0).into_iter().map(|rank| rank as usize).collect(),
                scales: in_order(&peft["scales"], 2.0),
            };
            problems.extend(check(&case).map(|problem| format!("{}: {problem}", case.name)));
        }
    }
    assert!(problems.is_empty(), "{} differ:\n{}", problems.len(), problems.join("\n"));
}

impl Case<'_> {
    /// The modules that PEFT adapts, with rank and scale.
    fn chosen(&self) -> Vec<(Site, usize, f64)> {
        let all = sites(self.model).into_iter().zip(self.adapted.iter().flatten());
        let chosen = all.filter(|(_, adapted)| **adapted).map(|(site, _)| site);
        chosen.zip(&self.ranks).zip(&self.scales).map(|((site, rank), scale)| (site, *rank, *scale)).collect()
    }

    /// An adapter's folder with this configuration and the tensors of these modules, read: the adapted modules with rank and scale.
    fn load(&self, tensors_of: &[(Site, usize)]) -> Result<Vec<(String, usize, f64)>, String> {
        let folder = tempfile::tempdir().unwrap();
        let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4});
        for (key, value) in self.config.as_object().unwrap() {
            config[key] = value.clone();
        }
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: [usize; 2]| {
            let name = format!("base_model.model.{name}.weight");
            tensors.push((name, "F32", shape.to_vec(), vec![0; shape[0] * shape[1] * 4]));
        };
        for (site, r) in tensors_of {
            add(format!("model.{}.lora_A", site.name()), [*r, site.in_features]);
            add(format!("model.{}.lora_B", site.name()), [site.out_features, *r]);
        }
        for whole in config["modules_to_save"].as_array().into_iter().flatten() {
            let path = if whole == "lm_head" { "lm_head" } else { "model.embed_tokens" };
            add(path.to_owned(), [self.model.vocab_size, self.model.hidden_size]);
        }
        fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
        fs::write(folder.path().join("adapter_model.safetensors"), tiny::safetensors(&tensors)).unwrap();
        let placement = LoadedAdapter::load(folder.path(), self.model).map_err(|error| error.to_string())?.placement;
        let piece = |piece: &Piece| (piece.site.name(), piece.method.lora().unwrap().r, piece.method.lora().unwrap().scale);
        Ok(placement.pieces.iter().map(piece).collect())
    }
}

/// Whether a regular expression is none, needs a backtracking engine or reads otherwise in Rust: as an option it is refused, and of a file it
/// says nothing, so that the tensors decide.
fn cannot_be_read(config: &Value) -> bool {
    ["target_modules", "exclude_modules"].iter().any(|key| {
        let text = config[key].as_str().unwrap_or_default();
        ["(?!", "(?<!", r"\1", r"\Z", "*+", "{,", "[o[]", "&&", "*(o_proj"].iter().any(|part| text.contains(part))
    })
}

#[test]
fn an_adapter_means_the_modules_that_peft_adapts() {
    each_case(|case| {
        let chosen = case.chosen();
        if chosen.is_empty() || case.others {
            return None;
        }
        let tensors: Vec<(Site, usize)> = chosen.iter().map(|(site, r, _)| (site.clone(), *r)).collect();
        let expected: Vec<_> = chosen.iter().map(|(site, r, scale)| (site.name(), *r, *scale)).collect();
        match case.load(&tensors) {
            Ok(adapted) if adapted == expected => {}
            Ok(adapted) => return Some(format!("{adapted:?} instead of {expected:?}")),
            Err(error) => return Some(error),
        }
        // Without those of the last one.
        if tensors.len() > 1 && !cannot_be_read(case.config) && case.load(&tensors[..tensors.len() - 1]).is_ok() {
            return Some("is read although a module lacks its tensors".to_owned());
        }
        None
    });
}

/// PEFT uses no tensor of a module that the configuration does not choose.
#[test]
fn tensors_of_modules_that_are_not_chosen_are_refused() {
    each_case(|case| {
        let chosen = case.chosen();
        let rank_of = |site: &Site| chosen.iter().find(|(known, ..)| known.number == site.number).map_or(2, |(_, r, _)| *r);
        let all: Vec<(Site, usize)> = sites(case.model).into_iter().map(|site| (site.clone(), rank_of(&site))).collect();
        let expected: Vec<_> = chosen.iter().map(|(site, r, scale)| (site.name(), *r, *scale)).collect();
        match case.load(&all) {
            Ok(adapted) if case.adapted.is_some() && adapted == expected => None,
            // PEFT refuses this one since modules are meant that are not linear, so that nothing it wrote has it.
            Ok(_) if case.config["target_modules"] == ".*" || cannot_be_read(case.config) => None,
            Ok(adapted) => Some(format!("{} modules are adapted, by PEFT {}", adapted.len(), expected.len())),
            Err(_) => None,
        }
    });
}

#[test]
fn options_choose_the_modules_that_peft_adapts() {
    each_case(|case| {
        let words = |key: &str| match &case.config[key] {
            Value::String(text) => vec![text.clone()],
            Value::Array(names) => names.iter().map(|name| name.as_str().unwrap().to_owned()).collect(),
            _ => Vec::new(),
        };
        // An option is not a list or a text: a name alone is a name, and signs make it a regular expression. Layers and ranks have options
        // with their own words.
        let plain = |text: &str| text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
        let otherwise = |key: &str| match &case.config[key] {
            Value::String(text) => plain(text),
            names => names.as_array().is_some_and(|names| !names.iter().all(|name| plain(name.as_str().unwrap()))),
        };
        let others = ["layers_to_transform", "layers_pattern", "modules_to_save", "rank_pattern", "alpha_pattern"];
        if others.iter().any(|key| !case.config[key].is_null()) || otherwise("target_modules") || otherwise("exclude_modules") {
            return None;
        }
        let expected: Vec<String> = case.chosen().into_iter().map(|(site, ..)| site.name()).collect();
        match chosen_sites(&words("target_modules"), &words("exclude_modules"), None, case.model) {
            // As options, these mean the linear layers within; PEFT refuses the modules around them.
            Ok(_) if [json!(r".*\.mlp\..*"), json!(".*self_attn.*")].contains(&case.config["target_modules"]) => None,
            Ok(_) if cannot_be_read(case.config) => Some("is read".to_owned()),
            Ok(chosen) => {
                let names: Vec<String> = chosen.iter().map(Site::name).collect();
                (names != expected || case.others).then(|| format!("{} are chosen, by PEFT {}", names.len(), expected.len()))
            }
            Err(error) => {
                let named = ["--target-modules", "--exclude-modules"].iter().any(|option| error.to_string().contains(option));
                (!named).then(|| error.to_string())
            }
        }
    });
}

/// Options mean experts by the paths of PEFT's modules: all of a layer, or none.
#[test]
fn options_mean_all_experts_of_a_layer_or_none() {
    let config = fs::read_to_string(reference().join("families/qwen3_moe/config.json")).unwrap();
    let model = Architecture::from_json_str(&config).unwrap();
    let chosen = |target: &str, excluded: &[String]| chosen_sites(&[target.to_owned()], excluded, None, &model);
    let experts: Vec<Site> =
        sites(&model).into_iter().filter(|site| site.experts.is_some() && site.module == "gate_proj").collect();
    assert!(!experts.is_empty());
    for target in [r".*experts\.\d+\.gate_proj", r".*mlp\.experts\.gate_proj", "gate_proj"] {
        assert_eq!(chosen(target, &[]).unwrap(), experts, "{target}");
    }
    let text = message(chosen(r".*experts\.0\.gate_proj", &[]));
    assert!(text.contains("--target-modules") && text.contains("means 1 of the") && text.contains(r"\d+"), "{text}");
    let text = message(chosen("gate_proj", &[r".*experts\.[12]\..*".to_owned()]));
    assert!(text.contains("--exclude-modules") && text.contains("means 2 of the"), "{text}");

    let paths = |site: &Site| graftling::formats::peft::module_paths(&site.name(), site.experts.unwrap_or(0), "");
    let layers: Vec<Vec<String>> = experts.iter().map(paths).collect();
    let ranks = |text: &str| parse_patterns::<usize>("--rank-pattern", text, |_| true, 8, &layers);
    for text in [r"experts\.\d+\.gate_proj=2", "gate_proj=2", "layers.0.mlp.experts.1.gate_proj=8"] {
        ranks(text).unwrap();
    }
    // What is saved would mean no module of PEFT's, or one expert alone.
    for (text, problem) in [
        ("experts.gate_proj=2", "`experts.gate_proj` is the end of no adapted module's name"),
        ("layers.0.mlp.experts.1.gate_proj=2", "gives model.layers.0.mlp.experts.1.gate_proj another value"),
    ] {
        let text = message(ranks(text));
        assert!(text.contains("--rank-pattern") && text.contains(problem) && text.contains(r"experts\.\d+\.gate_proj"), "{text}");
    }
}
