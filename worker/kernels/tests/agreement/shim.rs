//! The host shim as a machine: every `kernel.cu` compiled as C++ and loaded.

use std::ffi::{CStr, c_char, c_uint, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libloading::{Library, Symbol};
use naru_kernels::cuda::{DevicePointer, Launch};

use crate::machine::Machine;

type ShimLaunch =
    unsafe extern "C" fn(*const c_uint, *const c_uint, c_uint, *mut *mut c_void) -> *const c_char;

/// What it is called.
pub const NAME: &str = "host shim";

/// Bytes after which nothing may be touched begin at a multiple of this.
const PAGE_BYTES: usize = 4096;

/// The kernels as C++, and memory that faults just behind the end of each allocation.
pub struct Shim {
    library: Library,
    allocations: Vec<memmap2::MmapMut>,
}

impl Shim {
    /// Compiles the kernels of `ops` that differ from the last time, and loads them all.
    pub fn start() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("shim");
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
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
        Ok(Self { library: library.map_err(|error| error.to_string())?, allocations: Vec::new() })
    }
}

impl Machine for Shim {
    fn name(&self) -> String {
        NAME.to_owned()
    }

    fn has_tensor_cores(&self) -> bool {
        false
    }

    fn allocate(&mut self, bytes: usize) -> DevicePointer {
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

    fn upload(&mut self, bytes: &[u8]) -> DevicePointer {
        let pointer = self.allocate(bytes.len());
        // SAFETY: `allocate` made so many bytes there.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer.0 as *mut u8, bytes.len()) };
        pointer
    }

    fn download(&mut self, from: DevicePointer, bytes: usize) -> Vec<u8> {
        // SAFETY: the tests ask for what they allocated.
        unsafe { std::slice::from_raw_parts(from.0 as *const u8, bytes) }.to_vec()
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), String> {
        let name = format!("shim_{}", launch.kernel);
        // SAFETY: NARU_KERNEL gives each of these symbols this type.
        let function: Symbol<'_, ShimLaunch> =
            unsafe { self.library.get(name.as_bytes()) }.map_err(|error| error.to_string())?;
        let mut arguments = launch.argument_pointers();
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

    fn clear(&mut self) {
        self.allocations.clear();
    }

    fn seconds(&mut self, _launches: &[Launch]) -> Option<f64> {
        None
    }
}
