//! Every format against the library that defines it: gguf-py's and bitsandbytes' values, bit for bit, on the host and on the device.

mod common;

use common::run_on_device;
use graftling::graph::{Counts, Graph, Matrix, Origin, Rows, TensorType, ValueId};
use graftling::ops::Random;
use graftling::ops::embedding::Embedding;
use graftling::storage::{Affine, DType, Offset};
use safetensors::SafeTensors;
use std::path::Path;

/// Made by tools/reference/make_blocks.py.
fn fixture() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference/blocks.safetensors")).unwrap()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

const WITH_VALUES: [DType; 15] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q2_K,
    DType::Q3_K,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::IQ4_NL,
    DType::IQ4_XS,
    DType::MXFP4,
    DType::FP4,
    DType::LLM_INT8,
];

/// The values of one row of blocks, looked up on the device.
fn on_the_device(dtype: DType, blocks: Vec<u8>, columns: usize) -> Vec<f32> {
    let mut graph = Graph::new();
    let ids = graph.leaf("ids", TensorType::u32(Rows::Fixed(1), 1), Origin::Input);
    let weight = graph.leaf("weight", TensorType::new(Rows::Fixed(1), columns, dtype), Origin::Input);
    let y: ValueId = graph.apply_one(Embedding, &[ids, weight], "y").unwrap();
    let leaves = [(ids, Matrix::zeros([1, 1])), (weight, Matrix::of_blocks([1, columns], dtype, blocks))];
    run_on_device(&graph, &leaves, &[y], &Counts::default()).swap_remove(0)
}

/// Random blocks and the largest, smallest and zero scales. The device may give zero its other sign, and zero for scales that are
/// subnormal in f32 (MXFP4's two least). LLM.int8's value is two products one after the other, which a driver's compiler may take in another
/// order: on the device the last bit may differ. Of all other formats a value has one rounding.
#[test]
fn blocks_have_the_values_that_their_libraries_compute() {
    let file = fixture();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    for dtype in WITH_VALUES {
        let blocks = tensors.tensor(&format!("{}.blocks", dtype.name())).unwrap().data().to_vec();
        let expected = floats(tensors.tensor(&format!("{}.values", dtype.name())).unwrap().data());
        let found = Matrix::of_blocks([1, expected.len()], dtype, blocks.clone());
        let found: Vec<f32> = found.data.iter().map(|&value| value as f32).collect();
        assert_eq!(bits(&found), bits(&expected), "{dtype}");
        let on_the_device = on_the_device(dtype, blocks, expected.len());
        let is_least = |value: f32| value.abs() <= 12.0 * f32::MIN_POSITIVE;
        for (at, (found, expected)) in on_the_device.iter().zip(&expected).enumerate() {
            let last_bit = dtype == DType::LLM_INT8 && found.to_bits().abs_diff(expected.to_bits()) <= 1;
            let same = last_bit || found == expected || (*found == 0.0 && is_least(*expected));
            assert!(same, "{dtype}, value {at} on the device: {found:e}, not {expected:e}");
        }
    }
}

/// On the device a format takes at most a tenth more than in a file.
#[test]
fn formats_rest_in_place() {
    for dtype in DType::WEIGHTS {
        let values = 1 << 20;
        let (file, device) = (dtype.file_bytes(values).unwrap(), dtype.bytes(values as usize) as u64);
        assert!(device * 10 <= file * 11, "{dtype}: {device} bytes for {file}");
    }
    // With double quantisation bitsandbytes has 8 bits of absmax a block, and 32 for 256 of them.
    let nf4 = 256 / 2 + 256 / 64;
    assert!(DType::NF4.bytes(256) * 10 <= nf4 * 11 && DType::FP4.bytes(256) * 10 <= nf4 * 11);
    // bitsandbytes has one scale a row.
    assert!(DType::LLM_INT8.bytes(256) * 10 <= 256 * 11);
}

/// What is written is what gguf-py writes, byte by byte.
#[test]
fn values_become_the_blocks_that_gguf_py_writes() {
    let file = fixture();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let rows = floats(tensors.tensor("rows").unwrap().data());
    for dtype in [DType::Q4_0, DType::Q5_0, DType::Q5_1] {
        let expected = tensors.tensor(&format!("{}.rows", dtype.name())).unwrap().data().to_vec();
        for (block, (found, expected)) in
            dtype.quantise(&rows).chunks(dtype.block_bytes()).zip(expected.chunks(dtype.block_bytes())).enumerate()
        {
            assert_eq!(found, expected, "{dtype}, block {block}");
        }
    }
}

