//! Files from strangers: whatever the bytes, the answer is a model or one error, never a panic, and memory stays within a small
//! multiple of the file's size.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fs,
    path::Path,
};

use graftling::{
    formats::{ModelFiles, peft},
    model::config::ModelConfig,
};
use proptest::prelude::*;

use super::{gguf_file::GgufFile, tiny};

/// Counts the live bytes of each thread, so that tests can run side by side.
struct Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counters are plain cells of the calling thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LIVE.try_with(|live| {
            live.set(live.get().wrapping_add(layout.size()));
            let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
        });
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = LIVE.try_with(|live| live.set(live.get().saturating_sub(layout.size())));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The largest number of bytes that were live at once in `work`, beyond those before it.
fn peak_bytes(work: impl FnOnce()) -> usize {
    let before = LIVE.get();
    PEAK.set(before);
    work();
    PEAK.get().saturating_sub(before)
}

/// What a stranger may do to a file.
#[derive(Clone, Debug)]
enum Damage {
    Truncate(f64),
    Flip {
        at: f64,
        bit: u8,
    },
    /// Replaces 8 bytes: lengths, counts and offsets have that size.
    Number {
        at: f64,
        value: u64,
    },
    Insert {
        at: f64,
        byte: u8,
    },
    Swap {
        from: f64,
        to: f64,
        length: usize,
    },
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = || 0.0..1.0_f64;
    let number =
        prop_oneof![any::<u64>(), 0..64_u64, Just(u64::MAX), Just(1 << 63), Just(1 << 32), (0..64_u32).prop_map(|b| 1 << b)];
    prop_oneof![
        place().prop_map(Damage::Truncate),
        (place(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        (place(), number).prop_map(|(at, value)| Damage::Number { at, value }),
        (place(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert { at, byte }),
        (place(), place(), 1..64_usize).prop_map(|(from, to, length)| Damage::Swap { from, to, length }),
    ]
}

/// Applies the damage to the first `sensitive` bytes, where the structure is: weights may hold any bits.
fn apply(bytes: &mut Vec<u8>, sensitive: usize, damages: &[Damage]) {
    for damage in damages {
        let end = sensitive.min(bytes.len()).max(1);
        let place = |share: f64| (share * end as f64) as usize;
        match *damage {
            Damage::Truncate(share) => bytes.truncate(place(share)),
            Damage::Flip { at, bit } => bytes.iter_mut().skip(place(at)).take(1).for_each(|byte| *byte ^= 1 << bit),
            Damage::Number { at, value } => {
                bytes.iter_mut().skip(place(at)).zip(value.to_le_bytes()).for_each(|(byte, new)| *byte = new);
            }
            Damage::Insert { at, byte } => bytes.insert(place(at).min(bytes.len()), byte),
            Damage::Swap { from, to, length } => {
                let copy: Vec<u8> = bytes.iter().skip(place(from)).take(length).copied().collect();
                bytes.iter_mut().skip(place(to)).zip(copy).for_each(|(byte, new)| *byte = new);
            }
        }
    }
}

/// Opens a model and reads all of it; every outcome but a panic is right.
fn open_and_read(spec: &Path) {
    let Ok(files) = ModelFiles::open(spec.to_str().unwrap()) else { return };
    for info in files.tensors.tensors() {
        let values = files.tensors.read_f32(&info.name).unwrap();
        assert_eq!(values.len() as u64, info.values());
    }
}

/// Directories cost a few times their bytes; config.json may ask for 4096 layers, whose names take some megabytes.
fn assert_modest(peak: usize, file: usize) {
    assert!(peak <= 16 * file + (12 << 20), "{peak} bytes for a file of {file}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gguf(damages in prop::collection::vec(damage(), 1..4)) {
        let mut bytes = GgufFile::tiny().bytes();
        let structure = 4096;
        apply(&mut bytes, structure, &damages);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        fs::write(&path, &bytes).unwrap();
        assert_modest(peak_bytes(|| open_and_read(&path)), bytes.len());
    }

    #[test]
    fn safetensors(damages in prop::collection::vec(damage(), 1..4)) {
        let mut bytes = tiny::weights();
        let structure = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        apply(&mut bytes, structure, &damages);
        let folder = tempfile::tempdir().unwrap();
        tiny::write_folder(folder.path());
        fs::write(folder.path().join("model.safetensors"), &bytes).unwrap();
        assert_modest(peak_bytes(|| open_and_read(folder.path())), bytes.len());
    }

    #[test]
    fn config(damages in prop::collection::vec(damage(), 1..3)) {
        let mut bytes = tiny::config_json().to_string().into_bytes();
        let all = bytes.len();
        apply(&mut bytes, all, &damages);
        if let Ok(config) = ModelConfig::from_json_str(&String::from_utf8_lossy(&bytes)) {
            let parameters = graftling::model::anatomy::parameters(&config);
            prop_assert!(parameters.iter().map(|parameter| parameter.count()).sum::<u64>() > 0);
            let _ = (config.supported(), config.rope_inverse_frequencies());
        }
    }

    #[test]
    fn adapter(damages in prop::collection::vec(damage(), 1..3), in_config in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let tensor = |matrix: &str, shape: [usize; 2]| peft::AdapterTensor {
            name: format!("layers.0.mlp.up_proj.{matrix}"), shape, values: tiny::values(1, shape[0] * shape[1]),
        };
        let config = peft::AdapterConfig { r: 2, target_modules: vec!["up_proj".to_owned()], ..Default::default() };
        peft::save_adapter(folder.path(), &config, &[tensor("lora_a", [2, 6]), tensor("lora_b", [3, 2])]).unwrap();
        let path = folder.path().join(if in_config { "adapter_config.json" } else { "adapter_model.safetensors" });
        let mut bytes = fs::read(&path).unwrap();
        let all = bytes.len();
        apply(&mut bytes, all, &damages);
        fs::write(&path, &bytes).unwrap();
        let peak = peak_bytes(|| drop(peft::load_adapter(folder.path())));
        assert_modest(peak, all);
    }
}

/// A GGUF that was cut off, anywhere in its directory and at many places of its data, is refused and never read beyond its end.
#[test]
fn every_truncation_is_refused() {
    let bytes = GgufFile::tiny().bytes();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    for length in (0..bytes.len()).filter(|length| *length < 3000 || length % 1009 == 0 || *length + 100 > bytes.len()) {
        fs::write(&path, &bytes[..length]).unwrap();
        // The last tensor's padding may be missing: nothing is stored there.
        if let Ok(_complete) = ModelFiles::open(path.to_str().unwrap()) {
            assert!(bytes.len() - length < 32, "{length} of {} bytes were accepted", bytes.len());
        }
    }
}
