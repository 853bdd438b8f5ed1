//! What is exported is the model: weights bit for bit where nothing is rounded, and the losses of PEFT where an adapter is merged.

use super::families::folder_of;
use super::*;
use graftling::export::{self, Source};
use graftling::merge::Update;
use graftling::storage::mixture::Mixture;

/// Families whose GGUF files can say all that their configs say.
const SAYABLE: [&str; 17] = [
    "llama_biases",
    "llama_linear",
    "llama_yarn",
    "granite_biases",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3_longrope",
    "smollm3",
    "olmo2",
    "granite",
    "phi3_window",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "gpt_oss",
];

/// Some of the others.
const OTHERS: [&str; 6] = ["llama_dynamic", "mistral", "qwen2_windows", "gemma3_with_images", "qwen3_moe_mixed", "gpt_oss_plain"];

/// Exports as `write` does, with the adapter of the fixture or without one; gives the exported model.
fn exported(name: &str, adapted: bool, write: impl FnOnce(&Source, &Path)) -> (tempfile::TempDir, PathBuf) {
    let folder = folder_of(name);
    let files = ModelFiles::open(folder.to_str().unwrap()).unwrap();
    let adapter = folder.join("adapter");
    let adapters: &[(&Path, f64)] = if adapted { &[(&adapter, 1.0)] } else { &[] };
    let update = Update::load(adapters, &files.config).unwrap();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("out.gguf");
    write(&Source::new(&files, None, &update), &path);
    (out, path)
}

fn gguf(kind: Mixture) -> impl Fn(&Source, &Path) {
    move |source, path| export::gguf::Plan::of(source, kind).unwrap().write(source, path).unwrap()
}

fn folder(dtype: graftling::storage::DType) -> impl Fn(&Source, &Path) {
    move |source, path| export::folder::write(source, dtype, path, false, |_| Ok(())).unwrap()
}

/// Every tensor of two models, bit for bit.
fn same_weights(a: &ModelFiles, b: &ModelFiles, what: &str) {
    // Factors of frequencies are tensors in GGUF files, and a part of the config elsewhere.
    let names = |files: &ModelFiles| -> Vec<String> {
        let names = files.tensors.tensors().iter().map(|info| info.name.clone());
        names.filter(|name| !name.starts_with("rope_")).collect()
    };
    assert_eq!(names(a), names(b), "{what}");
    for name in &names(a) {
        let bits = |files: &ModelFiles| files.tensors.read_f32(name).unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert!(bits(a) == bits(b), "{what}: {name} is not the same");
    }
}

#[test]
fn every_family_comes_back_bit_for_bit() {
    for name in SAYABLE {
        let before = ModelFiles::open(folder_of(name).to_str().unwrap()).unwrap();
        let (_keep, path) = exported(name, false, gguf(Mixture::F32));
        let after = ModelFiles::open(path.to_str().unwrap()).unwrap();
        assert_eq!(before.config.differs(&after.config), None, "{name}");
        same_weights(&before, &after, name);
        // And from there into a folder, which has the config of the first.
        let update = Update::default();
        let source = Source::new(&after, None, &update);
        let back = tempfile::tempdir().unwrap();
        let back = back.path().join("model");
        export::folder::write(&source, graftling::storage::DType::F32, &back, false, |_| Ok(())).unwrap();
        let back = ModelFiles::open(back.to_str().unwrap()).unwrap();
        assert_eq!(before.config.differs(&back.config), None, "{name} as a folder");
        same_weights(&before, &back, name);
    }
}

/// Blocks of experts stay as they are in a file of other blocks, and become numbers in a folder.
#[test]
fn blocks_of_experts_are_passed_through() {
    use graftling::storage::DType;
    let folder_of_blocks = folder_of("gpt_oss").join("mxfp4");
    let files = ModelFiles::open(folder_of_blocks.to_str().unwrap()).unwrap();
    let theirs = ModelFiles::open(folder_of("gpt_oss").join("mxfp4.gguf").to_str().unwrap()).unwrap();
    let update = Update::default();
    let source = Source::new(&files, None, &update);
    let out = tempfile::tempdir().unwrap();
    let [path, numbers] = ["out.gguf", "numbers"].map(|name| out.path().join(name));
    gguf(Mixture::Q8_0)(&source, &path);
    folder(DType::BF16)(&source, &numbers);
    let ours = ModelFiles::open(path.to_str().unwrap()).unwrap();
    let of_experts = |name: &str| name.contains(".experts.") && name.ends_with(".weight");
    for info in theirs.tensors.tensors().iter().filter(|info| of_experts(&info.name)) {
        let read = |files: &ModelFiles| {
            let found = files.tensors.find(&info.name).unwrap();
            (found.storage, files.tensors.read_rows(&info.name, 0..info.rows()).unwrap())
        };
        assert_eq!(read(&ours).0, DType::MXFP4, "{}", info.name);
        assert!(read(&ours) == read(&theirs) && read(&ours) == read(&files), "{} has other blocks", info.name);
    }
    let [first, second] = [folder_of("gpt_oss"), numbers].map(|path| ModelFiles::open(path.to_str().unwrap()).unwrap());
    // As numbers: of the two codes of zero, the blocks' formula makes one.
    for info in first.tensors.tensors() {
        assert_eq!(second.tensors.read_f32(&info.name).unwrap(), first.tensors.read_f32(&info.name).unwrap(), "{}", info.name);
    }
}

