//! Metrics as event files of TensorBoard, which most trackers import.
//!
//! A file is a sequence of records (TFRecord): the length of the data as a u64, its masked CRC-32C, the data, and its masked CRC-32C, all
//! little-endian. The data is a protocol buffer, `Event` of tensorflow/core/util/event.proto: the first has the version of the format, each
//! other one the scalars of a step.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Watch, now};
use crate::train::metrics::StepMetrics;
use crate::train::trainer::Trainer;
use crate::{Error, Result};

/// Begins the names of event files; the time follows.
pub const PREFIX: &str = "events.out.tfevents.";

/// An open event file.
pub struct TensorBoard {
    path: PathBuf,
    file: File,
}

impl TensorBoard {
    /// Begins an event file in `folder`, of a run that has done `steps`. TensorBoard reads all files of a folder; what earlier ones say of
    /// later steps, which are done again, it then forgets.
    ///
    /// # Errors
    /// Failed: the file cannot be written.
    pub fn begin(folder: &Path, steps: u64) -> Result<Self> {
        let time = now();
        // It reads them in the order of their names.
        let name = format!("{PREFIX}{:010}.graftling.{}", time as u64, std::process::id());
        let path = folder.join(name);
        let file = OpenOptions::new().create_new(true).append(true).open(&path).map_err(|error| unwritable(&path, &error))?;
        let mut board = Self { path, file };
        board.record(&version(time))?;
        if steps > 0 {
            board.record(&begins_at(time, steps + 1))?;
        }
        Ok(board)
    }

    fn record(&mut self, data: &[u8]) -> Result<()> {
        self.file.write_all(&framed(data)).map_err(|error| unwritable(&self.path, &error))
    }
}

impl Watch for TensorBoard {
    fn step(&mut self, metrics: &StepMetrics, _: &Trainer) -> Result<()> {
        self.record(&scalars(now(), metrics.step, &[numbers_of(metrics), measured(metrics)].concat()))
    }

    fn measured(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.record(&scalars(now(), metrics.step, &measured(metrics)))
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::failed(path.display(), format!("cannot write the events: {error}"), "free some disk space, or leave --tensorboard out")
}

/// A record of the file.
fn framed(data: &[u8]) -> Vec<u8> {
    let masked = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// `Event { wall_time = 1, file_version = 3 }`.
fn version(wall_time: f64) -> Vec<u8> {
    let mut event = double(1, wall_time);
    event.extend(bytes(3, b"brain.Event:2"));
    event
}

/// `Event { wall_time = 1, step = 2, session_log = 7 }` with `SessionLog { status = 1 }`, which is START.
fn begins_at(wall_time: f64, step: u64) -> Vec<u8> {
    [double(1, wall_time), number(2, step), bytes(7, &number(1, 1))].concat()
}

/// `Event { wall_time = 1, step = 2, summary = 5 }` with a `Summary.Value { tag = 1, simple_value = 2 }` for each number.
fn scalars(wall_time: f64, step: u64, named: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in named {
        let value = [bytes(1, tag.as_bytes()), float(2, *value as f32)].concat();
        summary.extend(bytes(1, &value));
    }
    [double(1, wall_time), number(2, step), bytes(5, &summary)].concat()
}

/// The tags that people's dashboards know from other trainers, and the values.
fn numbers_of(metrics: &StepMetrics) -> Vec<(&'static str, f64)> {
    let always = [
        ("train/loss", metrics.loss),
        ("train/learning_rate", metrics.learning_rate),
        ("train/grad_norm", metrics.grad_norm),
        ("train/tokens_per_second", metrics.tokens_per_second),
        ("train/supervised_tokens", metrics.supervised_tokens as f64),
        ("train/gpu_bytes", metrics.gpu_bytes as f64),
    ];
    always.into_iter().chain(metrics.aux_loss.map(|loss| ("train/aux_loss", loss))).collect()
}

/// The same of what was measured after the step.
fn measured(metrics: &StepMetrics) -> Vec<(&'static str, f64)> {
    let check = metrics.check.as_ref().and_then(|check| check.all.value());
    [metrics.eval_loss.map(|loss| ("eval/loss", loss)), check.map(|share| ("check/right", share))].into_iter().flatten().collect()
}

// The wire format of protocol buffers: a key of field number and kind, then the value.

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn double(field: u64, value: f64) -> Vec<u8> {
    [&varint(field << 3 | 1)[..], &value.to_le_bytes()].concat()
}

fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [&varint(field << 3 | 2)[..], &varint(value.len() as u64), value].concat()
}

fn float(field: u64, value: f32) -> Vec<u8> {
    [&varint(field << 3 | 5)[..], &value.to_le_bytes()].concat()
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_protocol_buffers_write_them() {
        // From the protocol's own description: 150 is 96 01, and "testing" in field 2 is 12 07 74 65 73 74 69 6e 67.
        assert_eq!(number(1, 150), [0x08, 0x96, 0x01]);
        assert_eq!(bytes(2, b"testing"), [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]);
        assert_eq!(varint(u64::MAX).len(), 10);
    }

    /// What the `tensorboard` package itself writes first (its `RecordWriter`, at time 1.5).
    #[test]
    fn the_first_record_is_that_of_tensorboard() {
        let expected = "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c";
        let found: String = framed(&version(1.5)).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, expected);
    }
}
