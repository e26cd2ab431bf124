//! Sums over GPUs by NCCL, where it is installed: they go from GPU to GPU, not over the host.
//!
//! The types are cudarc's. The library is opened here: cudarc looks for `libnccl.so`, and what is
//! installed beside programs that are not being built is `libnccl.so.2`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::CUstream;
use cudarc::nccl::sys::{self, ncclComm_t, ncclUniqueId};
use libloading::Library;

use super::gpu::Context;
use super::{DevicePointer, GpuError, GroupId};

/// What it is called where it is installed.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// The library, opened.
#[derive(Clone, Debug)]
pub struct Nccl {
    functions: Arc<Functions>,
    version: (u32, u32, u32),
}

/// What is called of it. Codes stay numbers: the library may know more of them than we do.
struct Functions {
    get_version: unsafe extern "C" fn(*mut c_int) -> c_int,
    get_unique_id: unsafe extern "C" fn(*mut ncclUniqueId) -> c_int,
    init_rank: unsafe extern "C" fn(*mut ncclComm_t, c_int, ncclUniqueId, c_int) -> c_int,
    abort: unsafe extern "C" fn(ncclComm_t) -> c_int,
    all_reduce: AllReduce,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    /// Holds the code of all of these.
    _library: Library,
}

type AllReduce = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    sys::ncclDataType_t,
    sys::ncclRedOp_t,
    ncclComm_t,
    sys::cudaStream_t,
) -> c_int;

impl Nccl {
    /// Opens the library where the system finds it. Errors: one line that says why it cannot be
    /// used.
    pub fn open() -> Result<Self, String> {
        NAMES
            .iter()
            .find_map(|name| Self::open_at(name).ok())
            .map_or_else(|| Self::open_at(NAMES[0]), Ok)
    }

    /// Opens the library at a path, or by a name. Errors: as [`open`](Self::open).
    pub fn open_at(name: &str) -> Result<Self, String> {
        // SAFETY: whoever installs a library under this name means it to be loaded.
        let library = unsafe { Library::new(name) };
        let library = library.map_err(|_| format!("{name} cannot be loaded"))?;
        // SAFETY: the names are NCCL's, and so are the types.
        let functions = unsafe { Functions::of(library) };
        let functions = functions.map_err(|missing| format!("{name} has no {missing}"))?;
        let mut version = 0;
        // SAFETY: writes one number.
        let code = unsafe { (functions.get_version)(&mut version) };
        functions.check("asking NCCL for its version", code).map_err(|error| error.to_string())?;
        let version = version.unsigned_abs();
        let version = (version / 10_000, version / 100 % 100, version % 100);
        Ok(Self { functions: Arc::new(functions), version })
    }

    /// Major, minor, patch.
    pub fn version(&self) -> (u32, u32, u32) {
        self.version
    }

    /// A new name for a group to meet under. Errors: the network of this machine cannot be used.
    pub(super) fn group_id(&self) -> Result<GroupId, GpuError> {
        let mut id = ncclUniqueId { internal: [0; GroupId::BYTES] };
        // SAFETY: writes the whole of one name.
        let code = unsafe { (self.functions.get_unique_id)(&mut id) };
        self.functions.check("naming a group for NCCL", code)?;
        Ok(GroupId(id.internal.map(|byte| byte as u8)))
    }

    /// Meets the other devices of a group, and waits for all of them. The thread has entered
    /// `context`. Errors: NCCL could not connect them.
    pub(super) fn join(
        &self,
        context: &Arc<Context>,
        id: &GroupId,
        rank: usize,
        ranks: usize,
    ) -> Result<Communicator, GpuError> {
        let id = ncclUniqueId { internal: id.0.map(|byte| byte as c_char) };
        let mut handle = ptr::null_mut();
        // SAFETY: writes one handle; the name is a whole one.
        let code =
            unsafe { (self.functions.init_rank)(&mut handle, ranks as c_int, id, rank as c_int) };
        self.functions.check("joining a group by NCCL", code)?;
        let (functions, context) = (Arc::clone(&self.functions), Arc::clone(context));
        Ok(Communicator { functions, context, handle })
    }
}

/// A device's place in a group.
#[derive(Debug)]
pub(super) struct Communicator {
    functions: Arc<Functions>,
    context: Arc<Context>,
    handle: ncclComm_t,
}

impl Communicator {
    /// Queues the sum of so many floats at a place over the group, in place. The order of adding
    /// is NCCL's, the same on all devices. Errors: it cannot be queued.
    pub(super) fn all_reduce_sum(
        &self,
        at: DevicePointer,
        count: usize,
        stream: CUstream,
    ) -> Result<(), GpuError> {
        let place = at.0 as *mut c_void;
        // SAFETY: the caller owns the place, and keeps it until the stream has been waited for.
        let code = unsafe {
            (self.functions.all_reduce)(
                place,
                place,
                count,
                sys::ncclDataType_t::ncclFloat32,
                sys::ncclRedOp_t::ncclSum,
                self.handle,
                stream.cast(),
            )
        };
        self.functions.check("summing by NCCL", code)
    }
}

impl Drop for Communicator {
    /// Without waiting for others, who may be gone.
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made once, and this is its one owner.
            let _ = unsafe { (self.functions.abort)(self.handle) };
        }
    }
}

impl Functions {
    /// The functions of a library. Errors: the name of one that it lacks.
    ///
    /// # Safety
    /// What the library has under NCCL's names is NCCL's.
    unsafe fn of(library: Library) -> Result<Self, &'static str> {
        macro_rules! find {
            ($name:literal) => {
                // SAFETY: the caller's.
                *unsafe { library.get($name) }.map_err(|_| $name)?
            };
        }
        Ok(Self {
            get_version: find!("ncclGetVersion"),
            get_unique_id: find!("ncclGetUniqueId"),
            init_rank: find!("ncclCommInitRank"),
            abort: find!("ncclCommAbort"),
            all_reduce: find!("ncclAllReduce"),
            error_string: find!("ncclGetErrorString"),
            _library: library,
        })
    }

    fn check(&self, doing: &str, code: c_int) -> Result<(), GpuError> {
        if code == sys::ncclResult_t::ncclSuccess as c_int {
            return Ok(());
        }
        // SAFETY: of every number it returns a text that is there as long as the library.
        let code = unsafe { CStr::from_ptr((self.error_string)(code)) };
        let code = code.to_string_lossy().into_owned();
        Err(GpuError::Driver { doing: doing.to_owned(), code })
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NCCL")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_library_one_line_says_so() {
        let refused = Nccl::open_at("/nowhere/libnccl.so.2").unwrap_err();
        assert_eq!(refused, "/nowhere/libnccl.so.2 cannot be loaded");
        // What has none of its functions is no NCCL.
        let refused = Nccl::open_at("libm.so.6").unwrap_err();
        assert_eq!(refused, "libm.so.6 has no ncclGetVersion");
        match Nccl::open() {
            Ok(found) => assert!(found.version() >= (2, 0, 0), "{:?}", found.version()),
            Err(refused) => assert_eq!(refused.lines().count(), 1, "{refused}"),
        }
    }
}
