//! Many runs that differ in what is adapted and how, trained one after the other or side by side, measured, and compared.
//!
//! * [`arms`]: from the sweep file to the runs, pure; [`budget`]: the rank that a number of parameters leaves for a placement;
//! * [`ground`]: what arms have in common: the model, the kernels, the measures of the model without an adapter;
//! * [`run`]: trains what is not finished yet, by the code of [`train`](crate::train); [`measure`]: what a finished run is measured by;
//! * [`result`]: what came of it, and the best arm; [`report`] and [`pictures`] show it; [`schedule`] hands the arms to a scheduler.
//!
//! In the output folder:
//!
//! | file | content |
//! |---|---|
//! | `arms/NAME/seed-N/` | a run, as `graftling train` leaves it, and its `result.json` once it is measured |
//! | `results.json`, `results.txt`, `*.svg` | all of them together, written anew after each run |
//! | `sweep.toml` | the file that the sweep was begun with |
//! | `base-HASH.json`, `before-HASH.json` | the kernels that all runs compute with, and the model's own figures |

pub mod arms;
pub mod budget;
pub mod ground;
pub mod measure;
pub mod pictures;
pub mod report;
pub mod result;
pub mod run;
pub mod schedule;

use std::path::{Path, PathBuf};

pub use arms::SweepFile;
pub use run::{Ended, Sweep};

/// The folder of one run.
pub fn run_folder(out: &Path, arm: &str, seed: u64) -> PathBuf {
    out.join("arms").join(arm).join(format!("seed-{seed}"))
}
