//! Adapters of every kind, as PEFT writes them: what it computes with them, and five of its AdamW steps.

use super::*;
use graftling::adapter::start::{Base, Start, start};
use graftling::adapter::{AdapterLayout, LoadedAdapter, Method, Placement};
use graftling::formats::peft::save_adapter;
use graftling::generate::Generator;
use graftling::graph::Matrix;

/// The first Adam steps divide noise by noise, and these models' losses are steep.
const STEP_LOSS: f64 = 5e-4;

pub struct Case {
    name: &'static str,
    pub folder: PathBuf,
    pub expected: Value,
    pub setup: Setup,
}

impl Case {
    fn open(name: &'static str) -> Self {
        Self::of("adapters", name)
    }

    /// One of the folder `kind` of fixtures.
    pub fn of(kind: &str, name: &'static str) -> Self {
        let folder = fixtures().join(kind).join(name);
        let expected = json(&folder.join("expected.json"));
        let setup = Setup::open(&fixtures().join(expected["model"].as_str().unwrap()));
        Self { name, folder, expected, setup }
    }

    fn records(&self) -> Vec<Batch> {
        let figures = json(&fixtures().join(self.expected["model"].as_str().unwrap()).join("expected.json"));
        let records = self.expected["records"].as_array().or(figures["adamw"]["records"].as_array()).unwrap();
        records[..5].iter().map(|record| batch(&[record])).collect()
    }

    pub fn loaded(&self, folder: &Path) -> DeviceAdapter {
        let device = self.setup.weights.device().clone();
        LoadedAdapter::load(folder, &self.setup.files.config).unwrap().upload(device).unwrap()
    }

    pub fn check_losses(&self, adapter: &DeviceAdapter, what: &str) {
        let found = self.setup.token_nll(Some(adapter), &batch(&[&self.expected]));
        for (t, (found, expected)) in found.iter().zip(numbers(&self.expected["token_nll"])).enumerate() {
            assert_close(f64::from(*found), expected, TOKEN_LOSS, &format!("{} {what} token {t}", self.name));
        }
    }

    /// Reading the sequence piece by piece, as generation does, gives each next token the probability that PEFT gives it.
    pub fn check_generator(&self, adapter: &DeviceAdapter) {
        let input_ids = ids(&self.expected["input_ids"]);
        let config = &self.setup.files.config;
        let mut generator = Generator::new(&self.setup.weights, config, Some(adapter), 64).unwrap();
        let expected = numbers(&self.expected["token_nll"]);
        for (from, to) in [(0, 5), (5, 6), (6, 7), (7, 20)] {
            let logits: Vec<f64> = generator.read(&input_ids[from..to]).unwrap().into_iter().map(f64::from).collect();
            let largest = logits.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
            let nll = sum.ln() + largest - logits[input_ids[to] as usize];
            assert_close(nll, expected[to - 1], TOKEN_LOSS, &format!("{} generated token {to}", self.name));
        }
    }

    /// Five steps.
    pub fn check_steps(&self, adapter: DeviceAdapter) -> Trainer {
        let records = self.records();
        let max_tokens = records.iter().map(Batch::rows).max().unwrap();
        let shape = StepShape { max_tokens, accumulate: false, recompute: Recompute::Layers(1), held_out_tokens: 0 };
        let mut trainer = Trainer::new(self.setup.weights.clone(), &self.setup.files.config, adapter, shape, 0, None).unwrap();
        let hyper = hyper(self.expected["learning_rate"].as_f64().unwrap(), 0.0, 0.0);
        for (index, batch) in records.iter().enumerate() {
            let loss = trainer.accumulate(batch, 1.0 / batch.supervised_rows.len() as f64, true).unwrap();
            let norm = trainer.apply(&Hyper { step: index as u64 + 1, ..hyper }).unwrap();
            let what = format!("{} step {index}", self.name);
            assert_close(loss, numbers(&self.expected["losses"])[index], STEP_LOSS, &what);
            assert_close(norm / numbers(&self.expected["grad_norms"])[index], 1.0, 2e-3, &format!("{what} norm"));
        }
        trainer
    }
}