/// What ggml's own quantisers make of values with the tails that weights have is in no row nearer to them by more than a fiftieth.
#[test]
fn k_quants_lose_no_more_than_those_of_ggml() {
    let file = fixture();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let wide = floats(tensors.tensor("wide").unwrap().data());
    let values_of = |dtype, blocks: Vec<u8>| Matrix::of_blocks([1, wide.len()], dtype, blocks).data;
    for dtype in [DType::Q4_1, DType::Q8_0, DType::Q4_K, DType::Q5_K, DType::Q6_K] {
        let stored = tensors.tensor(&format!("{}.wide", dtype.name())).unwrap().data().to_vec();
        let found = dtype.quantise(&wide);
        let alike = found.chunks(dtype.block_bytes()).zip(stored.chunks(dtype.block_bytes())).filter(|(a, b)| a == b).count();
        let [found, expected] = [found, stored].map(|blocks| values_of(dtype, blocks));
        for (row, values) in wide.chunks(512).enumerate() {
            let error =
                |of: &[f64]| -> f64 { of[512 * row..][..512].iter().zip(values).map(|(a, b)| (a - f64::from(*b)).powi(2)).sum() };
            let [found, expected] = [error(&found), error(&expected)];
            assert!(found <= 1.02 * expected, "{dtype}, row {row}: {found:e}, ggml {expected:e} ({alike} blocks alike)");
        }
    }
}

/// Codes, absmax and values are bitsandbytes'.
#[test]
fn nf4_is_that_of_bitsandbytes() {
    let file = fixture();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let read = |name: &str| tensors.tensor(name).unwrap().data().to_vec();
    let (codes, absmax) = (read("NF4.rows"), read("NF4.absmax"));
    let expected: Vec<u8> =
        absmax.chunks_exact(4).zip(codes.chunks_exact(32)).flat_map(|(absmax, codes)| [absmax, codes].concat()).collect();
    let blocks = DType::NF4.quantise(&floats(&read("rows")));
    assert_eq!(blocks, expected);
    let values = floats(&read("NF4.values"));
    let found = Matrix::of_blocks([1, values.len()], DType::NF4, blocks.clone());
    assert_eq!(bits(&found.data.iter().map(|&value| value as f32).collect::<Vec<_>>()), bits(&values));
    assert_eq!(on_the_device(DType::NF4, blocks, values.len()), values);
}

/// bitsandbytes rounds absmax to 8 bits in blocks of 256, less their mean: what is read back is the same bit by bit. (Its mean is a sum of
/// f32 in an order of its own; of these numbers both are the same.)
#[test]
fn double_quantisation_is_that_of_bitsandbytes() {
    let file = fixture();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let read = |name: &str| floats(tensors.tensor(name).unwrap().data());
    let mut absmax: Vec<f32> = graftling::storage::double_quant::absmax(&read("wide")).collect();
    graftling::storage::double_quant::round_absmax(&mut absmax);
    assert_eq!(bits(&absmax), bits(&read("NF4.wide_absmax")));
}

/// A weight that is read back as it was written is the same again, where a format can be written. K-quants search for scales and may find
/// others for values that are rounded already; but then they are hardly worse than before.
#[test]
fn rounding_twice_is_rounding_once() {
    let values: Vec<f32> = Random(3).matrix([4, 256], 0.1).data.iter().map(|&value| value as f32).collect();
    for dtype in DType::WEIGHTS.into_iter().filter(|dtype| dtype.can_quantise()) {
        let once = graftling::storage::rounded(&values, dtype);
        let worst = values.iter().zip(&once).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 0.02, "{dtype}: {worst}");
        let twice = graftling::storage::rounded(&once, dtype);
        if matches!(dtype, DType::Q4_K | DType::Q5_K | DType::Q6_K) {
            let error = |of: &[f32]| of.iter().zip(&values).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            assert!(error(&twice) <= 1.1 * error(&once), "{dtype}: {:e} after {:e}", error(&twice), error(&once));
        } else {
            let drift = once.iter().zip(&twice).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(drift <= 2e-4, "{dtype}: {drift}");
        }
    }
}

