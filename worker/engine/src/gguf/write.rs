//! Writes small GGUF files for tests.

/// A metadata value to write.
#[derive(Clone, Debug)]
pub(crate) enum Written {
    U32(u32),
    U64(u64),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(Vec<u8>),
    Texts(Vec<&'static str>),
    U32s(Vec<u32>),
    F32s(Vec<f32>),
    /// Arrays in arrays, so many deep, around one byte.
    Nested(u32),
}

impl From<&str> for Written {
    fn from(text: &str) -> Self {
        Self::Text(text.as_bytes().to_vec())
    }
}

/// A GGUF file in the making.
#[derive(Clone, Debug)]
pub(crate) struct GgufWriter {
    pub(crate) version: u32,
    pub(crate) alignment: usize,
    pub(crate) keys: Vec<(String, Written)>,
    pub(crate) tensors: Vec<WrittenTensor>,
}

#[derive(Clone, Debug)]
pub(crate) struct WrittenTensor {
    pub(crate) name: String,
    /// Outermost first.
    pub(crate) shape: Vec<u64>,
    pub(crate) format: u32,
    pub(crate) bytes: Vec<u8>,
}

impl GgufWriter {
    pub(crate) fn new() -> Self {
        Self { version: 3, alignment: 32, keys: Vec::new(), tensors: Vec::new() }
    }

    pub(crate) fn key(&mut self, key: &str, value: impl Into<Written>) -> &mut Self {
        self.keys.push((key.to_owned(), value.into()));
        self
    }

    pub(crate) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> &mut Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = shape.iter().map(|&size| size as u64).collect();
        self.tensors.push(WrittenTensor { name: name.to_owned(), shape, format: 0, bytes });
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            text(&mut out, key.as_bytes());
            write(&mut out, value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            text(&mut out, tensor.name.as_bytes());
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(tensor.format.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = (offset + tensor.bytes.len() as u64).next_multiple_of(self.alignment as u64);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&tensor.bytes);
        }
        out
    }
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

fn array(out: &mut Vec<u8>, element: u32, length: usize) {
    out.extend(9u32.to_le_bytes());
    out.extend(element.to_le_bytes());
    out.extend((length as u64).to_le_bytes());
}

fn tagged(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    out.extend(tag.to_le_bytes());
    out.extend(bytes);
}

fn write(out: &mut Vec<u8>, value: &Written) {
    match value {
        Written::U32(value) => tagged(out, 4, &value.to_le_bytes()),
        Written::U64(value) => tagged(out, 10, &value.to_le_bytes()),
        Written::I32(value) => tagged(out, 5, &value.to_le_bytes()),
        Written::F32(value) => tagged(out, 6, &value.to_le_bytes()),
        Written::Bool(value) => tagged(out, 7, &[u8::from(*value)]),
        Written::Text(value) => {
            out.extend(8u32.to_le_bytes());
            text(out, value);
        }
        Written::Texts(values) => {
            array(out, 8, values.len());
            values.iter().for_each(|value| text(out, value.as_bytes()));
        }
        Written::U32s(values) => {
            array(out, 4, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Written::F32s(values) => {
            array(out, 6, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Written::Nested(depth) => {
            out.extend(9u32.to_le_bytes());
            for level in 0..*depth {
                let element: u32 = if level + 1 == *depth { 0 } else { 9 };
                out.extend(element.to_le_bytes());
                out.extend(1u64.to_le_bytes());
            }
            out.push(7);
        }
    }
}
