//! Routers of experts that are trained as a whole, or by LoRA, without and with the load balancing loss: token losses, gradients of a step of two
//! micro-batches, AdamW steps, and PEFT's files.

use super::families::folder_of;
use super::*;
use graftling::architecture::Architecture;
use graftling::export::{self, Source};
use graftling::formats::adapter_file::AdapterFile;
use graftling::formats::folder_weights::FolderWeights;
use graftling::merge::Update;
use graftling::storage::mixture::Mixture;
use graftling::storage::{DType, TensorSource};

/// The first Adam steps divide noise by noise, and these models' losses are steep.
const STEP_LOSS: f64 = 5e-4;
/// Of a mean over rows of products of two means: as an elementwise op of numbers of this size.
const BALANCE: f64 = 2e-5;

const NAMES: [&str; 5] = ["mixtral", "qwen2_moe", "qwen3_moe", "qwen3_moe_mixed", "gpt_oss"];

struct Case {
    name: &'static str,
    folder: PathBuf,
    expected: Value,
    setup: Setup,
}

fn sequences(of: &Value) -> Batch {
    let records: Vec<Value> = of.as_array().unwrap().iter().map(|ids| serde_json::json!({ "input_ids": ids })).collect();
    batch(&records.iter().collect::<Vec<_>>())
}

impl Case {
    fn open(name: &'static str) -> Self {
        let folder = fixtures().join("routers").join(name);
        let expected = json(&folder.join("expected.json"));
        Self { name, folder, expected, setup: Setup::open(&folder_of(name)) }
    }

    /// PEFT's folder of the adapter of a group of figures.
    fn adapter(&self, group: &str) -> PathBuf {
        self.folder.join(if group == "lora" { "adapter_lora" } else { "adapter" })
    }

    /// The adapter on the device, and a trainer of it with this coefficient of the load balancing loss.
    fn trainer(&self, group: &str, coefficient: Option<f64>, max_tokens: usize, recompute: Recompute) -> Trainer {
        let config = Architecture { router_aux_loss_coef: coefficient, ..self.setup.files.config.clone() };
        let device = self.setup.weights.device().clone();
        let adapter = DeviceAdapter::load(&self.adapter(group), device, &config).unwrap();
        let shape = StepShape { max_tokens, accumulate: true, recompute, held_out_tokens: 0 };
        Trainer::new(self.setup.weights.clone(), &config, adapter, shape, 0, None).unwrap()
    }