/// A file of the same weights that gguf-py wrote says the same of the model, and has the same bytes in it.
#[test]
fn files_are_those_that_others_write() {
    for name in SAYABLE {
        let theirs = folder_of(name).join("model.gguf");
        if !theirs.exists() {
            continue;
        }
        let theirs = graftling::formats::gguf::Gguf::open(&theirs).unwrap();
        let largest = theirs.container().tensors.iter().max_by_key(|tensor| tensor.bytes.len()).unwrap();
        let kind = match largest.kind.unwrap().name() {
            "BF16" => Mixture::BF16,
            "F16" => Mixture::F16,
            _ => Mixture::F32,
        };
        let (_keep, path) = exported(name, false, gguf(kind));
        let ours = graftling::formats::gguf::Gguf::open(&path).unwrap();
        let (ours_bytes, theirs_bytes) =
            (std::fs::read(&path).unwrap(), std::fs::read(folder_of(name).join("model.gguf")).unwrap());
        for tensor in &theirs.container().tensors {
            let own = ours.container().tensors.iter().find(|own| own.name == tensor.name);
            let own = own.unwrap_or_else(|| panic!("{name}: there is no {}", tensor.name));
            assert_eq!((&own.shape, own.kind), (&tensor.shape, tensor.kind), "{name}: {}", tensor.name);
            assert!(
                ours_bytes[own.bytes.clone()] == theirs_bytes[tensor.bytes.clone()],
                "{name}: {} has other bytes",
                tensor.name
            );
        }
        assert_eq!(ours.container().tensors.len(), theirs.container().tensors.len(), "{name}");
    }
}

/// What PEFT computes beside the base, the merged model computes by itself.
#[test]
fn merged_models_have_the_losses_of_peft() {
    for name in SAYABLE.iter().chain(&OTHERS) {
        let expected = json(&folder_of(name).join("expected.json"));
        let mut ways = vec![exported(name, true, folder(graftling::storage::DType::F32))];
        if SAYABLE.contains(name) {
            ways.push(exported(name, true, gguf(Mixture::F32)));
        }
        for (_keep, path) in ways {
            let found = Setup::open(&path).token_nll(None, &batch(&[&expected]));
            for (t, (found, expected)) in found.iter().zip(numbers(&expected["adapted"]["token_nll"])).enumerate() {
                assert_close(f64::from(*found), expected, TOKEN_LOSS, &format!("{name} {} token {t}", path.display()));
            }
        }
    }
}

