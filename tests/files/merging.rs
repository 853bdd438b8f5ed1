//! Adapters into weights: the laws that hold whatever the method, on the tiny model.

use std::path::{Path, PathBuf};

use graftling::architecture::{Architecture, Order, parameters, sites};
use graftling::export::{self, Source};
use graftling::formats::ModelFiles;
use graftling::formats::gguf::Container;
use graftling::formats::peft::{AdapterConfig, AdapterTensor, save_adapter};
use graftling::merge::combine::Method;
use graftling::merge::report::{self, Row, Sums};
use graftling::merge::{Combination, Combined, MergedWeights, Update};
use graftling::storage::mixture::Mixture;
use graftling::storage::{DType, TensorInfo, TensorSource};

use super::{message, program::program, tiny};

/// An adapter of the tiny model's `q_proj` and `down_proj` in both layers.
fn adapter(folder: &Path, seed: u64, r: usize, lora_alpha: f64, use_rslora: bool) -> PathBuf {
    let modules = ["down_proj", "q_proj"];
    let adapted = sites(&tiny::config()).into_iter().filter(|site| modules.contains(&site.module));
    let tensors: Vec<AdapterTensor> = adapted
        .flat_map(|site| {
            let tensor = |own: &str, shape: [usize; 2], seed| AdapterTensor {
                name: format!("{}.{own}", site.name()),
                shape,
                values: tiny::values(seed, shape[0] * shape[1]).into_iter().map(|value| value / 64.0).collect(),
            };
            let seed = seed * 1000 + site.number as u64 * 2;
            [tensor("lora_a", [r, site.in_features], seed), tensor("lora_b", [site.out_features, r], seed + 1)]
        })
        .collect();
    let config = AdapterConfig {
        r,
        lora_alpha,
        use_rslora,
        target_modules: modules.map(str::to_owned).to_vec(),
        ..AdapterConfig::default()
    };
    let path = folder.join(format!("adapter-{seed}"));
    save_adapter(&path, &config, &tensors).unwrap();
    path
}

struct Setup {
    _folder: tempfile::TempDir,
    files: ModelFiles,
    adapters: Vec<PathBuf>,
}

fn setup() -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    tiny::write_folder(&model);
    let files = ModelFiles::open(model.to_str().unwrap()).unwrap();
    let adapters = vec![adapter(folder.path(), 1, 2, 4.0, false), adapter(folder.path(), 2, 3, 5.0, true)];
    Setup { _folder: folder, files, adapters }
}

impl Setup {
    fn update(&self, adapters: &[(usize, f64)]) -> Update {
        let weighted: Vec<(&Path, f64)> = adapters.iter().map(|(at, weight)| (self.adapters[*at].as_path(), *weight)).collect();
        Update::load(&weighted, &self.files.config).unwrap()
    }

    /// What is added to a tensor, in f64.
    fn change(&self, adapters: &[(usize, f64)], combination: Combination, tensor: &str) -> Vec<f64> {
        let update = self.update(adapters);
        let rows = self.files.tensors.find(tensor).unwrap().rows();
        let columns = self.files.tensors.find(tensor).unwrap().row_values();
        let combined = Combined::of(&update, tensor, &combination).unwrap().unwrap();
        // In two pieces: it must not depend on the cut.
        let mut values = vec![0.0; rows * columns];
        let cut = rows / 3;
        let (above, below) = values.split_at_mut(cut * columns);
        combined.put_into(0..cut, above);
        combined.put_into(cut..rows, below);
        values
    }
}

const TENSOR: &str = "model.layers.1.mlp.down_proj.weight";
const METHODS: [Method; 7] =
    [Method::Linear, Method::Cat, Method::Svd, Method::Ties, Method::DareLinear, Method::DareTies, Method::MagnitudePrune];