/// Losses, steps, and the losses again of what graftling writes.
fn check(name: &'static str) {
    let case = Case::open(name);
    let adapter = case.loaded(&case.folder.join("adapter"));
    case.check_losses(&adapter, "as read");
    case.check_generator(&adapter);
    let (config, tensors) = load_adapter(&case.folder.join("adapter")).unwrap();
    if !config.lora_bias {
        let written = tempfile::tempdir().unwrap();
        save_adapter(written.path(), &config, &tensors).unwrap();
        let (again, values) = load_adapter(written.path()).unwrap();
        assert_eq!((&again.only, &again.rank_pattern, &values), (&config.only, &config.rank_pattern, &tensors));
        case.check_losses(&case.loaded(written.path()), "as written");
        let trained = case.check_steps(adapter);
        let after = trained.adapter().tensors().unwrap();
        for (name, rows) in case.expected["rows"].as_object().into_iter().flatten() {
            let expected: Vec<f64> = rows.as_array().unwrap().iter().flat_map(numbers).collect();
            let found = after.iter().find(|tensor| tensor.name == *name).unwrap_or_else(|| panic!("{name}"));
            let distance = relative_l2(&found.values, &expected);
            assert!(distance < ADAPTER_L2, "{} {name} after five steps: {distance:e}", case.name);
        }
    }
}

kinds!(patterns rslora regex excluded some_layers lora_bias orthogonal dora dora_rslora dora_biases whole_modules whole_output
    whole_untied whole_tying norms some_norms biases adapted_biases token_rows token_rows_untied added_tokens added_tokens_untied added_tokens_frozen added_tokens_whole);

/// What graftling writes of a vocabulary that was extended: the rows alone, behind the base model's own matrix. They are the whole of what PEFT
/// computes with, whose file has the matrices besides.
#[test]
fn rows_of_added_tokens_need_no_whole_matrix() {
    for name in ["added_tokens", "added_tokens_untied"] {
        let case = Case::open(name);
        let (mut config, mut tensors) = load_adapter(&case.folder.join("adapter")).unwrap();
        assert_eq!(config.whole_rows.len(), 2);
        config.whole_rows.clear();
        tensors.retain(|tensor| !tensor.name.ends_with(".weight"));
        let written = tempfile::tempdir().unwrap();
        save_adapter(written.path(), &config, &tensors).unwrap();
        let adapter = case.loaded(written.path());
        assert!(
            adapter.placement.whole.is_empty()
                && adapter.placement.tokens(&case.setup.files.config) > case.setup.files.config.vocab_size
        );
        case.check_losses(&adapter, "rows alone");
        case.check_generator(&adapter);
        case.check_steps(adapter);
    }
}

/// Nothing moves but what has a gradient: of a matrix that is trained as a whole, and is the embedding alone, the rows of tokens that no record
/// has keep their bits, and all rows of tokens that one has move.
#[test]
fn rows_of_tokens_that_do_not_occur_do_not_move() {
    let case = Case::open("whole_untied");
    let adapter = case.loaded(&case.folder.join("adapter"));
    let rows_of = |adapter: &DeviceAdapter| -> Vec<Vec<u32>> {
        let tensors = adapter.tensors().unwrap();
        let matrix = tensors.iter().find(|tensor| tensor.name == "embed_tokens.weight").unwrap();
        matrix.values.chunks(matrix.shape[1]).map(|row| row.iter().map(|value| value.to_bits()).collect()).collect()
    };
    let before = rows_of(&adapter);
    let after = rows_of(case.check_steps(adapter).adapter());
    // The last token of a record predicts nothing.
    let read = |batch: &Batch| batch.input_ids[..batch.input_ids.len() - 1].to_vec();
    let seen: std::collections::HashSet<u32> = case.records().iter().flat_map(read).collect();
    assert!(seen.len() > 20 && seen.len() < before.len());
    for (token, (before, after)) in before.iter().zip(&after).enumerate() {
        assert_eq!(before != after, seen.contains(&(token as u32)), "token {token}");
    }
}

