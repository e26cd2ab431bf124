//! A GPU: its context, its kernels, and one stream of work.

use std::collections::HashMap;
use std::ffi::CString;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{DriverError, result, sys};

use super::graph::Graphs;
use super::library::Library;
use super::memory::PinnedMemory;
use super::nccl::{Communicator, Nccl};
use super::{Device, DevicePointer, GpuError, GroupId, Launch, Product, code};

/// Shared memory that every kernel may have without asking.
const SHARED_BYTES_PLAIN: u32 = 48 << 10;

/// A device with the kernels loaded. Everything that it is asked to do happens in order, on one
/// stream.
#[derive(Debug)]
pub struct Gpu {
    pub(super) context: Arc<Context>,
    pub(super) stream: sys::CUstream,
    functions: HashMap<&'static str, sys::CUfunction>,
    modules: Vec<(String, sys::CUmodule)>,
    description: Description,
    allocations: Vec<DevicePointer>,
    pub(super) graphs: Graphs,
    /// Two, which take turns: one is filled while the other is copied from.
    staging: Vec<PinnedMemory>,
    results: Option<PinnedMemory>,
    cublas_lt: Option<Library>,
    nccl: Option<Nccl>,
    group: Option<Communicator>,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// As the driver calls it.
    pub name: String,
    /// Where it is on the bus, as NVML names it.
    pub pci_bus_id: String,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Bytes of memory.
    pub memory_bytes: usize,
    /// The newest CUDA that the driver knows.
    pub driver: (u32, u32),
    /// Whether the kernels came with the build, or were compiled at start.
    pub is_compiled_ahead: bool,
    /// What multiplies large matrices of plain weights: a library and its version, or why it is our
    /// own kernels.
    pub products: String,
}

/// The device's primary context; the last holder gives it back.
#[derive(Debug)]
pub(super) struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: CUDA's handles may be used from any thread; each use makes the context current first.
unsafe impl Send for Context {}
// SAFETY: likewise, and nothing in it changes.
unsafe impl Sync for Context {}
// SAFETY: likewise; a stream and modules are used by one thread at a time.
unsafe impl Send for Gpu {}

pub(super) fn failed(doing: &str) -> impl Fn(DriverError) -> GpuError {
    move |error| GpuError::Driver { doing: doing.to_owned(), code: format!("{error:?}") }
}