fn by(method: Method) -> Combination {
    Combination { method, density: 1.0, ..Combination::default() }
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

/// `s B A` from the adapter's own file.
fn by_hand(setup: &Setup, at: usize) -> Vec<f64> {
    let (config, tensors) = graftling::formats::peft::load_adapter(&setup.adapters[at]).unwrap();
    let tensor = |own: &str| tensors.iter().find(|tensor| tensor.name == format!("layers.1.mlp.down_proj.{own}")).unwrap();
    let (a, b) = (tensor("lora_a"), tensor("lora_b"));
    let (r, columns) = (a.shape[0], a.shape[1]);
    let value = |row: usize, column: usize| -> f64 {
        (0..r).map(|k| f64::from(b.values[row * r + k]) * f64::from(a.values[k * columns + column])).sum()
    };
    let scale = config.lora_alpha / if config.use_rslora { (r as f64).sqrt() } else { r as f64 };
    (0..b.shape[0]).flat_map(|row| (0..columns).map(move |column| (row, column))).map(|(r, c)| scale * value(r, c)).collect()
}

#[test]
fn one_adapter_of_weight_1_is_itself_by_every_method() {
    let setup = setup();
    for at in [0, 1] {
        let expected = by_hand(&setup, at);
        for method in METHODS {
            let found = setup.change(&[(at, 1.0)], by(method), TENSOR);
            assert!(distance(&found, &expected) < 1e-7, "{method:?} of adapter {at}: {}", distance(&found, &expected));
        }
    }
}

#[test]
fn sums_are_sums_and_svd_is_the_nearest_of_its_rank() {
    let setup = setup();
    let both = [(0, 0.7), (1, -0.4)];
    let sum: Vec<f64> = by_hand(&setup, 0).iter().zip(by_hand(&setup, 1)).map(|(a, b)| 0.7 * a - 0.4 * b).collect();
    for method in [Method::Linear, Method::Cat] {
        assert!(distance(&setup.change(&both, by(method), TENSOR), &sum) < 1e-12, "{method:?}");
    }
    // More ranks than the matrix has rows: nothing is lost either.
    let wide = [3, 4].map(|seed| adapter(setup._folder.path(), seed, 40, 20.0, false));
    let weighted = wide.each_ref().map(|path| (path.as_path(), 1.0));
    let update = Update::load(&weighted, &setup.files.config).unwrap();
    let put = |combination: Combination| {
        let mut values = vec![0.0; 64 * 96];
        Combined::of(&update, TENSOR, &combination).unwrap().unwrap().put_into(0..64, &mut values);
        values
    };
    assert!(distance(&put(Combination { rank: Some(70), ..by(Method::Svd) }), &put(by(Method::Linear))) < 1e-6);
    // Of full rank nothing is lost; of less, exactly what the smaller singular values hold.
    let svd = |rank| Combination { rank: Some(rank), ..by(Method::Svd) };
    assert!(distance(&setup.change(&both, svd(5), TENSOR), &sum) < 1e-7);
    let whole = nalgebra::DMatrix::from_row_slice(64, 96, &sum).singular_values();
    for rank in [1, 2, 4] {
        let lost = whole.iter().skip(rank).map(|value| value * value).sum::<f64>().sqrt() / whole.norm();
        let found = distance(&setup.change(&both, svd(rank), TENSOR), &sum);
        assert!((found - lost).abs() < 1e-6, "rank {rank}: {found} is lost, and {lost} must be");
    }
}

#[test]
fn values_are_dropped_as_the_methods_say() {
    let setup = setup();
    let (first, second) = (by_hand(&setup, 0), by_hand(&setup, 1));
    let with = |method, density, seed| Combination { method, density, seed, rank: None };
    let kept = |values: &[f64], density: f64| -> Vec<f64> {
        let mut sizes: Vec<f32> = values.iter().map(|value| value.abs() as f32).collect();
        sizes.sort_by(|a, b| b.total_cmp(a));
        let least = sizes[(values.len() as f64 * density).ceil() as usize - 1];
        values.iter().map(|&value| if (value.abs() as f32) >= least { value } else { 0.0 }).collect()
    };
    let (a, b) = (kept(&first, 0.3), kept(&second, 0.3));
    let both = [(0, 1.0), (1, 0.5)];
    let pruned: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a + 0.5 * b).collect();
    assert!(distance(&setup.change(&both, with(Method::MagnitudePrune, 0.3, 0), TENSOR), &pruned) < 1e-9);
    let elected: Vec<f64> = a
        .iter()
        .zip(&b)
        .map(|(&a, &b)| {
            let sign = if a + b >= 0.0 { 1.0 } else { -1.0 };
            let agrees = |value: f64| value != 0.0 && value.signum() == sign;
            match (agrees(a), agrees(b)) {
                (true, true) => (a + 0.5 * b) / 2.0,
                (true, false) => a,
                (false, true) => 0.5 * b,
                (false, false) => 0.0,
            }
        })
        .collect();
    assert!(distance(&setup.change(&both, with(Method::Ties, 0.3, 0), TENSOR), &elected) < 1e-9);

    let dropped = setup.change(&[(0, 1.0)], with(Method::DareLinear, 0.25, 7), TENSOR);
    let stay = dropped.iter().filter(|value| **value != 0.0).count() as f64 / dropped.len() as f64;
    // 6,144 draws: five standard deviations are 0.028.
    assert!((stay - 0.25).abs() < 0.028, "{stay} of the values stay");
    for (&dropped, &whole) in dropped.iter().zip(&first) {
        assert!(dropped == 0.0 || (dropped - 4.0 * whole).abs() <= 1e-12 * whole.abs(), "{dropped} of {whole}");
    }
    let again = |seed| setup.change(&[(0, 1.0)], with(Method::DareLinear, 0.25, seed), TENSOR);
    assert_eq!(again(7), dropped);
    assert_ne!(again(8), dropped);
    // Two adapters lose different values.
    let zeros = |at| -> Vec<bool> {
        let found = setup.change(
            &[(0, if at == 0 { 1.0 } else { 0.0 }), (1, if at == 1 { 1.0 } else { 0.0 })],
            with(Method::DareLinear, 0.25, 7),
            TENSOR,
        );
        found.iter().map(|value| *value == 0.0).collect()
    };
    assert_ne!(zeros(0), zeros(1));
}

