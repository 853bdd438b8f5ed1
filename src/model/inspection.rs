//! What is looked at in every weight on its way to the device: a digest of all bytes, and numbers that no sound model has.

use xxhash_rust::xxh3::Xxh3;

use crate::storage::{DType, TensorInfo, TensorSource};
use crate::{Error, Result};

/// Looks at one tensor after the other, in pieces of whole blocks.
#[derive(Default)]
pub(super) struct Inspection {
    /// Not a cryptographic one: other weights are an oversight, not an attack, and this keeps up with any disk.
    digest: Xxh3,
    /// The tensor that is being looked at, and where it is stored.
    place: String,
    /// Whether everything seen of it is zero.
    zero: bool,
}

impl Inspection {
    pub(super) fn begin(&mut self, source: &dyn TensorSource, info: &TensorInfo) {
        self.place = format!("{}: tensor {}", source.place(&info.name), info.name);
        self.digest.update(format!("{} {:?} {}\n", info.name, info.shape, info.storage.name()).as_bytes());
        self.zero = true;
    }

    /// Takes in the next whole blocks of the file.
    ///
    /// # Errors
    /// Bad input, naming the tensor: a value is not finite.
    pub(super) fn see(&mut self, stored: &[u8], storage: DType) -> Result<()> {
        self.digest.update(stored);
        self.zero &= storage.is_zero(stored);
        match storage.is_finite(stored) {
            true => Ok(()),
            false => {
                let problem = "holds a value that is not finite (NaN or infinity), and so would every loss be";
                Err(Error::bad_input(&self.place, problem, "download or convert the model again"))
            }
        }
    }

    /// # Errors
    /// Bad input: a finite value has become infinite in `dtype`.
    pub(super) fn check_packed(&self, packed: &[u8], dtype: DType) -> Result<()> {
        match dtype != DType::F16 || DType::F16.is_finite(packed) {
            true => Ok(()),
            false => {
                let problem = "holds a value that f16 cannot hold (its largest is 65504)";
                Err(Error::bad_input(&self.place, problem, "use --weights bf16 or f32"))
            }
        }
    }

    /// Says so if the tensor was zero.
    pub(super) fn end(&self) {
        if self.zero {
            tracing::warn!("{} holds nothing but zeros; is the model whole?", self.place);
        }
    }

    /// A short name for everything that was seen.
    pub(super) fn digest(&self) -> String {
        format!("{:032x}", self.digest.digest128())
    }
}