impl Context {
    /// Makes the context the calling thread's.
    pub(super) fn enter(&self) -> Result<(), GpuError> {
        // SAFETY: the context is retained as long as `self` lives.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("entering the context"))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, in `open`.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

impl Gpu {
    /// Opens device `ordinal` and loads the kernels. Errors: one line that says why there is no
    /// usable GPU.
    pub fn open(ordinal: usize) -> Result<Self, GpuError> {
        // SAFETY: loads NVIDIA's library if it is there. Without it every other call panics.
        if !unsafe { sys::is_culib_present() } {
            return Err(GpuError::NoDriver);
        }
        if let Err(error) = result::init() {
            let found = 0;
            return match error.0 {
                sys::CUresult::CUDA_ERROR_NO_DEVICE => {
                    Err(GpuError::NoDevice { asked: ordinal, found })
                }
                _ => Err(failed("starting the driver")(error)),
            };
        }
        let found = result::device::get_count().map_err(failed("counting devices"))?;
        let found = usize::try_from(found).unwrap_or(0);
        if ordinal >= found {
            return Err(GpuError::NoDevice { asked: ordinal, found });
        }
        let opening = failed("opening the device");
        let device = result::device::get(ordinal as i32).map_err(&opening)?;
        let mut description = describe(device)?;
        let (major, minor) = description.capability;
        if major < 8 {
            return Err(GpuError::TooOld { name: description.name, major, minor });
        }
        description.is_compiled_ahead = code::is_embedded();
        // SAFETY: the device exists; released when the last holder goes.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(&opening)?;
        let context = Arc::new(Context { device, context });
        context.enter()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        let stream = stream.map_err(&opening)?;
        let library = Library::open(&context);
        description.products = match &library {
            Ok(library) => library.name(),
            Err(why) => format!("our own ({why})"),
        };
        let mut gpu = Self {
            context,
            stream,
            functions: HashMap::new(),
            modules: Vec::new(),
            description,
            allocations: Vec::new(),
            graphs: Graphs::default(),
            staging: Vec::new(),
            results: None,
            cublas_lt: library.ok(),
            nccl: None,
            group: None,
        };
        for code in code::for_device(major, minor)? {
            // SAFETY: a whole cubin, or PTX that ends in a zero.
            let module = unsafe { result::module::load_data(code.image.as_ptr().cast()) };
            let module = module.map_err(failed(&format!("loading the kernels of {}", code.op)))?;
            gpu.modules.push((code.op, module));
        }
        Ok(gpu)
    }

    /// What the device is.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// From now on can sum with other GPUs by this library.
    pub fn use_nccl(&mut self, library: Nccl) {
        self.nccl = Some(library);
    }

    /// Whether a library is there to multiply.
    pub fn has_library(&self) -> bool {
        self.cublas_lt.is_some()
    }

    /// Queues a product by the library, if there is one. Errors: the library does not do it.
    pub fn multiply(&mut self, product: &Product) -> Option<Result<(), GpuError>> {
        let library = self.cublas_lt.as_mut()?;
        Some(library.multiply(product, self.stream))
    }

    /// Queues a launch, or what it computes by the library.
    pub fn launch(&mut self, launch: &Launch) -> Result<(), GpuError> {
        self.context.enter()?;
        let product = launch.product.as_ref();
        if product.and_then(|product| self.multiply(product)).is_some_and(|queued| queued.is_ok()) {
            return Ok(());
        }
        let function = self.function(launch)?;
        if launch.grid.contains(&0) {
            return Ok(());
        }
        let [grid_x, grid_y, grid_z] = launch.grid;
        let [block_x, block_y, block_z] = launch.block;
        let mut arguments = launch.argument_pointers();
        // SAFETY: the ops hold that arguments are of the kernel's types and sizes are true; memory
        // outlives the work because whoever frees it waits for the stream first.
        let launched = unsafe {
            result::launch_kernel(
                function,
                (grid_x, grid_y, grid_z),
                (block_x, block_y, block_z),
                launch.shared_bytes,
                self.stream,
                &mut arguments,
            )
        };
        launched.map_err(failed(&format!("launching {}", launch.kernel)))
    }

    /// Waits until everything asked for has happened. Errors: one of it did not.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.context.enter()?;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed("computing"))
    }

    /// Copies from a place, after everything asked for before.
    pub fn download(&self, to: &mut [u8], from: DevicePointer) -> Result<(), GpuError> {
        self.context.enter()?;
        // SAFETY: the caller owns the place; `to` is there until the stream is waited for.
        unsafe { result::memcpy_dtoh_async(to, from.0, self.stream) }
            .map_err(failed("copying from the device"))?;
        self.synchronize()
    }

    /// Frees everything that was allocated.
    pub fn clear(&mut self) {
        self.graphs = Graphs::default();
        if self.context.enter().is_ok() {
            for pointer in self.allocations.drain(..) {
                // SAFETY: allocated once, by us; freeing waits for the work that uses it.
                let _ = unsafe { result::free_sync(pointer.0) };
            }
        }
    }

    /// Sets so many bytes from a place on to `value`.
    pub fn fill(&self, at: DevicePointer, value: u8, bytes: usize) -> Result<(), GpuError> {
        self.context.enter()?;
        // SAFETY: the caller owns the place.
        unsafe { result::memset_d8_async(at.0, value, bytes, self.stream) }
            .map_err(failed("filling memory"))
    }

    /// Memory that begins with so many bytes from a place, once all that was asked for before has
    /// happened.
    fn read(&mut self, from: DevicePointer, bytes: usize) -> Result<&PinnedMemory, GpuError> {
        self.context.enter()?;
        let mut results = match self.results.take() {
            Some(results) if results.bytes().len() >= bytes => results,
            _ => PinnedMemory::new(&self.context, bytes.next_power_of_two())?,
        };
        // SAFETY: the caller owns the place; nobody reads the results before the wait is over.
        unsafe {
            result::memcpy_dtoh_async(&mut results.bytes_mut()[..bytes], from.0, self.stream)
        }
        .map_err(failed("copying from the device"))?;
        self.synchronize()?;
        Ok(self.results.insert(results))
    }

    fn nccl(&self) -> Result<&Nccl, GpuError> {
        let missing = || GpuError::Driver {
            doing: "joining other GPUs".to_owned(),
            code: "NCCL is not in use".to_owned(),
        };
        self.nccl.as_ref().ok_or_else(missing)
    }

    /// The kernel of a launch; the first time it is looked for in its op's modules.
    fn function(&mut self, launch: &Launch) -> Result<sys::CUfunction, GpuError> {
        let known = self.functions.get(launch.kernel).copied();
        let function = match known {
            Some(function) => function,
            None => {
                let function = self.find(launch)?;
                self.functions.insert(launch.kernel, function);
                function
            }
        };
        if launch.shared_bytes > SHARED_BYTES_PLAIN {
            let more = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of a module that is loaded.
            unsafe {
                result::function::set_function_attribute(function, more, launch.shared_bytes as i32)
            }
            .map_err(failed(&format!("giving {} shared memory", launch.kernel)))?;
        }
        Ok(function)
    }

    fn find(&self, launch: &Launch) -> Result<sys::CUfunction, GpuError> {
        let name = CString::new(launch.kernel).expect("kernels' names are words");
        let of_op = self.modules.iter().filter(|(op, _)| op == launch.op);
        for (_, module) in of_op {
            // SAFETY: the module is loaded.
            match unsafe { result::module::get_function(*module, name.clone()) } {
                Ok(function) => return Ok(function),
                Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND)) => {}
                Err(error) => return Err(failed("looking for a kernel")(error)),
            }
        }
        let doing = format!("looking for {} of {}", launch.kernel, launch.op);
        Err(GpuError::Driver { doing, code: "there is none".to_owned() })
    }
}

