//! A card, through Candle's device: memory, NVRTC, launches, cuBLAS.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use candle_core::cuda_backend::WrapErr as _;
use candle_core::cuda_backend::cudarc::cublas::{result as blas, sys as blas_sys};
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUdevice_attribute_enum as Attribute, CUfunction_attribute_enum as FunctionAttribute,
};
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaSlice, DevicePtr as _, LaunchConfig, PushKernelArg as _, result as driver,
    sys as driver_sys,
};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Device, Layout, Result, Shape, Storage, Tensor, bail};

use super::{Arg, ColumnMajor, Element, Launch, Machine, Program, Span};

/// Shared memory that a block gets without being asked twice.
const PLAIN_SHARED: usize = 48 * 1024;

impl Machine for CudaDevice {
    type Memory<T: Element> = CudaSlice<T>;

    fn alloc<T: Element>(&self, len: usize) -> Result<CudaSlice<T>> {
        // SAFETY: nothing is read from it before a kernel has written it; the emulator's memory starts as NaNs and shows
        // where that is not so.
        unsafe { CudaDevice::alloc(self, len) }
    }

    fn upload<T: Element>(&self, values: &[T]) -> Result<CudaSlice<T>> {
        self.clone_htod(values)
    }

    fn span<'a, T: Element>(&self, memory: &'a CudaSlice<T>) -> Span<'a, T> {
        // Everything runs on this one stream, in order: nothing waits for the guard.
        let stream = self.cuda_stream();
        let (address, _guard) = memory.device_ptr(&stream);
        Span::new(address, memory.len())
    }

    fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<()> {
        let name = launch.program.name();
        let ptx = ptx(self, launch.program)?;
        let function = self.get_or_load_custom_func(launch.kernel, &name, &ptx)?;
        if launch.shared > PLAIN_SHARED {
            let most = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(most, launch.shared as i32).w()?;
        }
        let mut builder = function.builder();
        for arg in args {
            match arg {
                Arg::Address(value, _) | Arg::Len(value) => builder.arg(value),
                Arg::Int(value) => builder.arg(value),
                Arg::Float(value) => builder.arg(value),
            };
        }
        let config = LaunchConfig {
            grid_dim: (launch.grid[0] as u32, launch.grid[1] as u32, 1),
            block_dim: (launch.block as u32, 1, 1),
            shared_mem_bytes: launch.shared as u32,
        };
        let timer = Timer::start(self)?;
        // SAFETY: the arguments have the types of the kernel's parameters and the sizes that it takes from them: the
        // tests run every kernel through the same calls and check both. Spans keep their memory until the launch is
        // queued, and memory is freed in the order of the stream.
        unsafe { builder.launch(config) }.w()?;
        timer.end(self, launch.kernel)
    }

    fn multiply(&self, p: &ColumnMajor) -> Result<()> {
        let operation = |transposed| {
            if transposed {
                blas_sys::cublasOperation_t::CUBLAS_OP_T
            } else {
                blas_sys::cublasOperation_t::CUBLAS_OP_N
            }
        };
        let pointer = |address: u64| address as *const c_void;
        let scalar = |value: &f32| std::ptr::from_ref(value).cast::<c_void>();
        let (m, n, k) = p.dims;
        let handle = self.cublas_handle();
        let timer = Timer::start(self)?;
        // SAFETY: `Product` made the addresses of live memory that holds the matrices of these dimensions; the call is
        // queued on the stream of the launches.
        unsafe {
            blas::gemm_ex(
                *handle.handle(),
                operation(p.a.0),
                operation(p.b.0),
                m as i32,
                n as i32,
                k as i32,
                scalar(&1.0),
                pointer(p.a.1),
                blas_sys::cudaDataType::CUDA_R_16BF,
                p.a.2 as i32,
                pointer(p.b.1),
                blas_sys::cudaDataType::CUDA_R_16BF,
                p.b.2 as i32,
                scalar(if p.add { &1.0 } else { &0.0 }),
                p.c.0 as *mut c_void,
                blas_sys::cudaDataType::CUDA_R_32F,
                p.c.1 as i32,
                blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .w()?;
        timer.end(self, "products")
    }

    fn max_shared(&self) -> usize {
        let most = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let context = self.cuda_stream();
        let bytes = context.context().attribute(most).unwrap_or(0);
        bytes.max(PLAIN_SHARED as i32) as usize
    }
}

/// Opens a card: everything that is needed is loaded now, so that what is missing is said at once.
///
/// # Errors
/// One line: no driver, no such card, or libraries of CUDA that are missing.
pub fn open(ordinal: usize) -> anyhow::Result<Device> {
    anyhow::ensure!(
        has_driver(),
        "this machine has no NVIDIA driver (libcuda.so.1 is not there); use --device cpu"
    );
    // cudarc panics where a library is missing, which is told of as an error here.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let opened = std::panic::catch_unwind(|| prepare(ordinal));
    std::panic::set_hook(hook);
    let error = match opened {
        Ok(Ok(device)) => return Ok(Device::Cuda(device)),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => match panic.downcast_ref::<String>() {
            Some(text) => text.split(" - ").next().unwrap_or_default().to_owned(),
            None => "a library of CUDA does not load".to_owned(),
        },
    };
    anyhow::bail!(
        "cannot use GPU {ordinal}: {}; put CUDA's libraries (cublas, curand, nvrtc) on LD_LIBRARY_PATH, name another GPU, \
         or use --device cpu",
        error.lines().next().unwrap_or_default()
    )
}

/// Asks the loader, not cudarc: its own question is there only where it loads libraries at run time.
fn has_driver() -> bool {
    // SAFETY: loading the driver runs its initialisers only, which is what comes next anyway.
    !unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_LAZY) }.is_null()
}