/// Rows of tokens, whole matrices, norms and biases of an adapter are in the merged model: a larger vocabulary, two matrices where PEFT makes two of
/// one, and the losses of PEFT. An adapter's file for llama.cpp has no place for them.
#[test]
fn merged_rows_and_norms_have_the_losses_of_peft() {
    let names =
        ["token_rows", "token_rows_untied", "added_tokens", "added_tokens_untied", "added_tokens_frozen", "added_tokens_whole"];
    for name in names.into_iter().chain([
        "whole_modules",
        "whole_output",
        "whole_tying",
        "whole_untied",
        "norms",
        "some_norms",
        "biases",
        "adapted_biases",
    ]) {
        let case = fixtures().join("adapters").join(name);
        let expected = json(&case.join("expected.json"));
        let mut files = ModelFiles::open(fixtures().join(expected["model"].as_str().unwrap()).to_str().unwrap()).unwrap();
        let tied = files.config.tie_word_embeddings;
        let base = files.config.clone();
        let update = Update::load(&[(&case.join("adapter"), 1.0)], &base).unwrap();
        update.replaced.put_into(&mut files.config);
        let unties = ["whole_modules", "whole_output", "added_tokens_whole", "some_norms"].contains(&name);
        assert_eq!(files.config.tie_word_embeddings, tied && !unties, "{name}");
        let source = Source::new(&files, None, &update);
        let out = tempfile::tempdir().unwrap();
        let [as_folder, as_file] = ["folder", "file.gguf"].map(|name| out.path().join(name));
        folder(graftling::storage::DType::F32)(&source, &as_folder);
        gguf(Mixture::F32)(&source, &as_file);
        for path in [&as_folder, &as_file] {
            let found = Setup::open(path).token_nll(None, &batch(&[&expected]));
            for (t, (found, expected)) in found.iter().zip(numbers(&expected["token_nll"])).enumerate() {
                assert_close(f64::from(*found), expected, TOKEN_LOSS, &format!("{name} {} token {t}", path.display()));
            }
        }
        let refused = export::gguf_adapter::write(&source, Mixture::F32, &out.path().join("adapter.gguf")).unwrap_err();
        assert!(refused.to_string().contains("--to gguf"), "{name}: {refused}");
        // Two adapters cannot both have rows of their own, nor can they have a weight.
        let again = case.join("adapter");
        for adapters in [vec![(again.as_path(), 0.5)], vec![(again.as_path(), 1.0), (again.as_path(), 1.0)]] {
            let refused = Update::load(&adapters, &base).unwrap_err().to_string();
            assert!(refused.contains("no weight"), "{name}: {refused}");
        }
    }
}

/// A window or a rotation that a file cannot say is told or refused, never lost in silence.
#[test]
fn what_a_gguf_file_cannot_say_is_not_lost_in_silence() {
    let _ = exported("mistral", false, |source, _| {
        let plan = export::gguf::Plan::of(source, Mixture::F32).unwrap();
        assert!(plan.notes.iter().any(|note| note.contains("sliding window")), "{:?}", plan.notes);
    });
    let _ = exported("llama_dynamic", false, |source, _| {
        let error = export::gguf::Plan::of(source, Mixture::F32).err().unwrap().to_string();
        assert!(error.contains("dynamic") && error.contains("--to safetensors"), "{error}");
    });
}

/// The adapter's file has what llama.cpp multiplies: alpha / r B A is PEFT's s B A, rows in the order of the base model's file.
#[test]
fn adapter_files_hold_the_same_product() {
    for name in ["llama_biases", "phi3_longrope", "qwen3", "granite", "mixtral", "qwen2_moe", "gpt_oss"] {
        let (_keep, path) = exported(name, true, |source, path| export::gguf_adapter::write(source, Mixture::F32, path).unwrap());
        let bytes = std::fs::read(&path).unwrap();
        let container = graftling::formats::gguf::Container::parse("adapter", &bytes).unwrap();
        let alpha = container.metadata["adapter.lora.alpha"].as_f64().unwrap();
        assert_eq!(container.metadata["general.type"].as_str(), Some("adapter"));
        let values = |name: &str| -> (Vec<usize>, Vec<f32>) {
            let tensor = container.tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name}"));
            (tensor.shape.clone(), bytemuck::pod_collect_to_vec(&bytes[tensor.bytes.clone()]))
        };
        // The merged file's rows less the base's are the product, row for row.
        let merged = exported(name, true, gguf(Mixture::F32));
        let base = exported(name, false, gguf(Mixture::F32));
        let raw = |path: &Path| {
            let bytes = std::fs::read(path).unwrap();
            let container = graftling::formats::gguf::Container::parse("model", &bytes).unwrap();
            (bytes, container)
        };
        let ((merged, of_merged), (base, _)) = (raw(&merged.1), raw(&base.1));
        let mut compared = 0;
        for tensor in &of_merged.tensors {
            let pair = format!("{}.lora_a", tensor.name);
            if !container.tensors.iter().any(|tensor| tensor.name == pair) {
                continue;
            }
            let ((a_shape, a), (b_shape, b)) = (values(&pair), values(&format!("{}.lora_b", tensor.name)));
            // Of experts one pair behind the other.
            let (experts, dimensions) = match *a_shape.as_slice() {
                [experts, r, columns] => (experts, [r, columns]),
                _ => (1, [a_shape[0], a_shape[1]]),
            };
            let ([r, columns], rows) = (dimensions, tensor.shape[..tensor.shape.len() - 1].iter().product::<usize>());
            assert_eq!(b_shape, [&tensor.shape[..tensor.shape.len() - 1], &[r]].concat());
            let number = |bytes: &[u8], at: usize| {
                let at = tensor.bytes.start + 4 * at;
                f64::from(f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
            };
            for row in 0..rows {
                let a = &a[row / (rows / experts) * r * columns..];
                for column in 0..columns {
                    let sum: f64 = (0..r).map(|k| f64::from(b[row * r + k]) * f64::from(a[k * columns + column])).sum();
                    let difference = number(&merged, row * columns + column) - number(&base, row * columns + column);
                    assert_close(difference, alpha / r as f64 * sum, 2e-6, &format!("{name} {} {row} {column}", tensor.name));
                }
            }
            compared += 1;
        }
        let adapted = adapted_tensors(name);
        assert_eq!([compared, container.tensors.len()], [adapted, 2 * adapted], "{name}: every pair has been compared");
    }
}