impl Device for Gpu {
    fn allocate(&mut self, what: &'static str, bytes: usize) -> Result<DevicePointer, GpuError> {
        self.context.enter()?;
        // SAFETY: freed once, when the device goes or is cleared.
        match unsafe { result::malloc_sync(bytes.max(16)) } {
            Ok(pointer) => {
                self.allocations.push(DevicePointer(pointer));
                Ok(DevicePointer(pointer))
            }
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(GpuError::OutOfMemory { what, bytes })
            }
            Err(error) => Err(failed("allocating memory")(error)),
        }
    }

    fn free_bytes(&self) -> Result<usize, GpuError> {
        self.context.enter()?;
        let (free, _) = result::mem_get_info().map_err(failed("asking for free memory"))?;
        Ok(free)
    }

    fn upload(&mut self, to: DevicePointer, bytes: &[u8]) -> Result<(), GpuError> {
        self.context.enter()?;
        // SAFETY: the caller owns the place. From memory that is not pinned the driver has read
        // everything when it returns.
        unsafe { result::memcpy_htod_async(to.0, bytes, self.stream) }
            .map_err(failed("copying to the device"))
    }

    fn upload_pieces(
        &mut self,
        to: DevicePointer,
        pieces: &[Range<usize>],
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<(), GpuError> {
        self.context.enter()?;
        let longest = pieces.iter().map(Range::len).max().unwrap_or(0);
        if self.staging.first().is_none_or(|staging| staging.bytes().len() < longest) {
            self.synchronize()?;
            self.staging.clear();
            for _ in 0..2 {
                self.staging.push(PinnedMemory::new(&self.context, longest)?);
            }
        }
        for (index, piece) in pieces.iter().enumerate() {
            let staging = &mut self.staging[index % 2].bytes_mut()[..piece.len()];
            fill(index, staging);
            // The copy of the piece before, out of the other half, ends before that is filled
            // again; this one goes on while it is.
            self.synchronize()?;
            let to = to.offset(piece.start);
            let staging = &self.staging[index % 2].bytes()[..piece.len()];
            // SAFETY: the caller owns the place; the staging is not written before the next wait.
            unsafe { result::memcpy_htod_async(to.0, staging, self.stream) }
                .map_err(failed("copying to the device"))?;
        }
        self.synchronize()
    }

    fn run(
        &mut self,
        key: Option<u64>,
        launches: &mut dyn FnMut() -> Vec<Launch>,
    ) -> Result<(), GpuError> {
        match key {
            Some(key) => self.run_recorded(key, launches),
            None => launches().iter().try_for_each(|launch| self.launch(launch)),
        }
    }

    fn read_floats(&mut self, from: DevicePointer, count: usize) -> Result<&[f32], GpuError> {
        Ok(&self.read(from, count * size_of::<f32>())?.floats()[..count])
    }

    fn read_words(&mut self, from: DevicePointer, count: usize) -> Result<&[u32], GpuError> {
        Ok(&self.read(from, count * size_of::<u32>())?.words()[..count])
    }

    fn has_groups(&self) -> bool {
        self.nccl.is_some()
    }

    fn new_group(&mut self) -> Result<GroupId, GpuError> {
        self.context.enter()?;
        self.nccl()?.group_id()
    }

    fn join_group(&mut self, id: &GroupId, rank: usize, ranks: usize) -> Result<(), GpuError> {
        self.group = None;
        self.context.enter()?;
        self.group = Some(self.nccl()?.join(&self.context, id, rank, ranks)?);
        Ok(())
    }

    fn leave_group(&mut self) {
        self.group = None;
    }

    fn sum_over_group(&mut self, at: DevicePointer, count: usize) -> Result<bool, GpuError> {
        let Some(group) = &self.group else { return Ok(false) };
        self.context.enter()?;
        group.all_reduce_sum(at, count, self.stream)?;
        Ok(true)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.context.enter().is_err() {
            return;
        }
        // First, for what waits for others would wait for ever if they are gone.
        self.group = None;
        let _ = self.synchronize();
        self.clear();
        self.cublas_lt = None;
        // SAFETY: all of it is ours, and the work on it has ended.
        unsafe {
            for (_, module) in self.modules.drain(..) {
                let _ = result::module::unload(module);
            }
            let _ = result::stream::destroy(self.stream);
        }
    }
}

