//! GGUF: exact numbers in Hugging Face's order, names, text, and clear refusals.

use std::path::PathBuf;

use graftling::{
    architecture::RopeScaling,
    formats::{ModelFiles, TokenizerSource, gguf::Gguf},
    storage::{DType, TensorSource},
};
use half::f16;

use super::{
    gguf_file::{BOOL, F32, GgufFile, STRING, U32, permuted, string},
    message, tiny,
};

/// Writes a file that lives as long as the folder.
fn write(folder: &tempfile::TempDir, file: &GgufFile) -> PathBuf {
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    path
}

fn open(file: &GgufFile) -> graftling::Result<ModelFiles> {
    let folder = tempfile::tempdir().unwrap();
    ModelFiles::open(write(&folder, file).to_str().unwrap())
}

#[test]
fn tensors_have_hugging_faces_names_shapes_and_order() {
    let files = open(&GgufFile::tiny()).unwrap();
    assert_eq!(files.name, "tiny");
    let mut expected = tiny::config();
    expected.eos_token_ids = vec![2, 3];
    assert_eq!(files.config, expected);
    for (name, shape, values) in tiny::tensors() {
        let info = files.tensors.find(&name).unwrap();
        assert_eq!((&info.shape, info.storage, info.bytes), (&shape, DType::F32, 4 * values.len() as u64), "{name}");
        assert_eq!(files.tensors.read_f32(&name).unwrap(), values, "{name}");
    }
}

/// Rows that are read in parts, across heads, are the rows of the whole.
#[test]
fn rows_can_be_read_in_parts() {
    let files = open(&GgufFile::tiny()).unwrap();
    for name in ["model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.v_proj.weight"] {
        let whole = files.tensors.read_f32(name).unwrap();
        let mut part = vec![0.0; 64 * 13];
        files.tensors.read_rows_f32(name, 9..22, &mut part).unwrap();
        assert_eq!(part, whole[64 * 9..64 * 22], "{name}");
        assert!(message(files.tensors.read_rows_f32(name, 60..73, &mut part)).contains("rows 60..73"));
        assert!(message(files.tensors.read_rows_f32(name, 0..12, &mut part)).contains(name));
    }
    assert!(message(files.tensors.read_f32("model.layers.2.mlp.up_proj.weight")).contains("is not in the file"));
}

/// Blocks of 32 values with arbitrary scales: the expected values are computed in f64 from the definition of each format and
/// rounded once; a product of an f16 and an integer below 2^8 is exact in f32, so that one rounding (of Q4_1's sum) remains.
#[test]
fn quantised_blocks_are_dequantised_exactly() {
    let random = |seed: u64, count: usize| tiny::values(seed, count);
    let byte = |value: f32| ((value + 4.0) * 16.0) as u8; // 0..=128
    for (kind, storage) in [(8, DType::Q8_0), (2, DType::Q4_0), (3, DType::Q4_1), (1, DType::F16), (30, DType::BF16)] {
        let (mut data, mut expected) = (Vec::new(), Vec::new());
        for block in 0..96 * 64 / 32 {
            let d = f16::from_f32(random(block + 900, 1)[0] / 48.0);
            let m = f16::from_f32(random(block + 9000, 1)[0] / 7.0);
            let (scale, least) = (d.to_f64(), m.to_f64());
            let bytes: Vec<u8> = random(block + 70, 32).into_iter().map(|v| byte(v).wrapping_mul(31)).collect();
            let nibble = |i: usize| f64::from(if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 });
            let values = random(block + 50, 32);
            match storage {
                DType::Q8_0 => {
                    data.extend([&d.to_le_bytes()[..], &bytes].concat());
                    expected.extend(bytes.iter().map(|&q| (scale * f64::from(q as i8)) as f32));
                }
                DType::Q4_0 => {
                    data.extend([&d.to_le_bytes()[..], &bytes[..16]].concat());
                    expected.extend((0..32).map(|i| (scale * (nibble(i) - 8.0)) as f32));
                }
                DType::Q4_1 => {
                    data.extend([&d.to_le_bytes()[..], &m.to_le_bytes(), &bytes[..16]].concat());
                    expected.extend((0..32).map(|i| (scale * nibble(i) + least) as f32));
                }
                DType::F16 => {
                    data.extend(tiny::f16_bytes(&values));
                    expected.extend(values);
                }
                _ => {
                    data.extend(tiny::bf16_bytes(&values));
                    expected.extend(values);
                }
            }
        }
        let mut file = GgufFile::tiny();
        let tensor = file.tensor("blk.1.ffn_up.weight");
        (tensor.2, tensor.3) = (kind, data.clone());
        // The same rows as a permuted query matrix, to see that rows of blocks are put right too.
        let query = &data[..data.len() / 96 * 64];
        let tensor = file.tensor("blk.0.attn_q.weight");
        (tensor.2, tensor.3) = (kind, query.to_vec());
        let files = open(&file).unwrap();
        let name = "model.layers.1.mlp.up_proj.weight";
        assert_eq!(files.tensors.find(name).unwrap().storage, storage);
        assert_eq!(files.tensors.read_f32(name).unwrap(), expected, "{storage:?}");
        let rotated = files.tensors.read_f32("model.layers.0.self_attn.q_proj.weight").unwrap();
        assert_eq!(permuted(&rotated, 64, 64, 16), expected[..64 * 64], "{storage:?}");
    }
}

