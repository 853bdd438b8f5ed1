//! Folders that libraries for quantising write, and PyTorch's own files: every value bit for bit, and the losses and steps of those values.

use super::*;
use graftling::storage::{DType, TensorSource};
use sha2::{Digest, Sha256};

/// As of families: the first Adam steps divide noise by noise, and these models' losses are steep.
const STEP_LOSS: f64 = 5e-4;

fn digest(source: &dyn TensorSource, name: &str) -> String {
    let values = source.read_f32(name).unwrap();
    Sha256::digest(bytemuck::cast_slice::<f32, u8>(&values)).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check(name: &str, adapter: &str, blocks: &[&str]) {
    let all = fixtures().join("quantised");
    let (folder, adapter) = (all.join(name), all.join(adapter));
    let expected = json(&folder.join("expected.json"));
    let setup = Setup::open(&folder);
    let source = &*setup.files.tensors;
    for (tensor, expected) in expected["sha256"].as_object().unwrap() {
        assert_eq!(digest(source, tensor), expected.as_str().unwrap(), "{name} {tensor}");
        // Some rows alone are those of the whole.
        let info = source.find(tensor).unwrap();
        let (rows, columns) = (3..info.rows().min(30), info.row_values());
        let mut some = vec![0.0; rows.len() * columns];
        source.read_rows_f32(tensor, rows.clone(), &mut some).unwrap();
        assert!(some == source.read_f32(tensor).unwrap()[rows.start * columns..rows.end * columns], "{name} {tensor}");
    }

    // What is in blocks in the folder stays so, and takes at most a tenth more.
    let in_blocks: Vec<_> = source.tensors().iter().filter(|info| info.storage.block() > 1).collect();
    let found: std::collections::BTreeSet<&str> = in_blocks.iter().map(|info| info.storage.name()).collect();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), blocks, "{name}");
    let (file, device) = in_blocks.iter().fold((0, 0), |(file, device), info| {
        assert_eq!(setup.weights.dtype(&info.name), info.storage);
        (file + info.bytes, device + info.storage.bytes(info.values() as usize) as u64)
    });
    assert!(device * 10 <= file * 11, "{name}: {device} bytes for {file}");
    let linear = source.tensors().iter().filter(|info| info.name.ends_with("_proj.weight"));
    let of_linear: Vec<DType> = linear.map(|info| info.storage).collect();
    assert!(blocks.is_empty() || of_linear.iter().all(|dtype| dtype.block() > 1), "{name}: {of_linear:?}");

    let layers: Vec<usize> = (0..setup.files.config.num_hidden_layers).collect();
    let spec = spec_of(&expected, layers, &ALL);
    let (_, start) = load_adapter(&adapter).unwrap();
    let sequence = batch(&[&expected]);
    for (group, adapter) in [("base", None), ("adapted", Some(setup.adapter(&spec, &start)))] {
        let found = setup.token_nll(adapter.as_ref(), &sequence);
        for (t, (found, expected)) in found.iter().zip(numbers(&expected[group]["token_nll"])).enumerate() {
            assert_close(f64::from(*found), expected, TOKEN_LOSS, &format!("{name} {group} token {t}"));
        }
    }
    check_adamw(&setup, &spec, &start, &expected["adamw"], STEP_LOSS, name);
}

macro_rules! folders {
    ($($folder:ident: $($block:literal)*;)*) => {
        $(#[test] fn $folder() { check(stringify!($folder), "adapter", &[$($block),*]); })*
    };
}

folders! {
    gptq: "INT2_32_ZF16" "INT3_32_ZF16" "INT3_64_ZF16" "INT4_128" "INT4_32_ZF16" "INT4_64_ZF16" "INT8_32";
    gptq_v2: "INT4_128" "INT4_64_ZF16" "INT8_64";
    gptq_act_order: "INT4_32_ZF16";
    awq: "INT4_64_ZF16";
    mlx: "INT4_64_BF16" "INT8_64_BF16";
    mlx_mixed: "INT2_32_F16" "INT2_64_F16" "INT3_32_F16" "INT3_64_F16" "INT4_32_F16" "INT5_64_F16" "INT6_32_F16" "INT8_32_F16";
    compressed_int4: "INT4_32_ZBF16";
    compressed_fp8: "FP8_E4M3";
    fp8_block: "FP8_E4M3";
    fp8_tensor: "FP8_E4M3";
}

/// Shards with an index, a transposed matrix, two matrices in one storage; and an adapter of the same kind.
#[test]
fn pytorch() {
    check("pytorch", "pytorch/adapter", &[]);
}
