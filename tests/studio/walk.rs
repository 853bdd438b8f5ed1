//! Every address, for every family, quantised folder and kind of adapter among the fixtures: numbers that PyTorch has too, or words that say why
//! there are none and what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use graftling::adapter::LoadedAdapter;
use graftling::architecture::Architecture;
use graftling::formats::hugging_face;
use graftling::studio::api::{Method, routes};
use serde_json::{Value, json};

use super::client::{Answer, Studio};
use super::runs::Workshop;

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference").join(name)
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// The folders in a folder, by name.
fn folders(of: &str) -> Vec<String> {
    let names = std::fs::read_dir(reference(of)).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<String> =
        names.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A model with an adapter or without, and what PyTorch says of a text.
struct Case {
    name: String,
    model: PathBuf,
    adapter: Option<PathBuf>,
    ids: Vec<u32>,
    /// `nll[i]` is -log p(id i+1 | ids 0..i), with the adapter.
    nll: Vec<f64>,
    /// Euclidean norms of the gradients of that text's loss, by the names of the adapter's matrices.
    gradients: BTreeMap<String, f64>,
    /// Whether the text has tokens that the adapter adds.
    adds: bool,
}

impl Case {
    /// A model that comes with an adapter.
    fn of_family(name: &str) -> Self {
        let folder = reference(name);
        let expected = json_of(&folder.join("expected.json"));
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let norm = |data: &[u8], dtype| match dtype {
            safetensors::Dtype::F64 => {
                bytemuck::pod_collect_to_vec::<u8, f64>(data).iter().map(|value| value * value).sum::<f64>()
            }
            safetensors::Dtype::F32 => {
                bytemuck::pod_collect_to_vec::<u8, f32>(data).iter().map(|&value| f64::from(value).powi(2)).sum::<f64>()
            }
            other => panic!("{other:?}"),
        };
        let gradient = |(name, view): (String, safetensors::tensor::TensorView)| {
            Some((name.strip_prefix("gradients.")?.to_owned(), norm(view.data(), view.dtype()).sqrt()))
        };
        Self {
            name: name.to_owned(),
            adapter: Some(folder.join("adapter")),
            model: folder,
            gradients: file.tensors().into_iter().filter_map(gradient).collect(),
            ..Self::of_text(&expected["input_ids"], &expected["adapted"]["token_nll"])
        }
    }

    fn of_quantised(name: &str) -> Self {
        let folder = reference(name);
        let expected = json_of(&folder.join("expected.json"));
        Self {
            name: name.to_owned(),
            adapter: Some(reference("quantised/adapter")),
            model: folder,
            ..Self::of_text(&expected["input_ids"], &expected["adapted"]["token_nll"])
        }
    }

    /// A quantised base without an adapter.
    fn of_bitsandbytes(name: &str) -> Option<Self> {
        let expected = &json_of(&reference("bitsandbytes/expected.json"));
        let (text, nll) = (&expected["records"][0]["input_ids"], &expected["folders"][name]["token_nll"]);
        nll.is_array().then(|| Self {
            name: format!("bitsandbytes/{name}"),
            model: reference("bitsandbytes").join(name),
            ..Self::of_text(text, nll)
        })
    }

    /// An adapter of another kind for one of the models, in the folder `of`.
    fn of_adapter(of: &str, name: &str) -> Self {
        let folder = reference(of).join(name);
        let expected = json_of(&folder.join("expected.json"));
        let model = reference(expected["model"].as_str().unwrap());
        let ids = numbers(&expected["input_ids"]);
        let vocabulary = json_of(&model.join("config.json"))["vocab_size"].as_f64().unwrap();
        Self {
            name: format!("{of}/{name}"),
            model,
            adapter: Some(folder.join("adapter")),
            adds: ids.iter().any(|&id| id >= vocabulary),
            ..Self::of_text(&expected["input_ids"], &expected["token_nll"])
        }
    }

    fn of_text(ids: &Value, nll: &Value) -> Self {
        Self {
            name: String::new(),
            model: PathBuf::new(),
            adapter: None,
            ids: numbers(ids).into_iter().map(|id| id as u32).collect(),
            nll: numbers(nll),
            gradients: BTreeMap::new(),
            adds: false,
        }
    }

    fn architecture(&self) -> Architecture {
        hugging_face::config(&self.model).unwrap()
    }

    /// The model in `folder`, with a tokenizer of its own: the words `w3`, `w4`, ...
    fn put(&self, folder: &Path) -> PathBuf {
        let place = folder.join(self.name.replace('/', "-"));
        std::fs::create_dir_all(&place).unwrap();
        for entry in std::fs::read_dir(&self.model).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
            let name = entry.file_name().unwrap().to_str().unwrap();
            if !name.starts_with("expected.") && !name.ends_with(".gguf") {
                std::fs::copy(&entry, place.join(name)).unwrap();
            }
        }
        let config = json_of(&place.join("config.json"));
        let size = config["text_config"]["vocab_size"].as_u64().or(config["vocab_size"].as_u64()).unwrap();
        let mut tokenizer = super::runs::tokenizer();
        let words = (3..size).map(|id| (format!("w{id}"), json!(id)));
        let special = ["<unk>", "<s>", "</s>"].into_iter().zip(0..).map(|(token, id)| (token.to_string(), json!(id)));
        tokenizer["model"]["vocab"] = Value::Object(special.chain(words).collect());
        std::fs::write(place.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        place
    }
}

/// A studio, and which of its addresses have been asked.
struct Walk<'a> {
    studio: &'a Studio,
    name: String,
    asked: BTreeSet<(&'static str, String)>,
}

impl Walk<'_> {
    fn ask(&mut self, method: &'static str, path: &str, body: &Value) -> Answer {
        self.asked.insert((method, path.split('?').next().unwrap().to_owned()));
        match method {
            "GET" => self.studio.get(path),
            _ => self.studio.post(path, body),
        }
    }

    fn get(&mut self, path: &str) -> Value {
        let answer = self.ask("GET", path, &Value::Null);
        assert_eq!(answer.status, 200, "{} {path}: {}", self.name, String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    fn post(&mut self, path: &str, body: &Value) -> Value {
        let answer = self.ask("POST", path, body);
        assert_eq!(answer.status, 200, "{} {path} {body}: {}", self.name, String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    /// What is said of a request that cannot be met, which must say what to do.
    fn refused(&mut self, method: &'static str, path: &str, body: &Value, status: u16) -> String {
        let answer = self.ask(method, path, body);
        assert_eq!(answer.status, status, "{} {path} {body}: {}", self.name, String::from_utf8_lossy(&answer.body));
        let [what, place, propose] = answer.refusal();
        assert!(!what.is_empty() && !place.is_empty() && propose.len() > 10, "{} {path}: {what} {place} {propose}", self.name);
        what
    }

    fn close(&self, what: &str, found: f64, expected: f64, bound: f64) {
        assert!((found - expected).abs() <= bound, "{}: {what}: {found}, and {expected} was expected", self.name);
    }

    /// All addresses that look at a model.
    fn through(&mut self, case: &Case, folder: &Path) {
        self.name.clone_from(&case.name);
        let adapter = case.adapter.as_ref().map(|adapter| adapter.to_str().unwrap());
        let opened = self.post("/api/open", &json!({ "model": folder.to_str().unwrap(), "adapter": adapter }));
        let state = self.get("/api/state");
        assert_eq!((&state["model"], state["adapter"].is_null()), (&opened["model"], adapter.is_none()));
        self.of_files(&state["model"]);
        self.of_layers(case, &state["model"]);
        self.of_text(case, &state["model"], adapter.is_some());
        self.of_adapter(case, adapter.is_some());
        self.of_training(case);
    }

    fn of_files(&mut self, model: &Value) {
        let anatomy = self.get("/api/anatomy");
        let modules = anatomy["modules"].as_array().unwrap();
        let sum = |key: &str| modules.iter().map(|module| module[key].as_f64().unwrap()).sum::<f64>();
        assert_eq!(sum("parameters"), model["parameters"].as_f64().unwrap(), "{}", self.name);
        self.close("shares", sum("share"), 1.0, 1e-9);
        assert!(
            modules.iter().all(|module| module["bytes"].as_f64().unwrap() > 0.0),
            "{}: a tensor is not in the file",
            self.name
        );
        let formats = anatomy["formats"].as_array().unwrap();
        assert!(formats.len() > 5 && formats.iter().all(|format| format["bytes"].as_u64().unwrap() > 0));
        for module in modules.iter().filter(|module| module["layer"] == 0) {
            let weight = self.post("/api/weight", &json!({ "site": module["site"], "row": 0, "column": 0 }));
            let exact = weight["formats"].as_array().unwrap().iter().find(|format| format["name"] == "f32").unwrap();
            assert_eq!(exact["value"], weight["value"], "{}: {module}", self.name);
        }
        let plan = self.post("/api/plan", &json!({ "max_length": 32, "lora_r": 2 }));
        assert!(plan["trainable"].as_u64().unwrap() > 0 && plan["memory"]["total"].as_u64().unwrap() > 0);
        let tokens = self.post("/api/tokens", &json!({ "text": "w5 w7 w9" }));
        let ids: Vec<&Value> = tokens["tokens"].as_array().unwrap().iter().map(|token| &token["id"]).collect();
        assert!(ids.ends_with(&[&json!(5), &json!(7), &json!(9)]), "{}: {ids:?}", self.name);
    }

    /// Attention and MLP of every layer.
    fn of_layers(&mut self, case: &Case, model: &Value) {
        for layer in 0..model["layers"].as_u64().unwrap() {
            let asked = json!({ "ids": case.ids, "layer": layer });
            let view = self.post("/api/attention", &asked);
            let heads = view["heads"].as_array().unwrap();
            assert_eq!(heads.len() as u64, model["heads"].as_u64().unwrap());
            for row in heads.iter().flat_map(|head| head["rows"].as_array().unwrap()) {
                let all: f64 = numbers(row).iter().sum();
                match case.architecture().attention_sinks {
                    // The sink has the rest.
                    true => assert!(all > 0.0 && all < 1.0, "{}: a token reads {all} in layer {layer}", self.name),
                    false => self.close(&format!("what a token reads in layer {layer}"), all, 1.0, 1e-5),
                }
            }
            let mut turned = asked.clone();
            turned["rope"] = json!({ "base": 777.0, "shift": 2 });
            match view["rotated"] == true {
                true => {
                    let other = self.post("/api/attention", &turned);
                    assert_ne!(other["heads"], view["heads"], "{}: another rotation is seen in layer {layer}", self.name);
                }
                false => assert!(self.refused("POST", "/api/attention", &turned, 400).contains("does not rotate")),
            }
            if case.architecture().experts_of(layer as usize).is_some() {
                assert!(self.refused("POST", "/api/mlp", &asked, 400).contains("has experts"));
                continue;
            }
            let view = self.post("/api/mlp", &asked);
            let counts = |which: &str| numbers(&view[which]["histogram"]["counts"]).iter().sum::<f64>();
            let all = (case.ids.len() as u64 * model["intermediate"].as_u64().unwrap()) as f64;
            assert_eq!((counts("gate"), counts("up")), (all, all), "{}", self.name);
        }
        assert!(self.refused("POST", "/api/attention", &json!({ "ids": case.ids, "layer": 99 }), 400).contains("layers"));
    }

    /// The same next token in every view.
    fn of_text(&mut self, case: &Case, model: &Value, adapted: bool) {
        let depth = model["layers"].as_u64().unwrap() as usize;
        let embedding = self.post("/api/embedding", &json!({ "ids": case.ids }));
        let lens = self.post("/api/lens", &json!({ "ids": case.ids, "k": 3 }));
        assert_eq!(lens["adapted"].is_null(), !adapted);
        assert_eq!(lens["layers"].is_null(), case.adds);
        let of_model = if adapted { &lens["adapted"] } else { &lens["layers"] };
        let layers = of_model.as_array().unwrap();
        assert_eq!(layers.len(), depth + 1);
        let norms: Vec<f64> =
            layers[0]["tokens"].as_array().unwrap().iter().map(|token| token["norm"].as_f64().unwrap()).collect();
        for (found, expected) in norms.iter().zip(numbers(&embedding["norms"])) {
            self.close("the length of an embedding", *found, expected, 1e-5 * expected.max(1e-9));
        }
        let asked = |strength: f64| json!({ "ids": case.ids, "adapter": strength });
        if case.adds {
            assert!(self.refused("POST", "/api/logits", &asked(0.0), 400).contains("the adapter adds"));
            assert!(self.refused("POST", "/api/logits", &asked(0.5), 400).contains("adds tokens"));
        }
        for (of, strength) in [(of_model, 1.0), (&lens["layers"], 0.0)].into_iter().filter(|(of, _)| !of.is_null()) {
            let top = self.post("/api/logits", &asked(strength))["top"][0].clone();
            let last = &of[depth]["tokens"].as_array().unwrap().last().unwrap()["top"][0];
            assert_eq!(top["id"], last["id"], "{} at strength {strength}", self.name);
            // Generation has other kernels: design section 12 for logits of some layers.
            self.close("the next token", last["p"].as_f64().unwrap(), top["p"].as_f64().unwrap(), 2e-5);
        }
        if adapted && !case.adds {
            let mut seen = BTreeSet::new();
            for strength in [0.0, 0.5, 1.0, 1.5, 2.0] {
                seen.insert(self.post("/api/logits", &asked(strength))["top"].to_string());
            }
            assert_eq!(seen.len(), 5, "{}: every strength is another model", self.name);
        }
        let answer = self.post("/api/answer", &json!({ "prompt": "w5 w7 w9", "max_tokens": 3 }));
        for token in answer["tokens"].as_array().unwrap() {
            // Greedy: the first of the most probable ones.
            assert_eq!((&token["id"], &token["p"]), (&token["top"][0]["id"], &token["top"][0]["p"]), "{}", self.name);
        }
        let turns = json!({ "messages": [{ "role": "user", "content": "w5" }] });
        assert!(self.refused("POST", "/api/answer", &turns, 400).contains("chat template"));
    }

    fn of_adapter(&mut self, case: &Case, adapted: bool) {
        if !adapted {
            for (method, path) in [("GET", "/api/lora"), ("GET", "/api/lora/site?name=x"), ("POST", "/api/fuse")] {
                assert!(self.refused(method, path, &json!({ "ids": case.ids }), 400).contains("no adapter is open"));
            }
            return;
        }
        let asked = json!({ "ids": case.ids });
        if case.name.starts_with("bottlenecks") {
            for (method, path) in [("GET", "/api/lora"), ("POST", "/api/fuse")] {
                assert!(self.refused(method, path, &asked, 400).contains("bottleneck"));
            }
            return;
        }
        let lora = self.get("/api/lora");
        let sites = lora["sites"].as_array().unwrap();
        for site in sites {
            let number = |key: &str| site[key].as_f64().unwrap();
            let values = numbers(&site["singular"]);
            assert_eq!(values.len() as u64, site["rank"].as_u64().unwrap());
            assert!(number("norm") > 0.0 && number("relative") > 0.0, "{}: {site}", self.name);
            self.close("singular values", values.iter().map(|value| value * value).sum::<f64>().sqrt(), number("norm"), 1e-9);
            assert_eq!(site["method"] == "dora", !site["lengths"].is_null());
            if !site["lengths"].is_null() {
                let [least, mean, greatest] = ["least", "mean", "greatest"].map(|key| site["lengths"][key].as_f64().unwrap());
                assert!(0.0 < least && least <= mean && mean <= greatest && greatest != 1.0, "{}: {site}", self.name);
            }
        }
        for site in [sites.first(), sites.last()].into_iter().flatten() {
            let pictures = self.get(&format!("/api/lora/site?name={}", site["site"].as_str().unwrap()));
            for picture in ["a", "b", "ba"].map(|key| &pictures[key]) {
                let shape = ["rows", "columns"].map(|key| picture[key].as_u64().unwrap());
                assert_eq!(picture["values"].as_array().unwrap().len() as u64, shape[0] * shape[1]);
            }
        }
        let config = json_of(&case.adapter.as_ref().unwrap().join("adapter_config.json"));
        let whole = case.adds
            || !config["trainable_token_indices"].is_null()
            || ["all", "lora_only"].contains(&config["bias"].as_str().unwrap_or_default())
            || config["modules_to_save"].as_array().is_some_and(|modules| !modules.is_empty());
        let adapter = LoadedAdapter::load(case.adapter.as_ref().unwrap(), &case.architecture()).unwrap();
        if adapter.placement.pieces.iter().any(|piece| piece.site.experts.is_some()) {
            assert!(self.refused("POST", "/api/fuse", &json!({ "ids": case.ids }), 400).contains("adapts experts"));
            return;
        }
        for strength in if case.adds { &[1.0][..] } else { &[0.5, 1.0] } {
            let asked = json!({ "ids": case.ids, "adapter": strength });
            if whole || config["lora_bias"] == true {
                assert!(self.refused("POST", "/api/fuse", &asked, 400).contains(if whole { "whole" } else { "biases" }));
                continue;
            }
            let fuse = self.post("/api/fuse", &asked);
            let number = |key: &str| fuse[key].as_f64().unwrap();
            let [difference, logit] = [number("largest_difference"), number("largest_logit")];
            assert!(difference <= 2e-5 * logit, "{} at {strength}: {difference} of {logit}", self.name);
            // A and B of `orthogonal` are orthogonal to each other, and have hardly been trained.
            let acts = self.name != "adapters/orthogonal";
            assert!(!acts || number("largest_effect") > 100.0 * difference, "{} at {strength}: {fuse}", self.name);
        }
    }

    /// Losses and gradients are PyTorch's, and what is measured on the device.
    fn of_training(&mut self, case: &Case) {
        let record = json!({ "input_ids": case.ids, "labels": case.ids });
        let view = self.post("/api/backward", &json!({ "record": record }));
        let tokens = view["tokens"].as_array().unwrap();
        assert_eq!(tokens.len(), case.ids.len());
        for (token, expected) in tokens[1..].iter().zip(&case.nll) {
            self.close("the loss of a token", token["nll"].as_f64().unwrap(), *expected, 5e-4);
        }
        let sites = view["sites"].as_array().unwrap();
        let largest = case.gradients.values().copied().fold(0.0, f64::max);
        for (matrix, expected) in &case.gradients {
            let (site, own) = matrix.rsplit_once('.').unwrap();
            let found = sites.iter().find(|found| found["site"] == site).unwrap_or_else(|| panic!("{}: {site}", self.name));
            let found = &found[if own == "lora_a" { "a_norm" } else { "b_norm" }];
            self.close(matrix, found.as_f64().unwrap(), *expected, 1e-3 * largest);
        }
        let strongest =
            sites.iter().max_by(|a, b| a["b_norm"].as_f64().unwrap().total_cmp(&b["b_norm"].as_f64().unwrap())).unwrap();
        if case.name.starts_with("bottlenecks") {
            let asked = json!({ "record": record, "site": strongest["site"], "matrix": "A", "row": 0, "column": 0 });
            assert!(self.refused("POST", "/api/prove", &asked, 400).contains("bottleneck"));
            return;
        }
        let matrices = if strongest["m_norm"].is_null() { &["A", "B"][..] } else { &["A", "B", "m"] };
        // A step may send a token to another expert, where the loss bends.
        let share = if self.name.ends_with("moe") || self.name.ends_with("mixtral") { 0.2 } else { 1e-2 };
        for matrix in matrices {
            let asked = json!({ "record": record, "site": strongest["site"], "matrix": matrix, "row": 1, "column": 0 });
            let proof = self.post("/api/prove", &asked);
            let number = |key: &str| proof[key].as_f64().unwrap();
            let distance = (number("gradient") - number("difference")).abs();
            let allowed = (3.0 * number("uncertainty")).max(share * number("gradient").abs());
            assert!(distance <= allowed, "{}, {matrix}: {proof}", self.name);
        }
        if matrices.len() == 2 {
            let asked = json!({ "record": record, "site": strongest["site"], "matrix": "m", "row": 0, "column": 0 });
            assert!(self.refused("POST", "/api/prove", &asked, 400).contains("has no m"));
        }
    }
}

fn walked(cases: &[Case], more: impl FnOnce(&mut Walk, &Workshop)) {
    let shop = Workshop::new();
    let studio = super::open(&shop);
    let mut walk = Walk { studio: &studio, name: String::new(), asked: BTreeSet::new() };
    for case in cases {
        let folder = case.put(&shop.path(""));
        walk.through(case, &folder);
    }
    more(&mut walk, &shop);
}

#[test]
fn every_address_answers_for_every_family_with_an_adapter_of_peft() {
    let names = ["families", "tiny"].into_iter().flat_map(|of| folders(of).into_iter().map(move |name| format!("{of}/{name}")));
    let cases: Vec<Case> = names.map(|name| Case::of_family(&name)).collect();
    assert!(cases.len() >= 22);
    walked(&cases, |walk, _| {
        walk.name = "the addresses that are of no model".to_owned();
        walk.post("/api/time", &json!({ "max_length": 32 }));
        for op in walk.get("/api/sources")["ops"].as_array().unwrap() {
            let source = walk.get(&format!("/api/source?op={}", op["op"].as_str().unwrap()));
            assert!(!source["wgsl"].as_array().unwrap().is_empty());
        }
        assert!(walk.refused("GET", "/api/source?op=nope", &Value::Null, 400).contains("nope"));
        assert!(walk.get("/api/file?path=src/ops/rope.rs")["text"].as_str().unwrap().contains("impl Op for Rope"));
        for outside in ["src/../Cargo.toml", "Cargo.toml", "/etc/passwd", "src/ops"] {
            walk.refused("GET", &format!("/api/file?path={outside}"), &Value::Null, 400);
        }
        assert_eq!((walk.get("/api/run"), walk.get("/api/runs")["runs"].clone()), (Value::Null, json!([])));
        assert!(!walk.get("/api/recipe")["fields"].as_array().unwrap().is_empty());
        walk.refused("POST", "/api/run/show", &json!({ "dir": "nowhere" }), 400);
        walk.refused("POST", "/api/train", &json!({ "model": "model", "out": "out" }), 400);
        let recipe = json!({ "model": "model", "data": ["train.jsonl"], "out": "out", "max_length": 32 });
        assert!(walk.post("/api/train/check", &recipe)["total_steps"].as_u64().unwrap() > 0);
        for (path, status) in [("/api/train/stop", 409), ("/api/train/pause", 409), ("/api/train/resume", 400)] {
            walk.refused("POST", path, &json!({}), status);
        }
        let all = routes().into_iter().map(|route| {
            let method = if route.method == Method::Get { "GET" } else { "POST" };
            (method, route.path.to_owned())
        });
        assert_eq!(walk.asked, all.collect::<BTreeSet<_>>(), "every address has been asked");
    });
}

#[test]
fn every_address_answers_for_every_kind_of_adapter() {
    // `several` is two of the others.
    let all = |of: &'static str| folders(of).into_iter().map(move |name| (of, name));
    let names = all("adapters").chain(all("bottlenecks")).filter(|(of, name)| reference(of).join(name).join("adapter").is_dir());
    let cases: Vec<Case> = names.map(|(of, name)| Case::of_adapter(of, &name)).collect();
    assert!(cases.len() >= 30);
    walked(&cases, |_, _| {});
}

#[test]
fn every_address_answers_for_every_quantised_folder() {
    let quantised = folders("quantised").into_iter().filter(|name| name != "adapter");
    let of_libraries = quantised.map(|name| Case::of_quantised(&format!("quantised/{name}")));
    let cases: Vec<Case> =
        of_libraries.chain(folders("bitsandbytes").iter().filter_map(|name| Case::of_bitsandbytes(name))).collect();
    assert!(cases.len() >= 16);
    walked(&cases, |_, _| {});
}
