//! What runs launches.

use std::ops::Range;

use super::{DevicePointer, GpuError, Launch};

/// The name of a group of devices: whoever shall be in it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupId(pub [u8; Self::BYTES]);

impl GroupId {
    /// Bytes of a name.
    pub const BYTES: usize = 128;
}

/// A device with its own memory, which does what it is asked in order: a GPU, or in the tests a
/// shim on the host.
pub trait Device: Send {
    /// So many bytes of memory, as they come, until the device goes. Errors: there are not so many.
    fn allocate(&mut self, what: &'static str, bytes: usize) -> Result<DevicePointer, GpuError>;

    /// Bytes that can still be allocated.
    fn free_bytes(&self) -> Result<usize, GpuError>;

    /// Copies `bytes` to a place.
    fn upload(&mut self, to: DevicePointer, bytes: &[u8]) -> Result<(), GpuError>;

    /// Copies 32-bit floats to a place.
    fn upload_floats(&mut self, to: DevicePointer, values: &[f32]) -> Result<(), GpuError> {
        // SAFETY: the same memory, whose every byte is initialised; bytes need no alignment.
        let bytes = unsafe {
            std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values))
        };
        self.upload(to, bytes)
    }

    /// Puts so many bytes at a place, piece by piece as `fill` writes them: it is given which
    /// bytes, and room for them. While one piece is written the one before is copied.
    fn upload_pieces(
        &mut self,
        to: DevicePointer,
        pieces: &[Range<usize>],
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<(), GpuError>;

    /// Asks for launches, in order. What has the same `key` as an earlier call has the same
    /// launches: the device may have kept them, and not ask for them again. `None`: they will not
    /// come again.
    fn run(
        &mut self,
        key: Option<u64>,
        launches: &mut dyn FnMut() -> Vec<Launch>,
    ) -> Result<(), GpuError>;

    /// So many 32-bit floats, once all that was asked for before has happened. Errors: some of it
    /// did not.
    fn read_floats(&mut self, from: DevicePointer, count: usize) -> Result<&[f32], GpuError>;

    /// Likewise, 32-bit words as they are.
    fn read_words(&mut self, from: DevicePointer, count: usize) -> Result<&[u32], GpuError>;

    /// Whether it can sum with others directly, in a group.
    fn has_groups(&self) -> bool {
        false
    }

    /// A name under which a new group can meet. Errors: there are no groups, or none can be made.
    fn new_group(&mut self) -> Result<GroupId, GpuError> {
        Err(no_groups())
    }

    /// Leaves the group it is in, and joins one of `ranks` devices as the one with the number
    /// `rank`; waits for the others. Errors: they could not be connected.
    fn join_group(&mut self, _id: &GroupId, _rank: usize, _ranks: usize) -> Result<(), GpuError> {
        Err(no_groups())
    }

    /// Leaves the group it is in, if it is in one.
    fn leave_group(&mut self) {}

    /// Replaces so many floats at a place by their sum over the group, in order with all else that
    /// it is asked. Returns whether it is in one; if not nothing happens. Errors: the sum could not
    /// be asked for.
    fn sum_over_group(&mut self, _at: DevicePointer, _count: usize) -> Result<bool, GpuError> {
        Ok(false)
    }
}

fn no_groups() -> GpuError {
    let code = "there is no library for it".to_owned();
    GpuError::Driver { doing: "joining others".to_owned(), code }
}
