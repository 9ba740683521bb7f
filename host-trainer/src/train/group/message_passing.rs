//! Processes on one or several machines, launched by `mpirun`.

use anyhow::Context as _;
use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::topology::{Communicator as _, SimpleCommunicator};
use mpi::traits::CommunicatorCollectives as _;

use super::Group;

/// All processes of an `mpirun`.
pub struct World {
    /// Leaving MPI waits for the others, which a process that failed must not do: then this is never dropped, and
    /// `mpirun` ends the others.
    universe: std::mem::ManuallyDrop<Universe>,
    world: SimpleCommunicator,
}

impl World {
    /// Enters MPI.
    ///
    /// # Errors
    /// When this process has entered it before.
    pub fn join() -> anyhow::Result<Self> {
        let universe = mpi::initialize().context("MPI was entered before")?;
        Ok(Self {
            world: universe.world(),
            universe: std::mem::ManuallyDrop::new(universe),
        })
    }
}

impl Group for World {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn sum(&self, values: &mut [f32]) -> anyhow::Result<()> {
        let own = values.to_vec();
        self.world
            .all_reduce_into(&own[..], values, SystemOperation::sum());
        Ok(()) // where MPI cannot, it ends all processes
    }

    fn leave(self: Box<Self>) {
        drop(std::mem::ManuallyDrop::into_inner(self.universe));
    }
}
