//! A kernel to be run, as data.

use std::ffi::c_void;

use super::Element;

/// A place in a device's memory. It says nothing of what lies there or how long it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct DevicePointer(pub u64);

impl DevicePointer {
    /// Nowhere: what is optional and absent.
    pub const NULL: Self = Self(0);

    /// So many bytes further on.
    pub fn offset(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// One argument of a kernel, in the type that the kernel takes it in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// A pointer.
    Pointer(DevicePointer),
    /// `unsigned`.
    U32(u32),
    /// `float`.
    F32(f32),
}

impl From<DevicePointer> for Argument {
    fn from(pointer: DevicePointer) -> Self {
        Self::Pointer(pointer)
    }
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

/// One launch of one kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The folder under `ops` whose `kernel.cu` has the kernel.
    pub op: &'static str,
    /// The kernel's name.
    pub kernel: &'static str,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Bytes of shared memory beside what the kernel itself declares.
    pub shared_bytes: u32,
    /// In the kernel's order.
    pub arguments: Vec<Argument>,
    /// What it computes, where a library may do it instead.
    pub product: Option<Product>,
}

/// `output = input · weightᵀ`, summed in 32-bit floats. Places are at multiples of 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// What lies at the places.
    pub shape: ProductShape,
    /// Element `[rows, columns]`.
    pub weight: DevicePointer,
    /// Element `[tokens, columns]`.
    pub input: DevicePointer,
    /// `[tokens, rows]`.
    pub output: DevicePointer,
}

/// Sizes of a [`Product`], and what its values are. Strides are values from a row to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProductShape {
    /// What weights and input are.
    pub element: Element,
    /// Rows of input and output.
    pub tokens: usize,
    /// Rows of the weight.
    pub rows: usize,
    /// Values that are summed.
    pub columns: usize,
    /// Of the weight.
    pub weight_stride: usize,
    /// Of the output.
    pub output_stride: usize,
    /// Whether the output is 32-bit floats, not the element.
    pub is_output_f32: bool,
}

impl Launch {
    /// The addresses of the arguments, as a launch takes them; they live as long as `self`.
    pub fn argument_pointers(&self) -> Vec<*mut c_void> {
        let address = |argument: &Argument| match argument {
            Argument::Pointer(value) => std::ptr::from_ref(value).cast::<c_void>().cast_mut(),
            Argument::U32(value) => std::ptr::from_ref(value).cast::<c_void>().cast_mut(),
            Argument::F32(value) => std::ptr::from_ref(value).cast::<c_void>().cast_mut(),
        };
        self.arguments.iter().map(address).collect()
    }
}