/// What passes through is rounded once, and what the sums tell of it is so.
#[test]
fn merged_weights_are_rounded_once_and_measured() {
    let setup = setup();
    let update = setup.update(&[(0, 1.0)]);
    let weights = MergedWeights { source: &*setup.files.tensors, update: &update, combination: Combination::default() };
    let change = by_hand(&setup, 0);
    let base = setup.files.tensors.read_f32(TENSOR).unwrap();
    let parameter = parameters(&setup.files.config).into_iter().find(|parameter| parameter.name == TENSOR).unwrap();
    for dtype in [DType::F32, DType::BF16, DType::Q8_0] {
        let mut bytes = Vec::new();
        let sums = weights.stream(&parameter, Order::Plain, dtype, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        });
        let sums: Sums = sums.unwrap().unwrap();
        let exact: Vec<f64> = base.iter().zip(&change).map(|(&w, d)| f64::from(w) + d).collect();
        let single: Vec<f32> = exact.iter().map(|&value| value as f32).collect();
        assert!(bytes == dtype.quantise(&single), "{dtype}");
        let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
        let base: Vec<f64> = base.iter().map(|&value| f64::from(value)).collect();
        assert!((sums.size() - norm(&change) / norm(&base)).abs() < 1e-9);
        let stored = graftling::storage::rounded(&single, dtype);
        let error: Vec<f64> = stored.iter().zip(&exact).map(|(&stored, exact)| f64::from(stored) - exact).collect();
        assert!((sums.rounding() - norm(&error) / norm(&change)).abs() < 1e-9, "{dtype}");
        let kept: f64 = stored.iter().zip(&base).zip(&change).map(|((&stored, base), d)| (f64::from(stored) - base) * d).sum();
        assert!((sums.kept() - kept / norm(&change).powi(2)).abs() < 1e-9, "{dtype}");
    }
    // What nothing changes keeps its bytes.
    let other = parameters(&setup.files.config).into_iter().find(|parameter| parameter.module == "v_proj").unwrap();
    let mut bytes = Vec::new();
    let sums = weights.stream(&other, Order::Plain, DType::F32, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    });
    assert_eq!((sums.unwrap(), bytes), (None, setup.files.tensors.read_rows(&other.name, 0..32).unwrap()));
}