#[test]
fn text_comes_from_the_metadata() {
    let mut file = GgufFile::tiny();
    file.set("tokenizer.ggml.add_space_prefix", BOOL, vec![1]);
    let text = open(&file).unwrap().text;
    assert_eq!((text.bos_token.as_deref(), text.eos_token.as_deref()), (Some("t1"), Some("t2")));
    assert_eq!((text.bos_token_id, text.eos_token_ids, text.add_bos), (Some(1), vec![2, 3], Some(false)));
    assert_eq!(text.chat_template.as_deref(), Some("{{ messages[0].content }}"));
    let TokenizerSource::Gguf(tokenizer) = text.tokenizer else { panic!("a tokenizer from GGUF") };
    assert_eq!((tokenizer.model.as_str(), tokenizer.pre.as_deref()), ("gpt2", Some("smollm")));
    assert_eq!((tokenizer.tokens.len(), tokenizer.merges.len()), (40, 2));
    assert_eq!((tokenizer.tokens[39].as_str(), tokenizer.merges[1].as_str()), ("t39", "t 1"));
    assert_eq!((tokenizer.add_space_prefix, tokenizer.unknown_token_id), (Some(true), None));
}

#[test]
fn version_2_and_tied_output() {
    let mut file = GgufFile::tiny();
    file.version = 2;
    file.remove("output.weight");
    let files = open(&file).unwrap();
    assert!(files.config.tie_word_embeddings);
    assert!(files.tensors.find("lm_head.weight").is_none());
}

/// Converters write the divisors of Llama 3's frequencies as a tensor.
#[test]
fn rope_factors_become_the_scaling() {
    let mut file = GgufFile::tiny();
    let factors = [1.0_f32, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0];
    file.tensors.push(("rope_freqs.weight".to_owned(), vec![8], 0, tiny::f32_bytes(&factors)));
    assert_eq!(open(&file).unwrap().config.ropes[0].scaling, RopeScaling::Factors(factors.map(f64::from).to_vec()));
    file.remove("rope_freqs.weight");
    file.tensors.push(("rope_freqs.weight".to_owned(), vec![4], 0, tiny::f32_bytes(&factors[..4])));
    assert!(message(open(&file)).contains("has 4 factors"));
}

#[test]
fn what_cannot_be_read_is_named() {
    let refused = |change: fn(&mut GgufFile)| {
        let mut file = GgufFile::tiny();
        change(&mut file);
        message(open(&file))
    };
    let text = refused(|file| {
        let tensor = file.tensor("blk.1.ffn_down.weight");
        *tensor = (tensor.0.clone(), vec![256, 64], 34, vec![0; 54 * 64]);
    });
    assert!(text.contains("model.layers.1.mlp.down_proj.weight") && text.contains("TQ1_0") && text.contains("Q8_0"), "{text}");
    for (change, needles) in [
        ((|f| f.remove("blk.1.ffn_up.weight")) as fn(&mut GgufFile), ["model.layers.1.mlp.up_proj.weight", "[96, 64]"]),
        (|f| f.tensor("blk.1.ffn_up.weight").1 = vec![96, 64], ["model.layers.1.mlp.up_proj.weight", "[64, 96]"]),
        (|f| f.tensor("blk.1.ffn_up.weight").2 = 77, ["model.layers.1.mlp.up_proj.weight", "77"]),
        (|f| f.tensor("blk.1.ffn_up.weight").0 = "blk.0.ffn_up.weight".into(), ["model.layers.0.mlp.up_proj.weight", "twice"]),
        (|f| f.tensor("blk.1.ffn_up.weight").1 = vec![1 << 40, 1 << 40], ["blk.1.ffn_up.weight", "does not fit"]),
        (|f| f.tensor("blk.1.ffn_up.weight").1 = vec![64, 1 << 20], ["blk.1.ffn_up.weight", "does not fit"]),
        (|f| f.tensor("blk.1.ffn_up.weight").1 = vec![64, 97], ["blk.1.ffn_up.weight", "overlaps"]),
        (|f| f.version = 1, ["version 1", "2 and 3"]),
        (|f| f.version = 3_u32.swap_bytes(), ["big-endian", "Convert"]),
        (|f| f.set("general.architecture", STRING, string("gpt2")), ["gpt2", "LlamaForCausalLM"]),
        (|f| f.set("general.architecture", U32, vec![0; 4]), ["general.architecture", "string"]),
        (|f| f.set("llama.expert_count", U32, 8_u32.to_le_bytes().to_vec()), ["llama.expert_used_count", "missing"]),
        (|f| f.set("llama.embedding_length", F32, vec![0; 4]), ["llama.embedding_length", "whole number"]),
        (|f| f.set("llama.rope.dimension_count", U32, 18_u32.to_le_bytes().to_vec()), ["rope.dimension_count", "is 18"]),
        (|f| f.set("llama.rope.scaling.type", STRING, string("yarn")), ["llama.rope.scaling.factor", "missing"]),
        (
            |f| f.tensors.push(("blk.0.attn_q.bias".into(), vec![64], 0, vec![0; 256])),
            ["model.layers.0.self_attn.k_proj.bias", "missing"],
        ),
        (
            |f| f.tensors.push(("blk.0.attn_q_norm.weight".into(), vec![64], 0, vec![0; 256])),
            ["blk.0.attn_q_norm.weight", "not part of"],
        ),
    ] {
        let text = refused(change);
        assert!(needles.iter().all(|needle| text.contains(needle)), "{needles:?} in: {text}");
    }
}

