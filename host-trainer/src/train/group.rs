//! Processes that train one model together, each on its part of every batch (data parallelism).

#[cfg(feature = "nccl")]
mod cards;
#[cfg(feature = "mpi")]
mod message_passing;
#[cfg(any(feature = "nccl", test))]
mod rendezvous;

use candle_core::Device;

/// The processes of a run. All of them call the same methods in the same order.
pub trait Group {
    /// Number of this process, below [`Group::size`]. Process 0 alone writes files and talks.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// Replaces `values` by their sums over all processes.
    ///
    /// # Errors
    /// When the others cannot be reached.
    fn sum(&self, values: &mut [f32]) -> anyhow::Result<()>;

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

    fn sum(&self, _values: &mut [f32]) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Variables by which launchers tell a process how many there are: Open MPI, MPICH and its kin, torchrun.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "WORLD_SIZE"];

/// The group that this process was launched in, for training on `device`.
///
/// # Errors
/// When it was launched as one of several, but cannot reach the others.
pub fn join(device: &Device) -> anyhow::Result<Box<dyn Group>> {
    let launched = SIZES.iter().find_map(|name| {
        let size: usize = std::env::var(name).ok()?.parse().ok()?;
        (size > 1).then_some((*name, size))
    });
    let Some((name, size)) = launched else {
        return Ok(Box::new(Alone));
    };
    match device {
        Device::Cpu => among(name, size),
        device => on_cards(device, size),
    }
}

#[cfg(feature = "nccl")]
fn on_cards(device: &Device, size: usize) -> anyhow::Result<Box<dyn Group>> {
    Ok(Box::new(cards::Cards::join(
        device.as_cuda_device()?,
        size,
    )?))
}

#[cfg(not(feature = "nccl"))]
fn on_cards(_device: &Device, size: usize) -> anyhow::Result<Box<dyn Group>> {
    anyhow::bail!(
        "this is one of {size} processes, but this build has one GPU a run; build it with `--features nccl`, or launch one \
         process"
    )
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
