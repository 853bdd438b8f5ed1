//! Where hidden states rest between epochs: in memory or in a file, for as many examples as the bound has room for.
//!
//! Which examples those are is decided once, in the order of the file, so nothing is ever thrown out to make room.
//!
//! The file has no name: the operating system removes it when the process ends, however it ends. So no run can meet the file of another
//! run, another model or a run that was killed. What is read from it is compared with a digest of what was written; if it differs, or
//! the disk fails, the example counts as not stored and is computed again.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::ValueEnum;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::graph::DType;
use crate::storage::encode;
use crate::{Error, Result};

/// The type in which hidden states rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrefixCacheType {
    #[default]
    F32,
    Bf16,
    F16,
}

impl PrefixCacheType {
    fn bytes(self, values: usize) -> usize {
        self.dtype().bytes(values)
    }

    /// The same type, as the engine calls it.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }

    /// The values that [`encode`] made `bytes` of.
    fn decode(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Self::F32 => bytemuck::cast_slice_mut::<f32, u8>(values).copy_from_slice(bytes),
            Self::Bf16 => bytemuck::pod_collect_to_vec::<u8, bf16>(bytes).convert_to_f32_slice(values),
            Self::F16 => bytemuck::pod_collect_to_vec::<u8, f16>(bytes).convert_to_f32_slice(values),
        }
    }
}

/// Which examples a [`Store`] has room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorePlan {
    /// Values a token.
    columns: usize,
    dtype: PrefixCacheType,
    /// By example its first byte; `None` where there is no room.
    offsets: Vec<Option<usize>>,
    bytes: usize,
}

impl StorePlan {
    /// Examples of these many tokens, with `columns` values of type `dtype` a token, in at most `bound` bytes.
    pub fn new(lengths: impl Iterator<Item = usize>, columns: usize, dtype: PrefixCacheType, bound: usize) -> Self {
        let mut bytes = 0;
        let offsets = lengths
            .map(|tokens| {
                let end = bytes + dtype.bytes(tokens * columns);
                (end <= bound).then(|| std::mem::replace(&mut bytes, end))
            })
            .collect();
        Self { columns, dtype, offsets, bytes }
    }

    /// Bytes of all examples that have room.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Examples that have room, and examples in all.
    pub fn examples(&self) -> (usize, usize) {
        (self.offsets.iter().flatten().count(), self.offsets.len())
    }
}

/// One example.
#[derive(Clone, Debug)]
enum Slot {
    /// It has no room.
    Never,
    /// Not stored yet; `.0` is its first byte in the file.
    Empty(usize),
    InMemory(Box<[u8]>),
    OnDisk {
        offset: usize,
        digest: [u8; 32],
    },
}

/// Hidden states by example.
#[derive(Debug)]
pub struct Store {
    columns: usize,
    dtype: PrefixCacheType,
    slots: Vec<Slot>,
    /// `None`: in memory.
    file: Option<File>,
}

impl From<Store> for Arc<Mutex<Store>> {
    fn from(store: Store) -> Self {
        Self::new(Mutex::new(store))
    }
}

impl Store {
    /// An empty store; in memory, or in a file in the folder `disk`.
    ///
    /// # Errors
    /// Failed: no file can be made there.
    pub fn new(plan: &StorePlan, disk: Option<&Path>) -> Result<Self> {
        let open = |folder: &Path| {
            tempfile::tempfile_in(folder).map_err(|error| {
                let problem = format!("cannot make the file of the prefix cache: {error}");
                Error::failed(folder.display(), problem, "use --prefix-cache memory, or turn the cache off")
            })
        };
        let file = disk.map(open).transpose()?;
        let slots = plan.offsets.iter().map(|offset| offset.map_or(Slot::Never, Slot::Empty)).collect();
        Ok(Self { columns: plan.columns, dtype: plan.dtype, slots, file })
    }

    /// Values a token.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Puts the values of an example into `values`, if they are stored.
    pub fn load(&mut self, example: usize, values: &mut [f32]) -> bool {
        match &self.slots[example] {
            Slot::Never | Slot::Empty(_) => false,
            Slot::InMemory(bytes) => {
                self.dtype.decode(bytes, values);
                true
            }
            &Slot::OnDisk { offset, digest } => match self.read(offset, digest, values.len()) {
                Ok(bytes) => {
                    self.dtype.decode(&bytes, values);
                    true
                }
                Err(error) => {
                    tracing::warn!("the prefix cache cannot be read and is made again: {error}");
                    self.slots[example] = Slot::Empty(offset);
                    false
                }
            },
        }
    }

    /// Rounds the values of an example to the type of the store, and stores them if there is room: so they are the same numbers whether
    /// they come from the store later or not.
    ///
    /// # Errors
    /// Bad input: a value is too large for the type. That the disk fails is no error; the run goes on without.
    pub fn save(&mut self, example: usize, values: &mut [f32]) -> Result<()> {
        let bytes = encode(values, self.dtype.dtype());
        if self.dtype != PrefixCacheType::F32 {
            let finite = values.iter().all(|value| value.is_finite());
            self.dtype.decode(&bytes, values);
            if finite && !values.iter().all(|value| value.is_finite()) {
                let problem = "this model has hidden states that are too large for the type";
                return Err(Error::bad_input("--prefix-cache-type", problem, "use bf16 or f32"));
            }
        }
        let Slot::Empty(offset) = self.slots[example] else { return Ok(()) };
        self.slots[example] = match &mut self.file {
            None => Slot::InMemory(bytes.into_boxed_slice()),
            Some(file) => match file.seek(SeekFrom::Start(offset as u64)).and_then(|_| file.write_all(&bytes)) {
                Ok(()) => Slot::OnDisk { offset, digest: Sha256::digest(&bytes).into() },
                Err(error) => {
                    tracing::warn!("the prefix cache cannot be written, so the run goes on without it: {error}");
                    self.give_up();
                    return Ok(());
                }
            },
        };
        Ok(())
    }