/// B learns eight times faster, in a buffer of its own.
#[test]
fn loraplus() {
    let case = Case::open("loraplus");
    let (config, tensors) = load_adapter(&case.folder.join("adapter")).unwrap();
    let placement = Placement::from_peft("adapter", &config, &case.setup.files.config).unwrap().learning(Start::Uniform, 8.0);
    let layout = AdapterLayout::new(&placement);
    assert_eq!(layout.rated_spans().len(), 2);
    let contents = layout.pack("adapter", &tensors).unwrap();
    assert_eq!(layout.unpack(&contents).len(), tensors.len());
    let device = case.setup.weights.device().clone();
    case.check_steps(DeviceAdapter::new(device, placement, layout, &contents).unwrap());
}

/// A start from the weights takes its product out of the base: training begins at the base model, goes on as PEFT's does, and ends in a
/// LoRA of the unchanged base.
fn from_the_weights(name: &'static str, how: Start) {
    let case = Case::open(name);
    let files = &case.setup.files;
    // What PEFT converted has twice the rank; this is what it trained.
    case.check_losses(&case.loaded(&case.folder.join("adapter")), "as PEFT converts it");
    let settings = &case.expected["settings"];
    let (mut config, _) = load_adapter(&case.folder.join("adapter")).unwrap();
    let halved = |value: &Value| value.as_f64().unwrap();
    (config.r, config.lora_alpha) = (halved(&settings["r"]) as usize, halved(&settings["lora_alpha"]));
    let entries = |key: &str| -> Vec<(String, f64)> {
        let object = settings[key].as_object();
        object.into_iter().flatten().map(|(key, value)| (key.clone(), halved(value))).collect()
    };
    let ranks = entries("rank_pattern").into_iter().map(|(key, r)| (key, r as usize)).collect();
    config.rank_pattern = graftling::formats::peft::Patterns::new(ranks).unwrap();
    config.alpha_pattern = graftling::formats::peft::Patterns::new(entries("alpha_pattern")).unwrap();
    let placement = Placement::from_peft("adapter", &config, &files.config).unwrap().learning(how, 1.0);
    let started = start(&placement, &Base { tensors: &*files.tensors, weight_type: WeightType::Lossless }, 0).unwrap();
    let layout = AdapterLayout::new(&placement);
    let contents = layout.pack("adapter", &started.trained).unwrap();
    let device = case.setup.weights.device().clone();
    let adapter = DeviceAdapter::new(device, placement.clone(), layout, &contents).unwrap();
    adapter.set_frozen(&placement.frozen_of(&started.taken_out)).unwrap();

    let sequence = batch(&[&case.expected]);
    let [base, begun] = [None, Some(&adapter)].map(|adapter| case.setup.token_nll(adapter, &sequence));
    for (base, begun) in base.iter().zip(&begun) {
        assert_close(f64::from(*begun), f64::from(*base), TOKEN_LOSS, &format!("{name} before the first step"));
    }
    let trainer = case.check_steps(adapter);
    config.taken_out = started.taken_out;
    let written = tempfile::tempdir().unwrap();
    save_adapter(written.path(), &config, &trainer.adapter().tensors().unwrap()).unwrap();
    let converted = case.loaded(written.path());
    assert!(matches!(&converted.placement.pieces[0].method, Method::Lora(lora) if lora.start == Start::Uniform));
    case.check_losses(&converted, "as graftling converts it");
    // What a checkpoint keeps is what the run goes on from, bit for bit.
    let (_, in_file) = load_adapter(written.path()).unwrap();
    let layout = &trainer.adapter().layout;
    assert_eq!(layout.pack("checkpoint", &in_file).unwrap(), trainer.adapter().contents().unwrap());
    assert_eq!(layout.starts(&in_file), config.taken_out);
}

#[test]
fn pissa() {
    from_the_weights("pissa", Start::Pissa { iterations: 16 });
}

#[test]
fn pissa_patterns() {
    from_the_weights("pissa_patterns", Start::Pissa { iterations: 16 });
}

#[test]
fn olora() {
    from_the_weights("olora", Start::Olora);
}