/// A folder has a tensor for each expert, and the matrix of all of them is combined, measured and reported once: with its whole change.
#[test]
fn the_matrix_of_all_experts_is_reported_once() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference/families/qwen3_moe");
    let (folder, adapter) = (tempfile::tempdir().unwrap(), model.join("adapter"));
    let out = folder.path().join("merged");
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_graftling"))
        .args([Path::new("merge"), Path::new("--model"), &model, Path::new("--adapter"), &adapter, Path::new("--out"), &out])
        .args(["--method", "magnitude-prune", "--density", "0.25", "--overlap", "0", "--type", "f32"])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let report: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("merge-report.json")).unwrap()).unwrap();

    let files = ModelFiles::open(model.to_str().unwrap()).unwrap();
    let update = Update::load(&[(&adapter, 1.0)], &files.config).unwrap();
    let combination = Combination { method: Method::MagnitudePrune, density: 0.25, ..Combination::default() };
    let weights = MergedWeights { source: &*files.tensors, update: &update, combination };
    let adapted: Vec<_> = parameters(&files.config).into_iter().filter(|parameter| update.changes(&parameter.name)).collect();
    assert!(adapted.iter().any(|parameter| parameter.experts.is_some_and(|experts| experts > 1)));
    let told = report["modules"].as_array().unwrap();
    assert_eq!((told.len(), report["matrices"].as_u64()), (adapted.len(), Some(adapted.len() as u64)));
    for (told, parameter) in told.iter().zip(&adapted) {
        let sums = weights.stream(parameter, Order::Plain, DType::F32, |_| Ok(())).unwrap().unwrap();
        assert_eq!(told["module"], update.site(&parameter.name).unwrap().name());
        for (key, expected) in [("size", sums.size()), ("kept", sums.kept())] {
            let found = told[key].as_f64().unwrap();
            // As printed and read again.
            assert!((found - expected).abs() < 1e-12, "{}: {key} {found} instead of {expected}", parameter.name);
        }
    }
}

/// Of a matrix that the adapter has whole nothing is read, and of one of which it has some rows the others alone.
#[test]
fn rows_that_the_adapter_has_are_not_read() {
    let setup = setup();
    let (mut config, mut tensors) = graftling::formats::peft::load_adapter(&setup.adapters[0]).unwrap();
    config.modules_to_save = vec!["embed_tokens".to_owned()];
    config.token_indices = [("lm_head".to_owned(), vec![3, 7, 8])].into();
    let own = [("embed_tokens.weight", 40), ("lm_head.token_rows", 3)].map(|(name, rows)| {
        let tensor = AdapterTensor { name: name.to_owned(), shape: [rows, 64], values: tiny::values(rows as u64, rows * 64) };
        tensors.push(tensor.clone());
        tensor.values
    });
    let folder = setup._folder.path().join("with-rows");
    save_adapter(&folder, &config, &tensors).unwrap();
    let update = Update::load(&[(&folder, 1.0)], &setup.files.config).unwrap();
    let source = tiny::Told::of(&*setup.files.tensors);
    let weights = MergedWeights { source: &source, update: &update, combination: Combination::default() };
    let merged = |name: &str| {
        let parameter = parameters(&setup.files.config).into_iter().find(|parameter| parameter.name == name).unwrap();
        source.read();
        let mut bytes = Vec::new();
        let taken = weights.stream(&parameter, Order::Plain, DType::F32, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        });
        assert_eq!(taken.unwrap(), None);
        (bytes, source.read().into_iter().map(|(_, rows)| rows).collect::<Vec<_>>())
    };
    assert_eq!(merged("model.embed_tokens.weight"), (tiny::f32_bytes(&own[0]), Vec::new()));
    let mut expected = setup.files.tensors.read_f32("lm_head.weight").unwrap();
    for (token, row) in [3, 7, 8].into_iter().zip(own[1].chunks(64)) {
        expected[64 * token..][..64].copy_from_slice(row);
    }
    assert_eq!(merged("lm_head.weight"), (tiny::f32_bytes(&expected), vec![0..3, 4..7, 9..40]));
}

