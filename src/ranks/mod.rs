//! Several processes that work on one run: ranks, as MPI calls them.
//!
//! [`Ranks`] is what the rest of the program knows. Of a process that is alone every call is the identity, so that a loop says a thing
//! once: `ranks.sum(&mut gradients)`. What moves numbers between processes is a [`Communicator`]; there is one, MPI, behind the cargo
//! feature `mpi`, and nothing else in the crate names that feature.
//!
//! **All ranks make the same calls in the same order**, or they wait for each other for ever. An error of one rank is no exception: it
//! goes through [`Ranks::agree`] where all ranks do a thing of the same kind, and through [`Ranks::end_all`] otherwise.

#[cfg(feature = "mpi")]
mod mpi;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::terminal::say;
use crate::{Error, Result};

/// What moves numbers between the processes of a run. Every call but the first four and [`Communicator::end`] is one that all ranks
/// make, with as many values.
pub trait Communicator: Send + Sync {
    /// This process, from 0.
    fn rank(&self) -> usize;
    /// Processes in all.
    fn count(&self) -> usize;
    /// This process among those of its machine, from 0.
    fn local_rank(&self) -> usize;
    /// The name of this process's machine.
    fn machine(&self) -> String;
    /// The sum over all ranks, on each of them, in whatever order is fast.
    fn sum(&self, values: &mut [f32]);
    /// [`Communicator::sum`] of numbers that are counts and losses.
    fn sum_few(&self, values: &mut [f64]);
    /// What rank `from` has, on every rank.
    fn share(&self, bytes: &mut [u8], from: usize);
    /// Ends all processes with this exit code.
    fn end(&self, code: i32) -> !;
}

/// The ranks of this run, or this process alone. See the [module](self).
#[derive(Clone, Default)]
pub struct Ranks(Option<Arc<dyn Communicator>>);

/// How long a rank that fails waits for a lower one to tell the same.
const LOWER_FIRST: Duration = Duration::from_secs(2);

/// The longest that a rank waits to be ended by the one that tells what happened.
const TO_BE_ENDED: Duration = Duration::from_secs(30);

impl Ranks {
    /// This process alone.
    pub fn alone() -> Self {
        Self(None)
    }

    /// The ranks that `communicator` connects.
    pub fn of(communicator: Arc<dyn Communicator>) -> Self {
        Self((communicator.count() > 1).then_some(communicator))
    }

    /// The ranks as which this process and others were started, by `mpirun` or what does the same; alone where it was started by itself,
    /// and then MPI is not touched.
    ///
    /// # Errors
    /// Failed: MPI cannot be started.
    pub fn join() -> Result<Self> {
        match launched() {
            Some(count) => Self::among(count),
            None => Ok(Self::alone()),
        }
    }

    #[cfg(feature = "mpi")]
    fn among(_count: usize) -> Result<Self> {
        Ok(Self::of(Arc::new(mpi::World::start()?)))
    }

    #[cfg(not(feature = "mpi"))]
    fn among(count: usize) -> Result<Self> {
        tracing::warn!(
            "started as one of {count} ranks, but this graftling was built without MPI (cargo build --features mpi): each of the \
             processes works by itself"
        );
        Ok(Self::alone())
    }