    /// Removes the file, whose room on the disk others may need, and stores nothing from now on.
    fn give_up(&mut self) {
        self.slots.fill(Slot::Never);
        self.file = None;
    }

    fn read(&mut self, offset: usize, digest: [u8; 32], values: usize) -> io::Result<Vec<u8>> {
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let mut bytes = vec![0; self.dtype.bytes(values)];
        file.seek(SeekFrom::Start(offset as u64))?;
        file.read_exact(&mut bytes)?;
        match Sha256::digest(&bytes)[..] == digest {
            true => Ok(bytes),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "it does not hold what was written")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: usize = 4;
    const LENGTHS: [usize; 3] = [2, 5, 1];

    fn plan(dtype: PrefixCacheType, bound: usize) -> StorePlan {
        StorePlan::new(LENGTHS.into_iter(), COLUMNS, dtype, bound)
    }

    fn values(example: usize) -> Vec<f32> {
        (0..LENGTHS[example] * COLUMNS).map(|at| ((at + 1) as f32 * 0.37 + example as f32).sin() * 50.0).collect()
    }

    fn load(store: &mut Store, example: usize) -> Option<Vec<f32>> {
        let mut found = vec![0.0; LENGTHS[example] * COLUMNS];
        store.load(example, &mut found).then_some(found)
    }

    #[test]
    fn what_is_saved_is_loaded_from_memory_and_from_disk() {
        let folder = tempfile::tempdir().unwrap();
        for disk in [None, Some(folder.path())] {
            let mut store = Store::new(&plan(PrefixCacheType::F32, usize::MAX), disk).unwrap();
            for example in [2, 0, 1] {
                assert_eq!(load(&mut store, example), None);
                store.save(example, &mut values(example)).unwrap();
            }
            (0..3).for_each(|example| assert_eq!(load(&mut store, example), Some(values(example))));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has a name");
    }

    #[test]
    fn what_has_no_room_is_never_stored_and_leaves_the_others_in_place() {
        // 2 tokens and 1 token fit 3 tokens' bytes; the 5 between them do not.
        let plan = plan(PrefixCacheType::F32, 3 * COLUMNS * 4);
        assert_eq!((plan.examples(), plan.bytes()), ((2, 3), 3 * COLUMNS * 4));
        let mut store = Store::new(&plan, None).unwrap();
        (0..3).for_each(|example| store.save(example, &mut values(example)).unwrap());
        assert_eq!([0, 1, 2].map(|example| load(&mut store, example).is_some()), [true, false, true]);
    }

    /// Relative rounding of bf16 (8 bits) and f16 (11 bits).
    #[test]
    fn small_types_round_before_use_and_refuse_what_they_cannot_hold() {
        for (dtype, bound) in [(PrefixCacheType::Bf16, 2f32.powi(-8)), (PrefixCacheType::F16, 2f32.powi(-11))] {
            // Without room the numbers are rounded all the same.
            for room in [usize::MAX, 0] {
                let mut store = Store::new(&plan(dtype, room), None).unwrap();
                let mut rounded = values(1);
                store.save(1, &mut rounded).unwrap();
                assert_ne!(rounded, values(1));
                assert!(rounded.iter().zip(values(1)).all(|(a, b)| (a - b).abs() <= bound * b.abs()));
                assert_eq!(load(&mut store, 1), (room > 0).then_some(rounded));
            }
        }
        let mut store = Store::new(&plan(PrefixCacheType::F16, usize::MAX), None).unwrap();
        let error = store.save(2, &mut [1.0, 7e4, 0.0, 0.0]).unwrap_err();
        assert!(error.to_string().contains("--prefix-cache-type"), "{error}");
        assert_eq!(load(&mut store, 2), None);
    }

    #[test]
    fn a_damaged_or_shortened_file_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::new(&plan(PrefixCacheType::F32, usize::MAX), Some(folder.path())).unwrap();
        (0..3).for_each(|example| store.save(example, &mut values(example)).unwrap());
        let file = store.file.as_mut().unwrap();
        file.seek(SeekFrom::Start(3)).unwrap();
        file.write_all(&[0x55]).unwrap();
        file.set_len(7 * COLUMNS as u64 * 4).unwrap();
        assert_eq!(load(&mut store, 0), None, "a byte of it was changed");
        assert_eq!(load(&mut store, 1), Some(values(1)));
        assert_eq!(load(&mut store, 2), None, "it was cut off");
        (0..3).for_each(|example| store.save(example, &mut values(example)).unwrap());
        (0..3).for_each(|example| assert_eq!(load(&mut store, example), Some(values(example)), "made again"));
    }
}