/// The overlap of random directions is about what it is by chance; of two adapters, cosine and signs are those of their changes.
#[test]
fn the_report_tells_what_can_be_computed_by_hand() {
    let setup = setup();
    let update = setup.update(&[(0, 1.0), (1, 1.0)]);
    let pairs = report::pairs(&update, TENSOR).unwrap();
    let (a, b) = (by_hand(&setup, 0), by_hand(&setup, 1));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    assert!((pairs[0].cosine - dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()).abs() < 1e-9);
    let both = a.iter().zip(&b).filter(|(a, b)| *a * *b != 0.0).count() as f64;
    let differ = a.iter().zip(&b).filter(|(a, b)| *a * *b < 0.0).count() as f64;
    assert!((pairs[0].sign_conflicts - differ / both).abs() < 1e-12);
    let same = report::pairs(&setup.update(&[(0, 1.0), (0, 2.0)]), TENSOR).unwrap();
    assert!((same[0].cosine - 1.0).abs() < 1e-12 && same[0].sign_conflicts == 0.0);

    // A base whose strongest directions are those of the first adapter's change.
    let base: Vec<f64> = tiny::values(77, a.len()).iter().zip(&a).map(|(&w, d)| f64::from(w) / 1000.0 + d).collect();
    let values = base.iter().map(|&value| value as f32).collect();
    let info = setup.files.tensors.find(TENSOR).unwrap().clone();
    let planted = Planted { tensors: vec![info], values };
    // The subspaces by nalgebra's decomposition of the whole matrices; the changes have ranks 2 and 3.
    let directions = |values: &[f64], k: usize| {
        let svd = nalgebra::DMatrix::from_row_slice(64, 96, values).svd(true, false);
        let mut order: Vec<usize> = (0..64).collect();
        order.sort_by(|&a, &b| svd.singular_values[b].total_cmp(&svd.singular_values[a]));
        let u = svd.u.unwrap();
        let columns: Vec<_> = order.iter().take(k).map(|&at| u.column(at)).collect();
        nalgebra::DMatrix::from_columns(&columns)
    };
    for (at, change, k) in [(0, &a, 2), (1, &b, 2)] {
        let update = setup.update(&[(at, 1.0)]);
        let (overlap, chance) = report::overlap(&planted, &update, TENSOR, k).unwrap().unwrap();
        let expected = (directions(&base, k).transpose() * directions(change, k)).norm_squared() / k as f64;
        assert!((overlap - expected).abs() < 1e-3, "adapter {at}: {overlap}, by the whole decomposition {expected}");
        assert!(at == 1 || overlap > 0.9, "{overlap} where the base was made of the change");
        assert!((chance - k as f64 / 64.0).abs() < 1e-12);
    }
}