    /// This process, from 0.
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |ranks| ranks.rank())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(1, |ranks| ranks.count())
    }

    /// This process among those of its machine, from 0.
    pub fn local_rank(&self) -> usize {
        self.0.as_ref().map_or(0, |ranks| ranks.local_rank())
    }

    /// Whether this process has nobody beside it.
    pub fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this is the rank that writes and speaks.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// What of a list of things that are done side by side is this rank's: every thing has one.
    pub fn is_mine(&self, number: usize) -> bool {
        self.owner(number) == self.rank()
    }

    /// This rank's of these things, with their numbers among all.
    pub fn mine<'t, T>(&self, all: &'t [T]) -> impl Iterator<Item = (usize, &'t T)> + use<'t, T> {
        let (own, count) = (self.rank(), self.count());
        all.iter().enumerate().skip(own).step_by(count)
    }

    /// The rank that has this thing of a list.
    pub fn owner(&self, number: usize) -> usize {
        number % self.count()
    }

    /// The sum over all ranks, on each of them with the same bits. The order of the additions is the communicator's.
    pub fn sum(&self, values: &mut [f32]) {
        if let Some(ranks) = &self.0 {
            ranks.sum(values);
        }
    }

    /// [`Ranks::sum`] of a few numbers. It is exact where each is zero on all ranks but one.
    pub fn sum_few(&self, values: &mut [f64]) {
        if let Some(ranks) = &self.0 {
            ranks.sum_few(values);
        }
    }

    /// Whether it is so on any rank.
    pub fn any(&self, here: bool) -> bool {
        let mut ranks = [f64::from(here)];
        self.sum_few(&mut ranks);
        ranks[0] > 0.0
    }

    /// Gives every rank the values of rank `from`.
    pub fn share<T: bytemuck::Pod>(&self, values: &mut [T], from: usize) {
        if let Some(ranks) = &self.0 {
            ranks.share(bytemuck::cast_slice_mut(values), from);
        }
    }

    /// What the first rank has; what the others give is not looked at.
    ///
    /// # Errors
    /// Failed: it cannot be written as JSON.
    pub fn told<T: Serialize + DeserializeOwned>(&self, value: T) -> Result<T> {
        if self.is_alone() {
            return Ok(value);
        }
        let unreadable = |error: serde_json::Error| Error::failed("MPI", error, "this is a defect; please report it");
        let mut bytes = if self.is_first() { serde_json::to_vec(&value).map_err(unreadable)? } else { Vec::new() };
        self.share_bytes(&mut bytes, 0);
        if self.is_first() { Ok(value) } else { serde_json::from_slice(&bytes).map_err(unreadable) }
    }

    /// What each rank has to say, in their order.
    pub fn all(&self, own: &str) -> Vec<String> {
        let said = |from| {
            let mut bytes = if from == self.rank() { own.as_bytes().to_vec() } else { Vec::new() };
            self.share_bytes(&mut bytes, from);
            String::from_utf8_lossy(&bytes).into_owned()
        };
        (0..self.count()).map(said).collect()
    }

    /// [`Ranks::share`] of as many bytes as rank `from` has.
    fn share_bytes(&self, bytes: &mut Vec<u8>, from: usize) {
        let mut length = [bytes.len() as u64];
        self.share(&mut length, from);
        bytes.resize(length[0] as usize, 0);
        self.share(bytes, from);
    }

    /// What came of something that all ranks have tried, and between whose beginning and end they called nothing here. If it failed
    /// anywhere, only the lowest rank on which it did returns, with its error; the others wait until that has [ended](Ranks::end_all) them.
    ///
    /// # Errors
    /// `result`'s.
    pub fn agree<T>(&self, result: Result<T>) -> Result<T> {
        if self.is_alone() {
            return result;
        }
        let mut failed = vec![0.0; self.count()];
        failed[self.rank()] = f64::from(result.is_err());
        self.sum_few(&mut failed);
        match failed.iter().position(|&failed| failed > 0.0) {
            Some(lowest) if lowest != self.rank() => wait_to_be_ended(),
            _ => result,
        }
    }

    /// `result`, unless it is an error and there are other ranks: these would wait for this one for ever, so the error is told, with the
    /// rank that it is of, and all processes end with its exit code. Where several ranks fail at a time, one tells.
    ///
    /// # Errors
    /// `result`'s, of a process that is alone.
    pub fn end_all<T>(&self, result: Result<T>) -> Result<T> {
        let (Some(ranks), Err(error)) = (&self.0, &result) else { return result };
        // What follows from numbers that all share is an error of all, and the lowest is the one to speak: it ends this one meanwhile.
        if !self.is_first() {
            std::thread::sleep(LOWER_FIRST);
        }
        say(&format!("error: {}: {error}", self.name()));
        ranks.end(error.exit_code())
    }

    /// This rank, for people.
    pub fn name(&self) -> String {
        let machine = self.0.as_ref().map_or_else(String::new, |ranks| format!(" on {}", ranks.machine()));
        format!("rank {} of {}{machine}", self.rank(), self.count())
    }
}

/// How many processes were started together with this one and including it, by a launcher that says so; `None` if it was started by itself.
fn launched() -> Option<usize> {
    // Open MPI; MPICH, Intel MPI and Slurm's PMI 1 and 2; MVAPICH; Slurm's PMIx, which names no number but the rank.
    let counts = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"];
    let number = |name: &str| std::env::var(name).ok()?.parse::<usize>().ok();
    let count = counts.iter().find_map(|name| number(name));
    count.or_else(|| number("PMIX_RANK").and(number("SLURM_NTASKS"))).filter(|&count| count > 1)
}

/// Whoever ends the processes ends this one, too.
fn wait_to_be_ended() -> ! {
    std::thread::sleep(TO_BE_ENDED);
    std::process::exit(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alone_every_call_is_the_identity() {
        let ranks = Ranks::alone();
        let mut values = [1.5, -0.0, f32::NAN];
        ranks.sum(&mut values);
        ranks.share(&mut values, 0);
        assert_eq!(values.map(f32::to_bits), [1.5, -0.0, f32::NAN].map(f32::to_bits));
        assert!(ranks.is_alone() && ranks.is_first() && (0..9).all(|number| ranks.is_mine(number)));
        assert!(ranks.any(true) && !ranks.any(false));
        assert_eq!(ranks.told("x".to_string()).unwrap(), "x");
        assert_eq!(ranks.all("here"), ["here"]);
        let error = || Err::<(), _>(Error::bad_input("place", "problem", "proposal"));
        assert_eq!(ranks.agree(error()).unwrap_err().exit_code(), 2);
        assert_eq!(ranks.end_all(error()).unwrap_err().exit_code(), 2);
    }
}