/// With loftq, quantised weight and adapter together are nearer to the weight in the file; where the rank is that of the weight, they
/// are that weight.
#[test]
fn loftq_makes_up_for_quantising() {
    let files = ModelFiles::open(fixtures().join("tiny/grouped_tied").to_str().unwrap()).unwrap();
    let q4_0 = graftling::storage::DType::Q4_0;
    let spec = UniformLora {
        r: 16,
        scale: 0.5,
        dropout: 0.0,
        target_modules: ALL.map(str::to_owned).into(),
        layers: (0..files.config.num_hidden_layers).collect(),
    };
    let placement = spec.on(&files.config).learning(Start::Loftq, 1.0);
    let base = Base { tensors: &*files.tensors, weight_type: WeightType::In(q4_0) };
    let started = start(&placement, &base, 0).unwrap();
    assert!(placement.frozen_matrices().is_empty() && started.taken_out.len() == started.trained.len());
    for (piece, pair) in placement.pieces.iter().zip(started.trained.chunks(2)) {
        let in_file = files.tensors.read_f32(&format!("model.{}.weight", piece.site.name())).unwrap();
        let matrix = |shape: [usize; 2], values: &[f32]| Matrix::new(shape, values.iter().copied().map(f64::from).collect());
        let shape = [piece.site.out_features, piece.site.in_features];
        let quantised = matrix(shape, &graftling::storage::rounded(&in_file, q4_0));
        let made_up = piece.method.merged(&quantised, &[0, 1].map(|at| matrix(pair[at].shape, &pair[at].values))).unwrap();
        let distance = |found: &Matrix| -> f64 {
            found.data.iter().zip(&in_file).map(|(found, exact)| (found - f64::from(*exact)).powi(2)).sum::<f64>().sqrt()
        };
        let bound = if piece.site.out_features == spec.r { 1e-4 } else { 0.8 };
        assert!(distance(&made_up) < bound * distance(&quantised), "{}", piece.site.name());
    }
    // There is nothing to make up for where weights rest as they are.
    let lossless = Base { weight_type: WeightType::Lossless, ..base };
    assert!(start(&placement, &lossless, 0).unwrap_err().to_string().contains("--weights nf4"));
}

/// Several adapters at once: their updates are added up, each times its weight, as PEFT does with several that are active.
#[test]
fn several_adapters_add_up() {
    let case = Case::open("several");
    let config = &case.setup.files.config;
    let folders = fixtures().join("adapters");
    let loaded = |name: &str| LoadedAdapter::load(&folders.join(name).join("adapter"), config).unwrap();
    let weighted = case.expected["adapters"].as_array().unwrap().iter().zip(numbers(&case.expected["weights"]));
    let all = weighted.map(|(name, weight)| (loaded(name.as_str().unwrap()), weight)).collect();
    let device = || case.setup.weights.device().clone();
    let together = LoadedAdapter::together(all).unwrap().upload(device()).unwrap();
    case.check_losses(&together, "together");
    // One alone with weight 1 is itself, and one with its opposite is nothing.
    let sequence = batch(&[&case.expected]);
    let nll = |adapters| {
        let adapter = LoadedAdapter::together(adapters).unwrap().upload(device()).unwrap();
        case.setup.token_nll(Some(&adapter), &sequence)
    };
    let alone = loaded("regex").upload(device()).unwrap();
    assert_eq!(nll(vec![(loaded("regex"), 1.0)]), case.setup.token_nll(Some(&alone), &sequence));
    let nothing = nll(vec![(loaded("regex"), 1.5), (loaded("regex"), -1.5)]);
    for (nothing, base) in nothing.iter().zip(case.setup.token_nll(None, &sequence)) {
        assert_close(f64::from(*nothing), f64::from(base), 1e-4, "an adapter and its opposite");
    }
    for (adapters, problem) in [
        (vec![(loaded("dora"), 0.5)], "cannot have weight 0.5"),
        (vec![(loaded("dora"), 1.0), (loaded("patterns"), 1.0)], "with another adapter of this layer"),
    ] {
        let Err(refused) = LoadedAdapter::together(adapters) else { panic!("{problem}") };
        assert!(refused.to_string().contains(problem) && refused.to_string().contains("layers.0.self_attn"), "{refused}");
    }
    LoadedAdapter::together(vec![(loaded("dora"), 1.0), (loaded("some_layers"), 1.0)]).err().expect("both adapt o_proj");
}
