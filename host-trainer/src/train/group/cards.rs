//! Processes with a GPU each, on one or several machines, launched as by torchrun; sums go over NCCL.

use std::cell::RefCell;

use anyhow::{Context as _, anyhow};
use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::cuda_backend::cudarc::nccl::{Comm, Id, ReduceOp};

use super::{Group, rendezvous};

/// All processes of a launch.
pub struct Cards {
    comm: Comm,
    /// Where sums are made, as long as they were last time.
    values: RefCell<Option<CudaSlice<f32>>>,
}

impl Cards {
    /// Meets the others at `MASTER_ADDR:MASTER_PORT`.
    ///
    /// # Errors
    /// No NCCL, a variable that is missing, or processes that do not come.
    pub fn join(device: &CudaDevice, size: usize) -> anyhow::Result<Self> {
        let variable = |name: &str| {
            std::env::var(name)
                .with_context(|| format!("{name} is not set; launch the processes with torchrun"))
        };
        let rank: usize = variable("RANK")?.parse().context("RANK is no number")?;
        let address = format!("{}:{}", variable("MASTER_ADDR")?, variable("MASTER_PORT")?);
        // A library that is loaded when first used panics where it is missing.
        let made = std::panic::catch_unwind(Id::new);
        let made = made.map_err(|_| {
            anyhow!(
                "libnccl.so is missing; put the folder of NVIDIA's nccl package on LD_LIBRARY_PATH"
            )
        })?;
        let made = made.map_err(|fault| anyhow!("NCCL does not start: {fault:?}"))?;
        let own = || Ok(made.internal().map(|c| c as u8));
        let id = rendezvous::share(&address, (rank, size), own)?;
        let id = Id::uninit(id.map(|byte| byte as _));
        let comm = Comm::from_rank(device.cuda_stream(), rank, size, id)
            .map_err(|fault| anyhow!("NCCL cannot join the {size} processes: {fault:?}"))?;
        Ok(Self {
            comm,
            values: RefCell::default(),
        })
    }
}

impl Group for Cards {
    fn rank(&self) -> usize {
        self.comm.rank()
    }

    fn size(&self) -> usize {
        self.comm.world_size()
    }

    fn sum(&self, values: &mut [f32]) -> anyhow::Result<()> {
        let stream = self.comm.stream();
        let mut kept = self.values.borrow_mut();
        let mut buffer = match kept.take() {
            Some(buffer) if buffer.len() == values.len() => buffer,
            _ => stream.alloc_zeros(values.len())?,
        };
        stream.memcpy_htod(values, &mut buffer)?;
        self.comm
            .all_reduce_in_place(&mut buffer, &ReduceOp::Sum)
            .map_err(|fault| anyhow!("NCCL cannot sum: {fault:?}"))?;
        stream.memcpy_dtoh(&buffer, values)?;
        stream.synchronize()?;
        *kept = Some(buffer);
        Ok(())
    }
}
