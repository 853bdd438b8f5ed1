//! Ranks over MPI.

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::environment::{Universe, processor_name};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives as _, Equivalence, Root as _};

use super::Communicator;
use crate::{Error, Result};

/// Numbers that one call adds up: MPI counts in 32 bits, and the sum goes to a buffer of its own.
const PIECE: usize = 4 << 20;

/// All processes that `mpirun` has started. MPI ends when it is dropped.
pub(super) struct World {
    universe: Universe,
    rank: usize,
    count: usize,
    local_rank: usize,
}

impl World {
    /// # Errors
    /// Failed: MPI was started in this process already, or does not work with threads.
    pub(super) fn start() -> Result<Self> {
        // One thread at a time calls it, which need not be the first.
        let started = mpi::initialize_with_threading(Threading::Serialized);
        let Some((universe, threading)) = started else {
            return Err(Error::failed("MPI", "was started in this process already", "this is a defect; please report it"));
        };
        if threading < Threading::Serialized {
            let problem = format!("offers threads only so far: {threading:?}");
            return Err(Error::failed("MPI", problem, "use an MPI library that was built with threads, as Debian's Open MPI is"));
        }
        let world = universe.world();
        let local_rank = world.split_shared(world.rank()).rank() as usize;
        Ok(Self { rank: world.rank() as usize, count: world.size() as usize, local_rank, universe })
    }

    fn world(&self) -> SimpleCommunicator {
        self.universe.world()
    }

    fn sum_up<T: Equivalence + Copy + Default>(&self, values: &mut [T]) {
        let mut own = Vec::with_capacity(values.len().min(PIECE));
        for piece in values.chunks_mut(PIECE) {
            own.clear();
            own.extend_from_slice(piece);
            self.world().all_reduce_into(&own[..], piece, SystemOperation::sum());
        }
    }
}

impl Communicator for World {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.count
    }

    fn local_rank(&self) -> usize {
        self.local_rank
    }

    fn machine(&self) -> String {
        processor_name().unwrap_or_else(|_| "a machine without a name".to_string())
    }

    fn sum(&self, values: &mut [f32]) {
        self.sum_up(values);
    }

    fn sum_few(&self, values: &mut [f64]) {
        self.sum_up(values);
    }

    fn share(&self, bytes: &mut [u8], from: usize) {
        let world = self.world();
        let root = world.process_at_rank(from as i32);
        bytes.chunks_mut(PIECE * size_of::<f32>()).for_each(|piece| root.broadcast_into(piece));
    }

    fn end(&self, code: i32) -> ! {
        self.world().abort(code)
    }
}
