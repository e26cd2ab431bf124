//! Real weights: an F32 copy of SmolLM2, and the same as a Hugging Face checkpoint.
#![allow(clippy::print_stdout)] // the figures are the point of the run

use std::path::PathBuf;

use naru_kernels::{argmax, dequantise};

use super::*;
use crate::tokenizer::{EncodeOptions, GgufVocabulary, TokenKind, Tokenizer};

const QUANTISED: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const FLOATS: &str = "SmolLM2-135M-Instruct.F32.gguf";
const TEXT: &str = "The ferry crosses the river every morning at 6:45. On the near side people \
    wait with baskets, bicycles and goats; on the far side is the market.\n\n나루는 강을 건너는 \
    배가 닿는 곳이다. مرحبا. def crossings(boats, seats):\n    return boats * seats // 100";

/// The model `name`, from the cache that `make models` fills.
fn model(name: &str) -> ModelFiles {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("NARU_CACHE_DIR")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("naru")))
        .or_else(|| Some(variable("HOME")?.join(".cache/naru")));
    let path = cache.unwrap().join("models").join(name);
    assert!(path.exists(), "{} is missing: run `make models`", path.display());
    ModelFiles::open(&path).unwrap()
}

fn gguf_of(files: &ModelFiles) -> GgufFile<'_> {
    match files.tokenizer() {
        TokenizerSource::Gguf(gguf) => gguf,
        TokenizerSource::Json { .. } => panic!("a GGUF file"),
    }
}

/// Every tensor of a GGUF file as floats.
fn tensors_of(files: &ModelFiles) -> TensorMap {
    let gguf = gguf_of(files);
    let floats = gguf.tensors().iter().map(|tensor| {
        let mut values = vec![0.0; tensor.shape.iter().product()];
        let dtype = tensor.format.dtype().unwrap();
        dequantise(dtype, gguf.data(tensor), &mut values).unwrap();
        (tensor.name.clone(), (tensor.shape.clone(), values))
    });
    floats.collect()
}

/// SmolLM2's configuration as its authors publish it.
fn smollm2_config() -> Value {
    json!({
        "model_type": "llama", "num_hidden_layers": 30, "max_position_embeddings": 8192,
        "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
        "num_key_value_heads": 3, "rms_norm_eps": 1e-5, "vocab_size": 49152, "hidden_act": "silu",
        "tie_word_embeddings": true, "rope_theta": 100_000, "rope_scaling": null,
        "attention_bias": false, "bos_token_id": 1, "eos_token_id": 2,
    })
}

/// The vocabulary of a GGUF file whose pre-tokenizer is `smollm`, as a `tokenizer.json`.
fn smollm_json(vocabulary: &GgufVocabulary<'_>) -> Value {
    let ids = || vocabulary.tokens.iter().zip(0u32..);
    let control = |id: &u32| vocabulary.kinds[*id as usize] == TokenKind::Control;
    let added: Vec<Value> = ids()
        .filter(|(_, id)| control(id))
        .map(|(text, id)| {
            json!({"id": id, "content": text, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true});
    let vocab: serde_json::Map<String, Value> =
        ids().map(|(text, id)| ((*text).to_owned(), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true}, byte_level]},
        "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "byte_fallback": false,
            "vocab": vocab, "merges": vocabulary.merges},
    })
}

#[test]
fn weights_are_dequantised_as_the_reference_does() {
    let (ours, theirs) = (tensors_of(&model(QUANTISED)), tensors_of(&model(FLOATS)));
    assert_eq!(ours.len(), theirs.len());
    for (name, (shape, values)) in &ours {
        let (expected_shape, expected) = &theirs[name];
        assert_eq!(shape, expected_shape, "{name}");
        let same = values.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{name}");
    }
}

/// A token alone attends to itself alone, and its score does not matter: its logits are the same
/// bits. In a text each score is a sum that the other order of rows of a llama's queries and keys
/// takes in another order.
#[test]
fn real_weights_say_the_same_from_safetensors_as_from_gguf() {
    let gguf = model(FLOATS);
    let path = gguf.path().parent().unwrap();
    let directory = tempfile::tempdir_in(path).unwrap();
    write_directory(directory.path(), &smollm2_config(), &tensors_of(&gguf), Dtype::F32, 2);
    let file = gguf_of(&gguf);
    let json = smollm_json(&GgufVocabulary::read(file.metadata()).unwrap()).to_string();
    std::fs::write(directory.path().join("tokenizer.json"), json).unwrap();
    let files = ModelFiles::open(directory.path()).unwrap();

    let options = EncodeOptions { add_special: false, parse_special: true };
    let text = format!("<|im_start|>user\n{TEXT}<|im_end|>\n");
    let tokens = Tokenizer::of_model(&gguf).unwrap().encode(&text, options);
    assert_eq!(Tokenizer::of_model(&files).unwrap().encode(&text, options), tokens);

    let (mut gguf, mut files) = (load(&gguf), load(&files));
    for &token in &tokens[..16] {
        let (found, expected) = (logits_of(&mut files, &[token]), logits_of(&mut gguf, &[token]));
        assert_eq!(worst_difference(&found, &expected), 0.0, "token {token} alone");
    }
    let (found, expected) = (logits_of(&mut files, &tokens), logits_of(&mut gguf, &tokens));
    let worst = worst_difference(&found, &expected);
    println!("{} tokens: logits differ by at most {worst}", tokens.len());
    assert!(worst < 0.02, "off by {worst}");
    let vocabulary = expected.len() / tokens.len();
    for (found, expected) in found.chunks(vocabulary).zip(expected.chunks(vocabulary)) {
        assert_eq!(argmax(found), argmax(expected));
    }
}
