//! The host shim as a device: every `kernel.cu` compiled as C++ and loaded. The engine's tests use
//! it too.

use std::ffi::{CStr, c_char, c_uint, c_void};
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use libloading::{Library, Symbol};
use naru_kernels::cuda::{Device, DevicePointer, GpuError, Launch};

type ShimLaunch =
    unsafe extern "C" fn(*const c_uint, *const c_uint, c_uint, *mut *mut c_void) -> *const c_char;

/// What it is called.
pub const NAME: &str = "host shim";

/// The fibers of the library are one for all threads.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// Bytes after which nothing may be touched begin at a multiple of this.
const PAGE_BYTES: usize = 4096;

/// The kernels as C++, and memory that faults just behind the end of each allocation.
pub struct Shim {
    kernels: Library,
    allocations: Vec<memmap2::MmapMut>,
    floats: Vec<f32>,
    words: Vec<u32>,
    free_bytes: usize,
}

impl Shim {
    /// Compiles the kernels that differ from the last time, and loads them all.
    pub fn start() -> Result<Self, String> {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no parent")?;
        let root = crates.join("kernels");
        // Beside this program's own folder: .../target/debug/deps/agreement-0123.
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let folder = program.ancestors().nth(2).ok_or("no parent")?.join("shim");
        let failed = |error| format!("{}: {error}", folder.display());
        fs::create_dir_all(&folder).map_err(failed)?;
        // One at a time compiles.
        let lock = fs::File::create(folder.join("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let made = Command::new("make")
            .args(["--no-print-directory", "--silent", "-j2", "-f"])
            .arg(root.join("tests/shim/Makefile"))
            .arg(format!("KERNELS={}", root.display()))
            .arg("-C")
            .arg(&folder)
            .output()
            .map_err(|error| format!("make: {error}"))?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).into_owned());
        }
        // SAFETY: the library is ours; loading it runs only the constructors of its globals.
        let library = unsafe { Library::new(folder.join("kernels.so")) };
        let library = library.map_err(|error| error.to_string())?;
        Ok(Self {
            kernels: library,
            allocations: Vec::new(),
            floats: Vec::new(),
            words: Vec::new(),
            free_bytes: 1 << 30,
        })
    }

    /// With so many bytes for a decoder; 1 GiB unless said.
    #[allow(dead_code)] // the kernels' own tests need no bound
    pub fn with_memory(self, free_bytes: usize) -> Self {
        Self { free_bytes, ..self }
    }

    /// So many bytes, all of them 0xff: floats that were not written are NaN.
    pub fn allocate(&mut self, bytes: usize) -> DevicePointer {
        let pages = bytes.div_ceil(PAGE_BYTES).max(1);
        let mut map = memmap2::MmapMut::map_anon((pages + 1) * PAGE_BYTES).expect("memory");
        map.fill(0xff);
        let end = pages * PAGE_BYTES;
        // As near to the guard as alignment to 16 bytes lets.
        let start = end - bytes.next_multiple_of(16).min(end);
        // SAFETY: the last page of our own map, in whole.
        let guarded = unsafe {
            libc::mprotect(map.as_mut_ptr().add(end).cast(), PAGE_BYTES, libc::PROT_NONE)
        };
        assert_eq!(guarded, 0, "the page behind an allocation can be guarded");
        let pointer = DevicePointer(map.as_ptr() as u64 + start as u64);
        self.allocations.push(map);
        pointer
    }

    /// A copy of `bytes`.
    pub fn upload(&mut self, bytes: &[u8]) -> DevicePointer {
        let pointer = self.allocate(bytes.len());
        // SAFETY: `allocate` made so many bytes there.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer.0 as *mut u8, bytes.len()) };
        pointer
    }

    /// What lies at a place.
    pub fn download(&mut self, from: DevicePointer, bytes: usize) -> Vec<u8> {
        // SAFETY: the tests ask for what they allocated.
        unsafe { std::slice::from_raw_parts(from.0 as *const u8, bytes) }.to_vec()
    }

    /// Runs one launch to its end.
    pub fn launch(&mut self, launch: &Launch) -> Result<(), String> {
        let name = format!("shim_{}", launch.kernel);
        // SAFETY: NARU_KERNEL gives each of these symbols this type.
        let function: Symbol<'_, ShimLaunch> =
            unsafe { self.kernels.get(name.as_bytes()) }.map_err(|error| error.to_string())?;
        let mut arguments = launch.argument_pointers();
        let _one = ONE_AT_A_TIME.lock();
        // SAFETY: the arguments are of the kernel's types, which the launch's tests hold.
        let error = unsafe {
            function(
                launch.grid.as_ptr(),
                launch.block.as_ptr(),
                launch.shared_bytes,
                arguments.as_mut_ptr(),
            )
        };
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: an error is a C string that lives until the next launch.
        let error = unsafe { CStr::from_ptr(error) };
        Err(format!("{}: {}", launch.kernel, error.to_string_lossy()))
    }

    /// Gives back everything.
    pub fn clear(&mut self) {
        self.allocations.clear();
    }
}

impl Device for Shim {
    fn allocate(&mut self, what: &'static str, bytes: usize) -> Result<DevicePointer, GpuError> {
        match self.free_bytes.checked_sub(bytes) {
            Some(left) => self.free_bytes = left,
            None => return Err(GpuError::OutOfMemory { what, bytes }),
        }
        Ok(Self::allocate(self, bytes))
    }

    fn free_bytes(&self) -> Result<usize, GpuError> {
        Ok(self.free_bytes)
    }

    fn upload(&mut self, to: DevicePointer, bytes: &[u8]) -> Result<(), GpuError> {
        // SAFETY: the decoder writes where it allocated.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.0 as *mut u8, bytes.len()) };
        Ok(())
    }

    fn upload_pieces(
        &mut self,
        to: DevicePointer,
        pieces: &[Range<usize>],
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<(), GpuError> {
        for (index, piece) in pieces.iter().enumerate() {
            let mut bytes = vec![0; piece.len()];
            fill(index, &mut bytes);
            Device::upload(self, to.offset(piece.start), &bytes)?;
        }
        Ok(())
    }

    fn run(
        &mut self,
        _key: Option<u64>,
        launches: &mut dyn FnMut() -> Vec<Launch>,
    ) -> Result<(), GpuError> {
        let failed = |code| GpuError::Driver { doing: "computing".to_owned(), code };
        launches().iter().try_for_each(|launch| Self::launch(self, launch).map_err(failed))
    }

    fn read_floats(&mut self, from: DevicePointer, count: usize) -> Result<&[f32], GpuError> {
        let words = Device::read_words(self, from, count)?;
        self.floats = words.iter().map(|word| f32::from_bits(*word)).collect();
        Ok(&self.floats)
    }

    fn read_words(&mut self, from: DevicePointer, count: usize) -> Result<&[u32], GpuError> {
        let bytes = self.download(from, count * size_of::<u32>());
        let words = bytes.as_chunks::<4>().0.iter();
        self.words = words.map(|word| u32::from_le_bytes(*word)).collect();
        Ok(&self.words)
    }
}
