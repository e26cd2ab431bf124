//! The kernels as a device takes them: machine code from the build, or compiled now.

use std::ffi::{CStr, CString, c_char};
use std::{ptr, thread};

use cudarc::nvrtc::{result as nvrtc, sys};

use super::GpuError;

// SOURCES, HEADERS and MACHINE_CODE: what build.rs found.
include!(concat!(env!("OUT_DIR"), "/code.rs"));

/// The kernels of one file, ready to be loaded.
pub(super) struct Code {
    /// The folder of `ops` they are from.
    pub(super) op: String,
    /// A cubin, or PTX that ends in a zero.
    pub(super) image: Vec<u8>,
}

/// Whether this build has machine code with it.
pub(super) fn is_embedded() -> bool {
    !MACHINE_CODE.is_empty()
}

/// Every kernel for a device of this compute capability.
pub(super) fn for_device(major: u32, minor: u32) -> Result<Vec<Code>, GpuError> {
    let ending = match (major, minor) {
        (9, 0) => ".sm_90a.cubin",
        (8, _) => ".sm_80.cubin",
        _ => ".compute_90.ptx",
    };
    let embedded: Vec<Code> = MACHINE_CODE
        .iter()
        .filter_map(|(name, image)| {
            let name = name.rsplit('/').next()?.strip_suffix(ending)?;
            let op = name.split('.').next()?.to_owned();
            // PTX is text, which the driver reads up to a zero.
            Some(Code { op, image: [*image, b"\0"].concat() })
        })
        .collect();
    if !embedded.is_empty() {
        return Ok(embedded);
    }
    // SAFETY: loads NVIDIA's library if it is there.
    if !unsafe { sys::is_culib_present() } {
        return Err(GpuError::NoCode { target: format!("compute capability {major}.{minor}") });
    }
    // Half a minute of work for the largest file, so all at once.
    thread::scope(|scope| {
        let compile = |(name, text)| scope.spawn(move || compile(name, text, (major, minor)));
        let running: Vec<_> = SOURCES.iter().map(|&source| compile(source)).collect();
        let done = running.into_iter().map(|thread| {
            let panicked = |_| GpuError::Compile { op: String::new(), log: "a panic".to_owned() };
            thread.join().map_err(panicked)?
        });
        done.collect()
    })
}

/// Compiles one file with NVRTC.
fn compile(name: &str, text: &[u8], (major, minor): (u32, u32)) -> Result<Code, GpuError> {
    let op = name.split('/').next().unwrap_or(name).to_owned();
    let failed = |log: String| GpuError::Compile { op: op.clone(), log };
    let c_string = |text: &[u8]| CString::new(text).map_err(|error| failed(error.to_string()));
    let text = c_string(text)?;
    // Headers are included by bare name, or from another op's folder as `../op/name`.
    let mut headers: Vec<(CString, CString)> = Vec::new();
    for (header, text) in HEADERS {
        let bare = header.rsplit('/').next().unwrap_or(header);
        for name in [bare.to_owned(), format!("../{header}")] {
            headers.push((c_string(name.as_bytes())?, c_string(text)?));
        }
    }
    let names: Vec<*const c_char> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
    let texts: Vec<*const c_char> = headers.iter().map(|(_, text)| text.as_ptr()).collect();
    let mut program = ptr::null_mut();
    // SAFETY: all strings end in a zero and outlive the call.
    let created = unsafe {
        let count = i32::try_from(names.len()).unwrap_or(i32::MAX);
        let (texts, names) = (texts.as_ptr(), names.as_ptr());
        sys::nvrtcCreateProgram(&mut program, text.as_ptr(), ptr::null(), count, texts, names)
    };
    created.result().map_err(|error| failed(format!("{error:?}")))?;
    let target = format!("--gpu-architecture=compute_{major}{minor}");
    // SAFETY: the program is the one just made; it is destroyed once, after its last use.
    unsafe {
        let options = [target.as_str(), "--std=c++17"];
        let compiled = nvrtc::compile_program(program, &options);
        let result = match compiled {
            Ok(()) => nvrtc::get_ptx(program).map_err(|error| failed(format!("{error:?}"))),
            Err(error) => {
                let log = nvrtc::get_program_log(program).unwrap_or_default();
                let log = CStr::from_ptr(log.as_ptr()).to_string_lossy().into_owned();
                Err(failed(format!("{error:?}: {log}")))
            }
        };
        let _ = nvrtc::destroy_program(program);
        let image = result?.into_iter().map(|byte| byte as u8).collect();
        Ok(Code { op: op.clone(), image })
    }
}