/// A model in parts, of which the second has the upper layer, is the model in one file, by whichever part it is named.
#[test]
fn parts_are_one_model() {
    const U16: u32 = 2;
    const I32: u32 = 5;
    let whole = open(&GgufFile::tiny()).unwrap();
    let parts = || {
        let mut parts = [GgufFile::tiny(), GgufFile::tiny()];
        let count = parts[0].tensors.len() as i32;
        parts[0].tensors.retain(|tensor| !tensor.0.starts_with("blk.1."));
        parts[1].tensors.retain(|tensor| tensor.0.starts_with("blk.1."));
        parts[1].pairs.clear();
        for (number, part) in parts.iter_mut().enumerate() {
            part.set("split.no", U16, (number as u16).to_le_bytes().to_vec());
            part.set("split.count", U16, 2_u16.to_le_bytes().to_vec());
            part.set("split.tensors.count", I32, count.to_le_bytes().to_vec());
        }
        parts
    };
    let folder = tempfile::tempdir().unwrap();
    let path = |number: usize| folder.path().join(format!("tiny-{number:05}-of-00002.gguf"));
    let save = |parts: &[GgufFile]| {
        for (number, part) in parts.iter().enumerate() {
            std::fs::write(path(number + 1), part.bytes()).unwrap();
        }
    };
    save(&parts());
    for number in [1, 2] {
        let files = ModelFiles::open(path(number).to_str().unwrap()).unwrap();
        assert_eq!((files.name.as_str(), &files.config), ("tiny", &whole.config));
        for info in whole.tensors.tensors() {
            assert_eq!(files.tensors.read_f32(&info.name).unwrap(), whole.tensors.read_f32(&info.name).unwrap(), "{}", info.name);
        }
        let place = files.tensors.place("model.layers.1.mlp.up_proj.weight");
        assert!(place.ends_with("tiny-00002-of-00002.gguf"), "{place}");
    }
    let refused = || message(ModelFiles::open(path(1).to_str().unwrap()).map(|files| files.name));
    let mut swapped = parts();
    swapped[1].set("split.no", U16, 0_u16.to_le_bytes().to_vec());
    save(&swapped);
    let text = refused();
    assert!(text.contains("00002-of-00002.gguf") && text.contains("split.no"), "{text}");
    let mut short = parts();
    short[1].tensors.pop();
    save(&short);
    assert!(refused().contains("split.tensors.count"));
    std::fs::remove_file(path(2)).unwrap();
    let text = refused();
    assert!(text.contains("tiny-00002-of-00002.gguf") && text.contains("one part of 2"), "{text}");
    // By itself, under another name, a part is known as one by what it says.
    std::fs::rename(path(1), folder.path().join("tiny.gguf")).unwrap();
    let text = message(ModelFiles::open(folder.path().join("tiny.gguf").to_str().unwrap()).map(|files| files.name));
    assert!(text.contains("split.count") && text.contains("--merge"), "{text}");
}

/// A model that graftling does not read can still be examined.
#[test]
fn types_that_cannot_be_read_are_listed() {
    let mut file = GgufFile::tiny();
    let tensor = file.tensor("blk.1.ffn_down.weight");
    *tensor = (tensor.0.clone(), vec![256, 64], 34, vec![0; 54 * 64]);
    let folder = tempfile::tempdir().unwrap();
    let gguf = Gguf::open(&write(&folder, &file)).unwrap();
    assert_eq!(gguf.unreadable(), [("model.layers.1.mlp.down_proj.weight".to_owned(), "TQ1_0".to_owned())]);
    assert_eq!(gguf.container().tensors.iter().filter(|tensor| tensor.kind.is_ok_and(|kind| kind.name() == "TQ1_0")).count(), 1);
}

/// A file that was cut off, anywhere in its directory and at many places of its data, is refused and never read beyond its end.
#[test]
fn every_truncation_is_refused() {
    let bytes = GgufFile::tiny().bytes();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    for length in (0..bytes.len()).filter(|length| *length < 3000 || length % 1009 == 0 || *length + 100 > bytes.len()) {
        std::fs::write(&path, &bytes[..length]).unwrap();
        // The last tensor's padding may be missing: nothing is stored there.
        if let Ok(_complete) = ModelFiles::open(path.to_str().unwrap()) {
            assert!(bytes.len() - length < 32, "{length} of {} bytes were accepted", bytes.len());
        }
    }
}
