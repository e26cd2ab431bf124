use proptest::prelude::*;

use super::write::{GgufWriter, Written};
use super::*;

fn small() -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer
        .key("general.architecture", "llama")
        .key("llama.block_count", Written::U32(2))
        .key("a.signed", Written::I32(-1))
        .key("a.float", Written::F32(0.5))
        .key("a.bool", Written::Bool(true))
        .key("a.texts", Written::Texts(vec!["나루", "", "x"]))
        .key("a.numbers", Written::U32s(vec![1, 2, 3]))
        .key("a.floats", Written::F32s(vec![1.0, 0.25]))
        .key("a.nested", Written::Nested(3))
        .floats("norm.weight", &[3], &[1.0, 2.0, 3.0])
        .floats("matrix.weight", &[2, 4], &[0.0; 8]);
    writer
}

fn error(writer: &GgufWriter) -> String {
    GgufFile::parse(&writer.bytes()).expect_err("must be refused").to_string()
}

#[test]
fn keys_and_tensors_are_what_was_written() {
    for version in [2, 3] {
        for alignment in [8, 32, 64] {
            let mut writer = GgufWriter { version, alignment, ..small() };
            writer.key("general.alignment", Written::U32(alignment as u32));
            let bytes = writer.bytes();
            let file = GgufFile::parse(&bytes).unwrap();
            let metadata = file.metadata();
            assert_eq!((file.version(), file.alignment()), (version, alignment));
            assert_eq!(metadata.text("general.architecture").unwrap(), Some("llama"));
            assert_eq!(metadata.unsigned("llama.block_count").unwrap(), Some(2));
            assert_eq!(metadata.value("a.signed"), Some(Value::Signed(-1)));
            assert_eq!(metadata.float("a.float").unwrap(), Some(0.5));
            assert_eq!(metadata.boolean("a.bool").unwrap(), Some(true));
            assert_eq!(metadata.unsigneds("a.numbers").unwrap(), Some(vec![1, 2, 3]));
            assert_eq!(metadata.floats("a.floats").unwrap(), Some(vec![1.0, 0.25]));
            let texts = metadata.texts("a.texts").unwrap().unwrap();
            let expected = ["나루", "", "x"].map(str::as_bytes);
            assert_eq!(texts.iter().collect::<Vec<_>>(), expected);
            assert_eq!(metadata.text("absent").unwrap(), None);
            let [norm, matrix] = file.tensors() else { panic!("two tensors") };
            assert_eq!(norm.shape, [3]);
            assert_eq!(
                (matrix.name.as_str(), matrix.shape.as_slice()),
                ("matrix.weight", &[2, 4][..])
            );
            assert_eq!(file.data(norm)[..4], 1f32.to_le_bytes());
            assert!(matrix.bytes.start.is_multiple_of(alignment));
        }
    }
}

#[test]
fn arrays_in_arrays_are_read_to_a_depth() {
    let bytes = small().bytes();
    let file = GgufFile::parse(&bytes).unwrap();
    let Some(Value::Array(mut array)) = file.metadata().value("a.nested") else { panic!("array") };
    for _ in 0..2 {
        let Some(Value::Array(inner)) = array.iter().next() else { panic!("array") };
        array = inner;
    }
    assert_eq!(array.iter().collect::<Vec<_>>(), [Value::Unsigned(7)]);
    let mut deep = small();
    deep.key("a.deep", Written::Nested(5));
    assert!(error(&deep).starts_with("a.deep: nesting of arrays is 5"), "{}", error(&deep));
}