fn describe(device: sys::CUdevice) -> Result<Description, GpuError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let asking = failed("asking what the device is");
    // SAFETY: the device exists.
    let attribute = |what| unsafe { result::device::get_attribute(device, what) };
    let capability = (
        attribute(MAJOR).map_err(&asking)?.unsigned_abs(),
        attribute(MINOR).map_err(&asking)?.unsigned_abs(),
    );
    let mut version = 0;
    // SAFETY: writes one number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(&asking)?;
    let version = version.unsigned_abs();
    Ok(Description {
        name: result::device::get_name(device).map_err(&asking)?,
        pci_bus_id: pci_bus_id(device).map_err(&asking)?,
        capability,
        // SAFETY: the device exists.
        memory_bytes: unsafe { result::device::total_mem(device) }.map_err(&asking)?,
        driver: (version / 1000, version % 1000 / 10),
        is_compiled_ahead: false,
        products: String::new(),
    })
}

fn pci_bus_id(device: sys::CUdevice) -> Result<String, DriverError> {
    // Room for domain:bus:device.function and a zero.
    let mut text = [0; 32];
    // SAFETY: writes at most so many bytes, the last of them zero.
    unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as i32, device) }.result()?;
    let bytes: Vec<u8> = text.iter().map(|byte| *byte as u8).take_while(|b| *b != 0).collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