fn prepare(ordinal: usize) -> Result<CudaDevice> {
    let device = CudaDevice::new_with_stream(ordinal)?;
    // SAFETY: all work goes to the one stream of this device, in order; events between streams would only cost time.
    unsafe { device.disable_event_tracking() };
    keep_freed_memory(&device)?;
    ptx(&device, Program::Rows)?;
    Ok(device)
}

/// Every step frees and asks for the same gigabytes; by default the driver gives freed memory back at every wait.
fn keep_freed_memory(device: &CudaDevice) -> Result<()> {
    let stream = device.cuda_stream();
    if !stream.context().has_async_alloc() {
        return Ok(());
    }
    let mut all = u64::MAX;
    let threshold = driver_sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is the one that the device allocates from; the attribute is a `u64`.
    unsafe {
        let pool = driver::device::get_default_mem_pool(stream.context().cu_device()).w()?;
        driver::mem_pool::set_attribute(pool, threshold, std::ptr::from_mut(&mut all).cast()).w()
    }
}

/// Most bytes of the card's memory that this process ever had in use for tensors, where the driver tells.
pub(crate) fn peak_memory(device: &CudaDevice) -> Option<u64> {
    let stream = device.cuda_stream();
    let mut bytes = 0u64;
    let most = driver_sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: the pool is the one that the device allocates from; the attribute is a `u64`.
    let told = unsafe {
        let pool = driver::device::get_default_mem_pool(stream.context().cu_device()).ok()?;
        driver::mem_pool::get_attribute(pool, most, std::ptr::from_mut(&mut bytes).cast())
    };
    told.ok().map(|()| bytes).filter(|bytes| *bytes > 0)
}

/// A program compiled for the card, once a process.
fn ptx(device: &CudaDevice, program: Program) -> Result<Arc<str>> {
    type Compiled = HashMap<(Program, (i32, i32)), Arc<str>>;
    static COMPILED: Mutex<Option<Compiled>> = Mutex::new(None);
    let stream = device.cuda_stream();
    let capability = stream.context().compute_capability().w()?;
    let mut compiled = COMPILED.lock().expect("not poisoned");
    let compiled = compiled.get_or_insert_default();
    if let Some(ptx) = compiled.get(&(program, capability)) {
        return Ok(ptx.clone());
    }
    let options = CompileOptions {
        fmad: Some(false),
        options: vec![
            format!(
                "--gpu-architecture=compute_{}{}",
                capability.0, capability.1
            ),
            "--std=c++17".to_owned(),
        ],
        name: Some(program.name() + ".cu"),
        ..CompileOptions::default()
    };
    let ptx: Arc<str> = match compile_ptx_with_opts(program.source(), options) {
        Ok(ptx) => ptx.to_src().into(),
        Err(error) => bail!("{} does not compile: {error}", program.name()),
    };
    compiled.insert((program, capability), ptx.clone());
    Ok(ptx)
}