/// Tensors of a fixture's model that its adapter changes.
fn adapted_tensors(name: &str) -> usize {
    let folder = folder_of(name);
    let files = ModelFiles::open(folder.to_str().unwrap()).unwrap();
    Update::load(&[(&folder.join("adapter"), 1.0)], &files.config).unwrap().sites().count()
}

/// The folder for mlx-lm has what that multiplies, `scale A B` of each module and, the other way round, of each expert, by the names there.
#[test]
fn folders_for_mlx_hold_the_same_product() {
    for (name, module) in [
        ("llama_biases", "model.layers.0.mlp.up_proj"),
        ("mixtral", "model.layers.0.block_sparse_moe.switch_mlp.gate_proj"),
        ("qwen3_moe", "model.layers.0.mlp.switch_mlp.down_proj"),
        ("gpt_oss", "model.layers.0.mlp.experts.up_proj"),
    ] {
        let folder = folder_of(name);
        let files = ModelFiles::open(folder.to_str().unwrap()).unwrap();
        let update = Update::load(&[(&folder.join("adapter"), 1.0)], &files.config).unwrap();
        let out = tempfile::tempdir().unwrap();
        let written = out.path().join("mlx");
        let dtype = graftling::storage::DType::F32;
        export::mlx_adapter::write(&Source::new(&files, None, &update), dtype, &written, false).unwrap();
        let config: Value = serde_json::from_slice(&std::fs::read(written.join("adapter_config.json")).unwrap()).unwrap();
        let scale = config["lora_parameters"]["scale"].as_f64().unwrap();
        let bytes = std::fs::read(written.join("adapters.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.len(), 2 * update.sites().count(), "{name}");
        let key = module.split_once(".0.").unwrap().1;
        assert!(config["lora_parameters"]["keys"].as_array().unwrap().iter().any(|known| known == key), "{name}: {config}");
        let values = |matrix: &str| -> (Vec<usize>, Vec<f32>) {
            let tensor = tensors.tensor(&format!("{module}.{matrix}")).unwrap();
            (tensor.shape().to_vec(), bytemuck::pod_collect_to_vec(tensor.data()))
        };
        let ((a_shape, a), (b_shape, b)) = (values("lora_a"), values("lora_b"));
        // The tensor of ours whose module this is.
        let parameters = graftling::architecture::parameters(&files.config);
        let own = |p: &&graftling::architecture::Parameter| {
            p.layer == Some(0) && p.name.ends_with(".weight") && module.ends_with(p.usual_module())
        };
        let parameter = parameters.iter().find(own).unwrap();
        let (columns, rows) = (parameter.shape[1], parameter.shape[0]);
        let product = |row: usize, column: usize| -> f64 {
            let terms: Vec<f64> = match (a_shape.as_slice(), b_shape.as_slice()) {
                (&[experts, r, input], &[_, each, _]) => {
                    assert_eq!([experts * each, input], [rows, columns]);
                    let expert = row / each;
                    (0..r).map(|k| f64::from(b[row * r + k]) * f64::from(a[(expert * r + k) * input + column])).collect()
                }
                (&[input, r], &[_, each]) => {
                    assert_eq!([each, input], [rows, columns]);
                    (0..r).map(|k| f64::from(b[k * each + row]) * f64::from(a[column * r + k])).collect()
                }
                other => panic!("{name}: {other:?}"),
            };
            scale * terms.iter().sum::<f64>()
        };
        for row in 0..rows {
            let mut expected = vec![0.0; columns];
            let pieces = update.low_rank(&parameter.name).unwrap();
            pieces.iter().for_each(|(weight, piece)| piece.add_row(row, *weight, &mut expected));
            for (column, expected) in expected.into_iter().enumerate() {
                assert_close(product(row, column), expected, 2e-6, &format!("{name} {row} {column}"));
            }
        }
    }
}