    fn check(&self, group: &str, coefficient: Option<f64>, recompute: Recompute) {
        let (expected, file) = (&self.expected[group], self.folder.join("expected.safetensors"));
        let what = |of: &str| format!("{} {group} {of}", self.name);
        let balance_of = |trainer: &Trainer| trainer.load_balancing_loss().unwrap().map(|loss| loss.wait_for_one().unwrap());

        // One step of two micro-batches, of which the first has two sequences: each adds its own load balancing loss.
        let micro: Vec<Batch> = self.expected["micro_batches"].as_array().unwrap().iter().map(sequences).collect();
        let tokens: usize = micro.iter().map(|batch| batch.supervised_rows.len()).sum();
        let mut trainer = self.trainer(group, coefficient, micro.iter().map(Batch::rows).max().unwrap(), recompute);
        let mut loss = 0.0;
        for (index, batch) in micro.iter().enumerate() {
            loss += trainer.accumulate(batch, 1.0 / tokens as f64, index == 0).unwrap();
            let balance = balance_of(&trainer);
            assert_eq!(balance.is_some(), coefficient.is_some());
            if let Some(balance) = balance {
                assert_close(balance, numbers(&expected["balances"])[index], BALANCE, &what("load balancing loss"));
            }
        }
        assert_close(loss, expected["loss"].as_f64().unwrap(), LORA_LOSS, &what("loss"));
        let found = trainer.adapter().layout.unpack(&trainer.step_gradients().unwrap());
        let of_gradients = tensors(&file, &format!("{group}.gradients."));
        assert_eq!(found.len(), of_gradients.len(), "{}", what("tensors"));
        // The gradients of a router that is sure all but cancel: where they are 1e-5 of all, transformers' own f32 is 3e-3 off.
        let whole: f64 = of_gradients.iter().flat_map(|(_, values)| values).map(|value| value * value).sum::<f64>().sqrt();
        for (name, expected) in &of_gradients {
            let own = &found.iter().find(|tensor| tensor.name == *name).unwrap_or_else(|| panic!("no tensor {name}")).values;
            let distance = own.iter().zip(expected).map(|(&own, value)| (f64::from(own) - value).powi(2)).sum::<f64>().sqrt();
            let length = expected.iter().map(|value| value * value).sum::<f64>().sqrt();
            assert!(distance <= (1e-3 * length).max(1e-6 * whole), "{}: {distance:e} of {length:e}", what(name));
        }
        let norm = trainer.apply(&hyper(0.0, 0.0, 0.0)).unwrap();
        assert_close(norm / expected["grad_norm"].as_f64().unwrap(), 1.0, 1e-4, &what("gradient norm"));

        // Five steps of AdamW, one record each.
        let (adamw, figures) = (&self.expected["adamw"], &expected["adamw"]);
        let records: Vec<Batch> =
            adamw["records"].as_array().unwrap().iter().map(|ids| sequences(&serde_json::json!([ids]))).collect();
        let mut trainer = self.trainer(group, coefficient, records.iter().map(Batch::rows).max().unwrap(), recompute);
        let number = |key: &str| adamw[key].as_f64().unwrap();
        let hyper = hyper(number("learning_rate"), number("weight_decay"), number("max_grad_norm"));
        for (index, batch) in records.iter().enumerate() {
            let loss = trainer.accumulate(batch, 1.0 / batch.supervised_rows.len() as f64, true).unwrap();
            if let Some(balance) = balance_of(&trainer) {
                assert_close(balance, numbers(&figures["balances"])[index], STEP_LOSS, &what(&format!("step {index} balance")));
            }
            let norm = trainer.apply(&Hyper { step: index as u64 + 1, ..hyper }).unwrap();
            assert_close(loss, numbers(&figures["losses"])[index], STEP_LOSS, &what(&format!("step {index} loss")));
            assert_close(norm / numbers(&figures["grad_norms"])[index], 1.0, 1e-3, &what(&format!("step {index} norm")));
        }
        assert_tensors(&trainer.adapter().tensors().unwrap(), &tensors(&file, &format!("{group}.adamw.")), ADAPTER_L2);
    }

    fn check_losses(&self, group: &str, setup: &Setup, adapter: Option<&DeviceAdapter>, what: &str) {
        let found = setup.token_nll(adapter, &batch(&[&self.expected]));
        for (t, (found, expected)) in found.iter().zip(numbers(&self.expected[group]["token_nll"])).enumerate() {
            assert_close(f64::from(*found), expected, TOKEN_LOSS, &format!("{} {group} {what} token {t}", self.name));
        }
    }
}

#[test]
fn routers_are_trained_as_peft_trains_them() {
    for name in NAMES {
        let case = Case::open(name);
        case.check("plain", None, Recompute::None);
    }
}

/// The loss and the gradients of transformers with `output_router_logits`, also where layers are computed again.
#[test]
fn routers_are_balanced_as_transformers_balances_them() {
    for name in NAMES {
        let case = Case::open(name);
        let coefficient = case.expected["coefficient"].as_f64();
        for recompute in [Recompute::None, Recompute::Layers(1), Recompute::Layers(2)] {
            case.check("balanced", coefficient, recompute);
            case.check("lora", coefficient, recompute);
        }
    }
}

/// As for routers that are trained as a whole, of those that have LoRA.
#[test]
fn adapters_with_lora_of_routers_are_read_written_and_merged() {
    for name in NAMES {
        let case = Case::open(name);
        let path = case.adapter("lora");
        let (config, found) = AdapterFile::load_for(&path, &case.setup.files.config).unwrap();
        let written = tempfile::tempdir().unwrap();
        config.save(written.path(), &found).unwrap();
        for folder in [&path, written.path()] {
            let adapter = DeviceAdapter::load(folder, device(), &case.setup.files.config).unwrap();
            case.check_losses("lora", &case.setup, Some(&adapter), &folder.display().to_string());
        }
        let read = |folder: &Path| FolderWeights::open(&[folder.join("adapter_model.safetensors")]).unwrap();
        let (theirs, ours) = (read(&path), read(written.path()));
        assert_eq!(ours.tensors().len(), theirs.tensors().len(), "{name}");
        for info in ours.tensors() {
            let today = info.name.replace(".block_sparse_moe.", ".mlp.");
            assert_eq!(ours.read_f32(&info.name).unwrap(), theirs.read_f32(&today).unwrap(), "{name}: {}", info.name);
        }
        let files = &case.setup.files;
        let update = Update::load(&[(&path, 1.0)], &files.config).unwrap();
        let out = tempfile::tempdir().unwrap();
        let merged = out.path().join("merged");
        let source = Source::new(files, None, &update);
        export::folder::write(&source, DType::F32, &merged, false, |_| Ok(())).unwrap();
        case.check_losses("lora", &Setup::open(&merged), None, "merged");
    }
}

