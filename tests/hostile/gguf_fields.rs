//! The fields of a GGUF file, found by a reader that believes what it reads, and damage to them.

use super::mutate::NUMBERS;
use super::random::Random;
use std::ops::Range;

/// Where the numbers stand, and the metadata pairs and tensor entries as a whole.
#[derive(Default)]
struct Fields {
    numbers: Vec<Range<usize>>,
    pairs: Vec<Range<usize>>,
    tensors: Vec<Range<usize>>,
}

/// Replaces a number, or removes, repeats or takes from another file a pair or an entry; the counts go along, mostly.
pub fn mutated(random: &mut Random, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let fields = walk(bytes);
    let mut out = bytes.to_vec();
    if fields.numbers.is_empty() {
        return out;
    }
    let in_pairs = random.chance(2);
    let (own, theirs, count_at) =
        if in_pairs { (fields.pairs, walk(other).pairs, 16) } else { (fields.tensors, walk(other).tensors, 8) };
    match random.below(6) {
        kind @ 0..3 if !own.is_empty() => {
            let place = random.pick(&own).clone();
            let (piece, change): (Vec<u8>, i64) = match kind {
                0 => (Vec::new(), -1),
                1 => (bytes[place.clone()].repeat(2), 1),
                _ if theirs.is_empty() => return out,
                _ => (other[random.pick(&theirs).clone()].to_vec(), 0),
            };
            out.splice(place, piece);
            if !random.chance(6) && out.len() > count_at + 8 {
                let count = (own.len() as u64).wrapping_add_signed(change);
                out[count_at..count_at + 8].copy_from_slice(&count.to_le_bytes());
            }
        }
        _ => {
            let place = random.pick(&fields.numbers).clone();
            let number = match random.below(3) {
                0 => *random.pick(&NUMBERS),
                1 => random.next() >> random.below(64),
                _ => bytes[place.clone()].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)).wrapping_add(1),
            };
            let size = place.len();
            out[place].copy_from_slice(&number.to_le_bytes()[..size]);
        }
    }
    out
}

fn walk(bytes: &[u8]) -> Fields {
    let mut walker = Walker { bytes, at: 4, fields: Fields::default() };
    let _ = walker.file(); // a damaged file ends early
    walker.fields
}

struct Walker<'a> {
    bytes: &'a [u8],
    at: usize,
    fields: Fields,
}

impl Walker<'_> {
    fn file(&mut self) -> Option<()> {
        self.number(4)?;
        let tensors = self.number(8)?;
        let pairs = self.number(8)?;
        for _ in 0..pairs {
            let start = self.at;
            self.string()?;
            let kind = self.number(4)?;
            self.value(kind)?;
            self.fields.pairs.push(start..self.at);
        }
        for _ in 0..tensors {
            let start = self.at;
            self.string()?;
            for _ in 0..self.number(4)? {
                self.number(8)?;
            }
            self.number(4)?;
            self.number(8)?;
            self.fields.tensors.push(start..self.at);
        }
        Some(())
    }

    fn value(&mut self, kind: u64) -> Option<()> {
        match kind {
            0 | 1 | 7 => drop(self.number(1)?),
            2 | 3 => drop(self.number(2)?),
            4..=6 => drop(self.number(4)?),
            8 => self.string()?,
            9 => {
                let element = self.number(4)?;
                for _ in 0..self.number(8)? {
                    self.value(element)?;
                }
            }
            10..=12 => drop(self.number(8)?),
            _ => return None,
        }
        Some(())
    }

    fn string(&mut self) -> Option<()> {
        let length = usize::try_from(self.number(8)?).ok()?;
        self.at = self.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        Some(())
    }

    fn number(&mut self, size: usize) -> Option<u64> {
        let place = self.at..self.at + size;
        let digits = self.bytes.get(place.clone())?;
        self.at = place.end;
        self.fields.numbers.push(place);
        Some(digits.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}