#[test]
fn a_wrong_type_names_the_key() {
    let bytes = small().bytes();
    let file = GgufFile::parse(&bytes).unwrap();
    let check = |error: GgufError, expected: &str| assert_eq!(error.to_string(), expected);
    check(
        file.metadata().unsigned("general.architecture").unwrap_err(),
        "metadata key general.architecture holds the text \"llama\", where a whole number of at \
         least zero is needed",
    );
    check(
        file.metadata().unsigned("a.signed").unwrap_err(),
        "metadata key a.signed holds the integer -1, where a whole number of at least zero is \
         needed",
    );
    check(
        file.metadata().texts("a.numbers").unwrap_err(),
        "metadata key a.numbers holds an array of 3 U32, where an array of texts is needed",
    );
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let check = |change: &dyn Fn(&mut GgufWriter), expected: &str| {
        let mut writer = small();
        change(&mut writer);
        let error = error(&writer);
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    };
    check(&|w| w.version = 1, "GGUF version 1 is not supported");
    check(&|w| w.version = 3u32.swap_bytes(), "little-endian");
    check(&|w| w.keys.push(w.keys[0].clone()), "key \"general.architecture\" appears twice");
    check(&|w| w.tensors.push(w.tensors[0].clone()), "tensor \"norm.weight\" appears twice");
    check(&|w| w.tensors[0].format = 99, "norm.weight: 99 at offset");
    check(&|w| w.tensors[0].format = 4, "is no known tensor type");
    check(&|w| w.tensors[0].shape = vec![1; 5], "norm.weight: dimension count is 5");
    check(&|w| w.tensors[0].shape = vec![0], "a dimension is zero");
    check(&|w| w.tensors[0].shape = vec![u64::MAX, 2], "its size overflows");
    check(&|w| w.tensors[0].shape = vec![1 << 40], "tensor norm.weight: the file ends inside");
    check(&|w| w.tensors[0].format = 12, "a row is not whole blocks");
    check(&|w| w.tensors[0].name = "n".repeat(300), "tensor 0: name is 300");
    check(&|w| w.keys[0].0 = "k".repeat(70_000), "key 0: key is 70000");
    check(
        &|w| _ = w.key("general.alignment", Written::U32(24)),
        "general.alignment is 24; a power of two",
    );
    check(
        &|w| _ = w.key("general.alignment", Written::U64(1 << 40)),
        "general.alignment is 1099511627776",
    );
    // The writer lays tensors out for 32, the file says 64: the second starts at 32.
    check(
        &|w| _ = w.key("general.alignment", Written::U32(64)),
        "tensor matrix.weight: data offset 32 is not a multiple of the alignment 64",
    );
}

#[test]
fn counts_beyond_the_file_allocate_nothing() {
    let check = |count_at: usize, expected: &str| {
        let mut bytes = small().bytes();
        bytes[count_at..count_at + 8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
        let error = GgufFile::parse(&bytes).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    check(8, "header: tensor count is 9223372036854775807");
    check(16, "header: key count is 9223372036854775807");
    check(24, "key 0: key is 9223372036854775807");
}

#[test]
fn every_cut_of_a_file_is_refused() {
    let bytes = small().bytes();
    for length in 0..bytes.len() {
        let error = GgufFile::parse(&bytes[..length]).expect_err("a cut file must be refused");
        assert!(!error.to_string().is_empty());
    }
}

/// Walks all that a parsed file offers.
fn walk(bytes: &[u8]) {
    fn walk_array(array: Array<'_>) {
        for value in array.iter() {
            if let Value::Array(inner) = value {
                walk_array(inner);
            }
        }
    }
    let Ok(file) = GgufFile::parse(bytes) else { return };
    for tensor in file.tensors() {
        assert!(file.data(tensor).len() <= bytes.len());
    }
    for key in file.metadata().keys() {
        match file.metadata().value(key) {
            Some(Value::Array(array)) => walk_array(array),
            Some(_) => {}
            None => panic!("key {key:?} has no value"),
        }
        let _ = (file.metadata().text(key), file.metadata().texts(key));
        let _ = (file.metadata().unsigneds(key), file.metadata().floats(key));
    }
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(
        changes in prop::collection::vec((0usize..2048, any::<u8>()), 1..12),
        cut in 0usize..2048,
    ) {
        let mut bytes = small().bytes();
        for (at, byte) in changes {
            let length = bytes.len();
            bytes[at % length] = byte;
        }
        let kept = bytes.len() - (cut % bytes.len()).saturating_sub(bytes.len() / 2);
        walk(&bytes[..kept]);
    }

    #[test]
    fn changed_words_never_panic(at in 0usize..2048, word in prop_oneof![any::<u64>(), 0u64..64]) {
        let mut bytes = small().bytes();
        let at = at % (bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        walk(&bytes);
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..256)) {
        walk(&noise);
        walk(&[b"GGUF\x03\0\0\0".as_slice(), &noise].concat());
    }
}