/// On a folder and on a GGUF file; PEFT's file is written again as it was, and for Mixtral by the name that transformers 4 had for the layer besides;
/// merged, the model has the adapter's losses, and no adapter for llama.cpp can carry a router.
#[test]
fn adapters_with_routers_are_read_written_and_merged() {
    for name in NAMES {
        let case = Case::open(name);
        let path = case.adapter("plain");
        let mut models = vec![folder_of(name)];
        models.extend(Some(folder_of(name).join("model.gguf")).filter(|path| path.exists()));
        for model in &models {
            let setup = Setup::open(model);
            let adapter = DeviceAdapter::load(&path, device(), &setup.files.config).unwrap();
            case.check_losses("plain", &setup, Some(&adapter), &model.display().to_string());
            // No strength of it is the base, and half of it lies between the two.
            let scaled = |strength| adapter.scaled(strength).unwrap();
            let base = setup.token_nll(None, &batch(&[&case.expected]));
            let none = setup.token_nll(Some(&scaled(0.0)), &batch(&[&case.expected]));
            base.iter().zip(&none).for_each(|(a, b)| assert_close(f64::from(*a), f64::from(*b), 1e-5, name));
            assert_ne!(setup.token_nll(Some(&scaled(0.5)), &batch(&[&case.expected])), base);
        }

        let (config, found) = AdapterFile::load_for(&path, &case.setup.files.config).unwrap();
        let written = tempfile::tempdir().unwrap();
        config.save(written.path(), &found).unwrap();
        let read = |folder: &Path| FolderWeights::open(&[folder.join("adapter_model.safetensors")]).unwrap();
        let (theirs, ours) = (read(&path), read(written.path()));
        for info in theirs.tensors() {
            assert_eq!(ours.find(&info.name).map(|own| &own.shape), Some(&info.shape), "{name}: {}", info.name);
            assert_eq!(ours.read_f32(&info.name).unwrap(), theirs.read_f32(&info.name).unwrap(), "{name}: {}", info.name);
        }
        for info in ours.tensors().iter().filter(|info| theirs.find(&info.name).is_none()) {
            let today = info.name.replace(".block_sparse_moe.", ".mlp.");
            assert_eq!(
                (name, ours.read_f32(&info.name).unwrap()),
                ("mixtral", theirs.read_f32(&today).unwrap()),
                "{}",
                info.name
            );
        }
        let more = if name == "mixtral" { 2 } else { 0 };
        assert_eq!(ours.tensors().len(), theirs.tensors().len() + more, "{name}");
        let again = DeviceAdapter::load(written.path(), device(), &case.setup.files.config).unwrap();
        case.check_losses("plain", &case.setup, Some(&again), "as written");

        let files = &case.setup.files;
        let update = Update::load(&[(&path, 1.0)], &files.config).unwrap();
        let source = Source::new(files, None, &update);
        let out = tempfile::tempdir().unwrap();
        let [as_folder, as_file] = ["folder", "file.gguf"].map(|end| out.path().join(end));
        export::folder::write(&source, DType::F32, &as_folder, false, |_| Ok(())).unwrap();
        let mut merged = vec![as_folder];
        // A file cannot say of a layer between others that it has no experts and of the weights that they are not renormalised.
        if name != "qwen3_moe_mixed" {
            export::gguf::Plan::of(&source, Mixture::F32).unwrap().write(&source, &as_file).unwrap();
            merged.push(as_file);
        }
        for model in merged {
            case.check_losses("plain", &Setup::open(&model), None, &model.display().to_string());
        }
        let refused = export::gguf_adapter::write(&source, Mixture::F32, &out.path().join("adapter.gguf")).unwrap_err();
        assert!(refused.to_string().contains("routers"), "{refused}");
    }
}