/// The heads of a format of this kind: scales of ordinary size, the largest, the smallest, zero, and negative ones.
fn heads(affine: Affine) -> Vec<(u32, f32, f32)> {
    let f16 = |value: f32| half::f16::from_f32(value).to_f32();
    let bf16 = |value: f32| half::bf16::from_f32(value).to_f32();
    let scales = [0.0123, 1.0, -0.37, 0.0, 256.9, 6.1e-5, 6e-8];
    let pair = |low: u16, high: u16| u32::from(high) << 16 | u32::from(low);
    match affine.offset() {
        Offset::ZeroPointF16 => {
            scales.map(f16).into_iter().zip([0, 1, 7, 8, 15, 14, 3]).map(|(s, z)| (s.to_bits() | z, s, z as f32)).collect()
        }
        Offset::ZeroPointBF16 => {
            let scales = scales.map(bf16).into_iter().chain([1e30, 1e-30].map(bf16));
            scales.zip([0, 1, 7, 8, 15, 14, 3, 2, 9]).map(|(s, z)| (s.to_bits() | z, s, z as f32)).collect()
        }
        // Of both types that a scale can have.
        Offset::ZeroPoint => {
            let zeros = [0, 1, 7, 8, 128, 255, 256];
            let wide = [1e30, 1e-30].map(bf16);
            scales
                .map(f16)
                .into_iter()
                .chain(wide)
                .zip(zeros.into_iter().cycle())
                .map(|(s, z)| (s.to_bits() | z, s, z as f32))
                .collect()
        }
        Offset::F16 => {
            let offsets = [-0.09, 60000.0, 6e-8, -1.0, 0.0, 0.3, -6e-5].map(f16);
            let head = |(s, b): (f32, f32)| (pair(half::f16::from_f32(s).to_bits(), half::f16::from_f32(b).to_bits()), s, b);
            scales.map(f16).into_iter().zip(offsets).map(head).collect()
        }
        Offset::BF16 => {
            let offsets = [-0.09, 1e30, 1e-30, -1.0, 0.0, 0.3, -6e-5].map(bf16);
            let head = |(s, b): (f32, f32)| (pair(half::bf16::from_f32(s).to_bits(), half::bf16::from_f32(b).to_bits()), s, b);
            scales.map(bf16).into_iter().chain([1e30, 1e-30].map(bf16)).zip(offsets.into_iter().cycle()).map(head).collect()
        }
    }
}

/// On the device a matrix takes at most a tenth more than in its file: of a folder's, in the groups and with the heads that take the least there.
#[test]
fn the_device_takes_at_most_a_tenth_more_than_the_file() {
    const COLUMNS: usize = 1 << 12;
    let check = |dtype: DType, file_bytes: f64, what: &str| {
        let bytes = dtype.bytes(COLUMNS) as f64;
        assert!(bytes <= 1.1 * file_bytes, "{dtype}, {what}: {bytes} bytes for {file_bytes}");
    };
    for dtype in DType::WEIGHTS.into_iter().filter(|dtype| !matches!(dtype, DType::Affine(_) | DType::NF4 | DType::FP4)) {
        // What is 8 bits in a folder may have a single scale.
        let file = if matches!(dtype, DType::FP8_E4M3 | DType::LLM_INT8) {
            COLUMNS
        } else {
            dtype.file_bytes(COLUMNS as u64).unwrap() as usize
        };
        check(dtype, file as f64, "as in the file");
    }
    // 4 bits, and absmax of 64 in 8 bits with one in 32 bits for 256 of them.
    for dtype in [DType::NF4, DType::FP4] {
        check(dtype, COLUMNS as f64 * (0.5 + 1.0 / 64.0 + 4.0 / 64.0 / 256.0), "with double quantisation");
    }
    // Columns, and columns of a group: from small ones to whole rows.
    let groups = [(4096, 32), (4096, 64), (4096, 128), (4096, 1024), (4096, 4096), (576, 576)];
    let has_offset = |affine: &Affine| !affine.offset().is_zero_point();
    for &affine in Affine::ALL {
        let bits = affine.bits();
        // GPTQ has zero points in all its files, others in some of theirs. MLX's groups are of 32, 64 and 128.
        let head = if has_offset(&affine) { 32 } else { 16 + if bits < 4 { bits } else { 0 } };
        let largest = if has_offset(&affine) { 128 } else { usize::MAX };
        for (columns, group) in groups.into_iter().filter(|(_, group)| *group <= largest) {
            // The largest blocks that divide a group are taken.
            let offsets = match affine.offset() {
                Offset::ZeroPoint => [Offset::ZeroPoint, Offset::ZeroPointF16],
                own if own.is_zero_point() => [Offset::ZeroPoint, own],
                own => [own, own],
            };
            let of_size = |block: usize| offsets.into_iter().find_map(|offset| Affine::new(bits, block, offset));
            let taken = [128, 64, 32].into_iter().filter(|block| group % block == 0).find_map(of_size);
            // 2 bits with a scale for rows of such a length are a seventh more: no library makes them.
            if taken != Some(affine) || (bits, columns) == (2, 576) {
                continue;
            }
            let file = (columns * bits + columns / group * head) as f64 / 8.0;
            let bytes = DType::Affine(affine).bytes(64 * columns) as f64 / 64.0;
            assert!(bytes <= 1.1 * file, "{bits} bits, {columns} columns in groups of {group}: {bytes} bytes for {file}");
        }
    }
}