/// A change that is small against the steps of a type is rounded back, and the report warns; of one that is large only noise is added, and it
/// does not, however coarse the type is.
#[test]
fn the_report_warns_where_rounding_erases_a_change() {
    let setup = setup();
    let info = setup.files.tensors.find(TENSOR).unwrap().clone();
    let parameter = parameters(&setup.files.config).into_iter().find(|parameter| parameter.name == TENSOR).unwrap();
    let rows_of = |weight: f64| {
        let values = graftling::storage::rounded(&tiny::values(77, 64 * 96), DType::Q4_0);
        let planted = Planted { tensors: vec![info.clone()], values };
        let update = setup.update(&[(0, weight)]);
        let weights = MergedWeights { source: &planted, update: &update, combination: Combination::default() };
        let stored = weights.stream(&parameter, Order::Plain, DType::BF16, |_| Ok(())).unwrap().unwrap();
        let requantised = weights.rounded_to(&parameter, DType::Q4_0).unwrap();
        // Rows of 96 values are no whole blocks of 256.
        assert_eq!(weights.rounded_to(&parameter, DType::Q4_K).unwrap(), None);
        let [size, rounding, kept] = [stored.size(), stored.rounding(), stored.kept()];
        vec![Row { module: "down_proj".to_owned(), size, rounding, kept, requantised, ..Row::default() }]
    };
    // Changes of about a hundredth and of a third of the base.
    let scale = 1.0 / rows_of(1.0)[0].size;
    let [small, large] = [0.01, 0.33].map(|size| rows_of(size * scale));
    assert!((small[0].size - 0.01).abs() < 1e-6 && (large[0].size - 0.33).abs() < 1e-6);
    let kept = [&small, &large].map(|rows| rows[0].requantised.unwrap().kept);
    assert!(kept[0] < 0.5 && (kept[1] - 1.0).abs() < 0.1, "{kept:?}");
    let warnings = report::warnings(&small, "BF16", Some("Q4_0"));
    assert!(warnings.len() == 1 && warnings[0].starts_with("storing in Q4_0 would round back"), "{warnings:?}");
    assert!(report::warnings(&large, "BF16", Some("Q4_0")).is_empty());
    assert!(report::warnings(&rows_of(0.6 * scale), "BF16", None)[0].contains("overwrites the base"));
}

/// A source of one matrix.
struct Planted {
    tensors: Vec<TensorInfo>,
    values: Vec<f32>,
}

impl TensorSource for Planted {
    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn unreadable(&self) -> &[(String, String)] {
        &[]
    }

    fn place(&self, _: &str) -> String {
        "planted".to_owned()
    }

    fn read_rows(&self, _: &str, rows: std::ops::Range<usize>) -> graftling::Result<Vec<u8>> {
        Ok(tiny::f32_bytes(&self.values[96 * rows.start..96 * rows.end]))
    }
}

