//! A model file from a stranger: parsed or refused, and what is parsed lies inside the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_engine::GgufFile;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = GgufFile::parse(bytes) else { return };
    let metadata = file.metadata();
    for key in metadata.keys() {
        let _ = metadata.value(key);
        let _ = metadata.text(key);
        let _ = metadata.texts(key).map(|texts| texts.map(|texts| texts.iter().count()));
        let _ = metadata.unsigneds(key);
        let _ = metadata.floats(key);
    }
    for tensor in file.tensors() {
        assert!(file.data(tensor).len() <= bytes.len(), "a tensor lies inside its file");
    }
});