/// Random codes with every kind of head: `s (q - z)` and `s q + b` in f32, bit for bit on the host and on the device.
#[test]
fn folder_formats_have_the_values_of_their_formulas() {
    let mut random = Random(11);
    for &affine in Affine::ALL {
        let (dtype, width) = (DType::Affine(affine), affine.bits());
        let (mut blocks, mut expected) = (Vec::new(), Vec::new());
        for (head, scale, shift) in heads(affine) {
            let bytes: Vec<u8> = (0..affine.block() * width / 8).map(|_| random.below(256) as u8).collect();
            for at in 0..affine.block() {
                let code = (0..width).fold(0_u32, |code, bit| {
                    let place = at * width + bit;
                    code | u32::from(bytes[place / 8] >> (place % 8) & 1) << bit
                });
                expected.push(match affine.offset() {
                    offset if offset.is_zero_point() => scale * (code as f32 - shift),
                    _ => scale * code as f32 + shift,
                });
            }
            blocks.extend(head.to_le_bytes());
            blocks.extend(bytes);
        }
        let host = Matrix::of_blocks([1, expected.len()], dtype, blocks.clone());
        assert_eq!(bits_of(&host), bits(&expected), "{dtype}");
        // But for the sign of zero.
        assert_eq!(on_the_device(dtype, blocks, expected.len()), expected, "{dtype} on the device");
    }
}

fn bits_of(matrix: &Matrix) -> Vec<u32> {
    matrix.data.iter().map(|&value| (value as f32).to_bits()).collect()
}

/// All codes but those of NaN, with scales of all sizes: as many steps of 2^-9 as sign, exponent and mantissa say, times the scale.
#[test]
fn fp8_has_the_values_of_its_formula() {
    let (mut blocks, mut expected) = (Vec::new(), Vec::new());
    for scale in [1.0_f32, 0.00037, 1e30, 1e-30, -3.3] {
        let codes: Vec<u8> = (0..=255).map(|code| if code & 0x7f == 0x7f { code ^ 1 } else { code }).collect();
        for codes in codes.chunks(64) {
            blocks.extend(scale.to_le_bytes());
            blocks.extend(codes);
        }
        expected.extend(codes.iter().map(|code| {
            let (exponent, mantissa) = (code >> 3 & 15, f64::from(code & 7));
            let size = if exponent == 0 {
                mantissa / 8.0 * 2_f64.powi(-6)
            } else {
                (1.0 + mantissa / 8.0) * 2_f64.powi(i32::from(exponent) - 7)
            };
            (if *code < 128 { size } else { -size }) as f32 * scale
        }));
    }
    let host = Matrix::of_blocks([1, expected.len()], DType::FP8_E4M3, blocks.clone());
    assert_eq!(bits_of(&host), bits(&expected));
    assert_eq!(on_the_device(DType::FP8_E4M3, blocks, expected.len()), expected);
}