type Timed = (&'static str, CudaEvent, CudaEvent);

thread_local! {
    /// Launches of this thread, while they are timed.
    static TIMED: RefCell<Option<Vec<Timed>>> = const { RefCell::new(None) };
}

/// Times what is launched from now on by this thread.
pub(crate) fn start_timing() {
    TIMED.set(Some(Vec::new()));
}

/// Seconds of each kernel since [`start_timing`], most first. Candle's own kernels are not among them.
pub(crate) fn end_timing(device: &CudaDevice) -> Result<Vec<(String, f64)>> {
    device.cuda_stream().synchronize().w()?;
    let mut seconds: HashMap<&str, f64> = HashMap::new();
    for (name, start, end) in TIMED.take().unwrap_or_default() {
        *seconds.entry(name).or_default() += f64::from(start.elapsed_ms(&end).w()?) / 1e3;
    }
    let mut seconds: Vec<_> = seconds
        .into_iter()
        .map(|(name, s)| (name.to_owned(), s))
        .collect();
    seconds.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(seconds)
}

/// The event before a launch, where launches are timed.
struct Timer(Option<CudaEvent>);

impl Timer {
    fn start(device: &CudaDevice) -> Result<Self> {
        let timing = TIMED.with_borrow(Option::is_some);
        Ok(Self(timing.then(|| event(device)).transpose()?))
    }

    fn end(self, device: &CudaDevice, name: &'static str) -> Result<()> {
        if let Some(start) = self.0 {
            let timed = (name, start, event(device)?);
            TIMED.with_borrow_mut(|all| all.get_or_insert_default().push(timed));
        }
        Ok(())
    }
}

fn event(device: &CudaDevice) -> Result<CudaEvent> {
    let with_time = driver_sys::CUevent_flags::CU_EVENT_DEFAULT;
    device.cuda_stream().record_event(Some(with_time)).w()
}

/// The contiguous f32 values of an operand.
pub(in crate::ops) fn span<'a>(storage: &'a CudaStorage, layout: &Layout) -> Result<Span<'a, f32>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => {
            let values = storage.as_cuda_slice::<f32>()?;
            Ok(storage.device.span(values).part(start, end - start))
        }
        None => bail!(
            "operand must be contiguous, has strides {:?}",
            layout.stride()
        ),
    }
}

/// Calls `f` with the values of contiguous f32 tensors on one card.
pub(crate) fn with_spans<const N: usize, R>(
    tensors: [&Tensor; N],
    f: impl FnOnce(&CudaDevice, [Span<'_, f32>; N]) -> Result<R>,
) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut spans = [Span::new(0, 0); N];
    for (to, (storage, layout)) in spans.iter_mut().zip(&guards) {
        *to = match &**storage {
            Storage::Cuda(storage) => span(storage, layout)?,
            _ => bail!("operand must be on the GPU"),
        };
    }
    match tensors[0].device() {
        Device::Cuda(device) => f(device, spans),
        _ => bail!("operand must be on the GPU"),
    }
}

/// The norm of all gradients together.
pub(crate) fn norm(device: &CudaDevice, grads: &[Tensor]) -> Result<CudaSlice<f64>> {
    let guards: Vec<_> = grads.iter().map(Tensor::storage_and_layout).collect();
    let spans = guards.iter().map(|(storage, layout)| match &**storage {
        Storage::Cuda(storage) => span(storage, layout),
        _ => bail!("gradient must be on the GPU"),
    });
    super::adamw::norm(device, &spans.collect::<Result<Vec<_>>>()?)
}

/// What an operation returns.
pub(in crate::ops) fn result(
    values: CudaSlice<f32>,
    device: &CudaDevice,
    shape: impl Into<Shape>,
) -> Result<(CudaStorage, Shape)> {
    let storage = CudaStorage::wrap_cuda_slice(values, device.clone());
    Ok((storage, shape.into()))
}

/// A tensor on the card from its values.
pub(in crate::ops) fn tensor(
    values: CudaSlice<f32>,
    device: &CudaDevice,
    shape: impl Into<Shape>,
) -> Tensor {
    let storage = CudaStorage::wrap_cuda_slice(values, device.clone());
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}
