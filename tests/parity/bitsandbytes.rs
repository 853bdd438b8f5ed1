//! What bitsandbytes quantised, or would: values bit for bit, token losses, and QLoRA runs of PEFT on its layers.
//! `tools/reference/make_bitsandbytes.py` says what the folders are.

use super::*;
use graftling::storage::DType;

/// The first Adam steps divide noise by noise, and these models' losses are steep.
const STEP_LOSS: f64 = 5e-4;

fn folder() -> PathBuf {
    fixtures().join("bitsandbytes")
}

fn expected() -> Value {
    json(&folder().join("expected.json"))
}

/// Rows of whole blocks rest in place; blocks that cross rows are read value by value, and rest as numbers.
#[test]
fn folders_hold_the_values_that_bitsandbytes_computes() {
    let expected = expected();
    let sequence = batch(&[&expected["records"][0]]);
    for (name, figures) in expected["folders"].as_object().unwrap() {
        let setup = Setup::open(&folder().join(name));
        let in_place = match name.trim_start_matches("odd_").split('_').next() {
            Some("nf4") => DType::NF4,
            Some("fp4") => DType::FP4,
            _ => DType::LLM_INT8,
        };
        let mut seen = 0;
        for (tensor, values) in tensors(&folder().join("values.safetensors"), &format!("{name}.model.")) {
            let tensor = format!("model.{tensor}");
            let found = setup.files.tensors.read_f32(&tensor).unwrap();
            assert!(found.iter().zip(&values).all(|(found, expected)| f64::from(*found) == *expected), "{name}: {tensor}");
            // From any row on.
            let info = setup.files.tensors.find(&tensor).unwrap();
            let mut rows = vec![0.0; 3 * info.row_values()];
            setup.files.tensors.read_rows_f32(&tensor, 5..8, &mut rows).unwrap();
            assert_eq!(rows, found[5 * info.row_values()..8 * info.row_values()], "{name}: {tensor}");
            let storage = if info.row_values() == 96 { DType::F32 } else { in_place };
            assert_eq!(info.storage, storage, "{name}: {tensor}");
            seen += 1;
        }
        assert_eq!(seen, 2, "{name}");
        assert_eq!(setup.files.tensors.find("lm_head.weight").unwrap().storage, DType::F32, "{name}: what was not quantised");
        let found = setup.token_nll(None, &sequence);
        for (t, (found, expected)) in found.iter().zip(numbers(&figures["token_nll"])).enumerate() {
            assert_close(f64::from(*found), expected, TOKEN_LOSS, &format!("{name} token {t}"));
        }
    }
}

/// The folder that bitsandbytes saved, and the original weights with `--weights nf4`.
#[test]
fn qlora_runs_follow_peft_on_bitsandbytes() {
    let expected = expected();
    let records: Vec<Batch> = expected["records"].as_array().unwrap().iter().map(|record| batch(&[record])).collect();
    for (name, quantised) in [("nf4_double", WeightType::asked(Some(DType::NF4), true)), ("nf4", WeightType::In(DType::NF4))] {
        let figures = &expected["folders"][name];
        let mut finals = Vec::new();
        for (model, weight_type) in [(name, WeightType::Lossless), ("base", quantised)] {
            let setup = Setup::open_as(device(), &folder().join(model), weight_type);
            let layers: Vec<usize> = (0..setup.files.config.num_hidden_layers).collect();
            let spec = spec_of(&expected, layers, &ALL);
            let start = hashed_start(&spec, &setup, 0.25);
            let mut trainer = setup.trainer(&spec, &start, records.iter().map(Batch::rows).max().unwrap(), false);
            for (index, batch) in records.iter().enumerate() {
                let what = format!("{name} from {model}, step {}", index + 1);
                let loss = trainer.accumulate(batch, 1.0 / batch.supervised_rows.len() as f64, true).unwrap();
                assert_close(loss, numbers(&figures["losses"])[index], STEP_LOSS, &what);
                let rate = expected["learning_rate"].as_f64().unwrap();
                let norm = trainer.apply(&Hyper { step: index as u64 + 1, ..hyper(rate, 0.0, 0.0) }).unwrap();
                assert_close(norm / numbers(&figures["grad_norms"])[index], 1.0, 1e-3, &what);
            }
            let found = trainer.adapter().tensors().unwrap();
            let file = folder().join("values.safetensors");
            assert_tensors(&found, &tensors(&file, &format!("{name}.adapter.")), ADAPTER_L2);
            finals.push(found);
        }
        // Embedding and output are f32 in the folder and bf16 in the original, with the same values: runs are the same bit by bit.
        for (left, right) in finals[0].iter().zip(&finals[1]) {
            assert_eq!(left.values, right.values, "{name}: {}", left.name);
        }
    }
}