/// `--overwrite` replaces what an export has written, and never what is read, nor what someone else has made.
#[test]
fn overwriting_takes_nothing_that_no_export_has_written() {
    let setup = setup();
    let folder = setup._folder.path();
    let [model, adapter] = [folder.join("model"), setup.adapters[0].clone()];
    let update = Update::default();
    let source = Source::new(&setup.files, None, &update);
    export::gguf::Plan::of(&source, Mixture::F32).unwrap().write(&source, &folder.join("base.gguf")).unwrap();
    std::fs::write(folder.join("note.txt"), "mine").unwrap();
    let run = |command: &str, model: &Path, more: &[&str], out: &Path| {
        let output = program()
            .args([command, "--overwrite", "--model"])
            .args([model, Path::new("--adapter"), &adapter, Path::new("--out"), out])
            .args(more)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (gguf, base) = (["--to", "gguf", "--type", "q8_0"], folder.join("base.gguf"));
    let before = std::fs::read(&base).unwrap();
    let refused = |(code, text): (Option<i32>, String), why: &str| assert!(code == Some(2) && text.contains(why), "{text}");
    refused(run("merge", &model, &[], &model), "is what is read here");
    refused(run("merge", &model, &[], &folder.join("model/../model")), "is what is read here");
    refused(run("merge", &model, &[], &adapter), "is what is read here");
    refused(run("merge", &model, &[], &setup.adapters[1]), "holds adapter_model.safetensors");
    refused(run("export", &model, &["--to", "mlx-adapter"], &adapter), "is what is read here");
    refused(run("export", &base, &gguf, &base), "is what is read here");
    refused(run("export", &base, &gguf, &folder.join("note.txt")), "is no GGUF file");
    refused(run("export", &base, &gguf, &model), "is no GGUF file");
    assert_eq!(
        (std::fs::read(&base).unwrap(), std::fs::read_to_string(folder.join("note.txt")).unwrap()),
        (before, "mine".to_owned())
    );
    let files = ["model/model.safetensors", "adapter-1/adapter_model.safetensors", "adapter-2/adapter_model.safetensors"];
    assert!(files.iter().all(|name| folder.join(name).is_file()));
    for _ in 0..2 {
        for (code, text) in
            [run("export", &base, &gguf, &folder.join("out/out.gguf")), run("merge", &model, &[], &folder.join("merged"))]
        {
            assert_eq!(code, Some(0), "{text}");
        }
    }
}

/// An adapter for another model is refused, and so are impossible settings and targets.
#[test]
fn what_cannot_be_is_refused() {
    let setup = setup();
    let mut config = tiny::config_json();
    config["intermediate_size"] = serde_json::json!(128);
    let other = Architecture::from_json_str(&config.to_string()).unwrap();
    let text = message(Update::load(&[(&setup.adapters[0], 1.0)], &other));
    assert!(text.contains("down_proj.lora_a") && text.contains("adapter-1"), "{text}");
    assert!(message(Combination { density: 0.0, ..Combination::default() }.check()).contains("--density"));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let update = Update::default();
    let source = Source::new(&setup.files, None, &update);
    let write = |overwrite| export::folder::write(&source, DType::F32, &out, overwrite, |_| Ok(()));
    write(false).unwrap();
    assert!(message(write(false)).contains("--overwrite"));
    write(true).unwrap();
    std::fs::write(out.join("notes.txt"), "the user's").unwrap();
    assert!(message(write(true)).contains("notes.txt"));
    assert_eq!(std::fs::read_to_string(out.join("notes.txt")).unwrap(), "the user's");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    assert!(message(export::gguf_adapter::write(&source, Mixture::F32, &folder.path().join("a.gguf"))).contains("--adapter"));
    assert!(message(export::folder::write(&source, DType::Q8_0, &out, true, |_| Ok(()))).contains("--type"));
}

/// Every mixture is written and opened again, its values those of the quantiser.
#[test]
fn every_type_of_gguf_file_can_be_read() {
    let setup = setup();
    let update = Update::default();
    let source = Source::new(&setup.files, None, &update);
    let folder = tempfile::tempdir().unwrap();
    let kinds = [Mixture::F16, Mixture::BF16, Mixture::Q8_0, Mixture::Q6_K, Mixture::Q5_K_M, Mixture::Q4_K_M, Mixture::Q4_0];
    for kind in kinds {
        let path = folder.path().join(format!("{}.gguf", kind.name()));
        export::gguf::Plan::of(&source, kind).unwrap().write(&source, &path).unwrap();
        let read = ModelFiles::open(path.to_str().unwrap()).unwrap();
        assert_eq!(setup.files.config.differs(&read.config), None, "{}", kind.name());
        for info in read.tensors.tensors() {
            let before = setup.files.tensors.read_f32(&info.name).unwrap();
            assert!(
                read.tensors.read_f32(&info.name).unwrap() == graftling::storage::rounded(&before, info.storage),
                "{}",
                info.name
            );
        }
        let bytes = std::fs::read(&path).unwrap();
        let container = Container::parse("file", &bytes).unwrap();
        assert_eq!(container.metadata["general.file_type"].as_u64(), Some(u64::from(kind.file_type())));
        assert!(container.tensors.iter().all(|tensor| tensor.bytes.start % 32 == 0));
    }
}
