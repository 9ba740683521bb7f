//! Processes that train one model together, each on its part of every batch (data parallelism).

#[cfg(feature = "mpi")]
mod message_passing;

/// The processes of a run. All of them call the same methods in the same order.
pub trait Group {
    /// Number of this process, below [`Group::size`]. Process 0 alone writes files and talks.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// Replaces `values` by their sums over all processes.
    fn sum(&self, values: &mut [f32]);

    /// Leaves the group at the end of work. A process that ends without it takes the others down with it.
    fn leave(self: Box<Self>) {}
}

/// One process by itself.
pub struct Alone;

impl Group for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn sum(&self, _values: &mut [f32]) {}
}

/// Variables by which launchers tell a process how many there are: Open MPI, MPICH and its kin, torchrun.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "WORLD_SIZE"];

/// The group that this process was launched in.
///
/// # Errors
/// When it was launched as one of several, but cannot reach the others.
pub fn join() -> anyhow::Result<Box<dyn Group>> {
    let launched = SIZES.iter().find_map(|name| {
        let size: usize = std::env::var(name).ok()?.parse().ok()?;
        (size > 1).then_some((*name, size))
    });
    let Some((name, size)) = launched else {
        return Ok(Box::new(Alone));
    };
    among(name, size)
}

#[cfg(feature = "mpi")]
fn among(name: &str, size: usize) -> anyhow::Result<Box<dyn Group>> {
    let world = message_passing::World::join()?;
    anyhow::ensure!(
        world.size() == size,
        "{name} says that there are {size} processes, but MPI knows {}; launch them with mpirun",
        world.size()
    );
    Ok(Box::new(world))
}

#[cfg(not(feature = "mpi"))]
fn among(name: &str, size: usize) -> anyhow::Result<Box<dyn Group>> {
    anyhow::bail!(
        "{name} says that this is one of {size} processes, but this build trains alone; build it with `--features mpi`, or \
         launch one process"
    )
}
