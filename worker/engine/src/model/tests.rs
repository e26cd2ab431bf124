mod real;

use std::path::Path;

use half::{bf16, f16};
use naru_kernels::{KV_BLOCK_TOKENS, KvPool, RopePairs};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use super::*;
use crate::config::RopeScaling;
use crate::decoder::tests::tiny::{self, TensorMap};
use crate::decoder::{Decoder, Shard, SingleRank};
use crate::engine::{Batch, Span};
use crate::gguf::write::{GgufWriter, Written};

const TOKENS: [u32; 9] = [3, 50, 7, 7, 0, 12, 44, 31, 9];

fn is_used(name: &str, biases: bool) -> bool {
    let attention_input = ["attn_q.", "attn_k.", "attn_v."].iter().any(|part| name.contains(part));
    let bias = name.ends_with(".bias") && !(biases && attention_input);
    !(bias || name.contains("post_") || name.contains("_q_norm") || name.contains("_k_norm"))
}

fn gguf(architecture: &str, map: &TensorMap) -> GgufWriter {
    let mut writer = GgufWriter::new();
    let key = |key: &str| format!("{architecture}.{key}");
    writer
        .key("general.architecture", architecture)
        .key(&key("block_count"), Written::U32(4))
        .key(&key("context_length"), Written::U32(64))
        .key(&key("embedding_length"), Written::U32(48))
        .key(&key("feed_forward_length"), Written::U32(72))
        .key(&key("attention.head_count"), Written::U32(4))
        .key(&key("attention.head_count_kv"), Written::U32(2))
        .key(&key("attention.key_length"), Written::U32(16))
        .key(&key("attention.layer_norm_rms_epsilon"), Written::F32(1e-5))
        .key("tokenizer.ggml.eos_token_id", Written::U32(2))
        .key("tokenizer.ggml.eot_token_id", Written::U32(5))
        .key("tokenizer.chat_template", "{{ messages }}");
    for (name, (shape, values)) in map {
        writer.floats(name, shape, values);
    }
    writer
}

fn config_json(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "num_hidden_layers": 4, "max_position_embeddings": 64,
        "hidden_size": 48, "intermediate_size": 72, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-5, "vocab_size": 51,
        "hidden_act": "silu", "eos_token_id": [2, 5], "rope_theta": 10000.0,
    })
}

/// The tensor's name in a Hugging Face checkpoint.
fn hugging_face(name: &str) -> String {
    let parts = [
        ("token_embd", "model.embed_tokens"),
        ("output_norm", "model.norm"),
        ("blk", "model.layers"),
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("attn_output", "self_attn.o_proj"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ];
    if let Some(end) = name.strip_prefix("output.") {
        return format!("lm_head.{end}");
    }
    parts.iter().fold(name.to_owned(), |name, (ours, theirs)| name.replace(ours, theirs))
}

/// Puts the rows of queries and keys, which are neighbours in GGUF files of llama, in halves.
fn in_halves(name: &str, shape: &[usize], values: &[f32], head_dim: usize) -> Vec<f32> {
    if !(name.contains("attn_q.") || name.contains("attn_k.")) {
        return values.to_vec();
    }
    let columns = shape.get(1).copied().unwrap_or(1);
    let row = |row: usize| {
        let (head, i) = (row / head_dim, row % head_dim);
        let from = head * head_dim + 2 * (i % (head_dim / 2)) + i / (head_dim / 2);
        &values[from * columns..][..columns]
    };
    (0..shape[0]).flat_map(row).copied().collect()
}

fn stored(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

/// Leaves of `values` what `dtype` can hold.
fn round(values: &mut [f32], dtype: Dtype) {
    for value in values {
        *value = match dtype {
            Dtype::F16 => f16::from_f32(*value).to_f32(),
            Dtype::BF16 => bf16::from_f32(*value).to_f32(),
            _ => *value,
        };
    }
}

/// Writes a checkpoint of `shards` files.
fn write_directory(path: &Path, config: &Value, map: &TensorMap, dtype: Dtype, shards: usize) {
    let halves = config["model_type"] == "llama";
    let size = |key| config.get(key).and_then(Value::as_u64).map(|size| size as usize);
    let head_dim = || Some(size("hidden_size")? / size("num_attention_heads")?);
    let head_dim = size("head_dim").or_else(head_dim).unwrap();
    let mut weight_map = serde_json::Map::new();
    for shard in 0..shards {
        let file = match shards {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{shard}.safetensors"),
        };
        let of_shard = map.iter().skip(shard).step_by(shards);
        let tensors: Vec<(String, &[usize], Vec<u8>)> = of_shard
            .map(|(name, (shape, values))| {
                weight_map.insert(hugging_face(name), json!(file));
                let bytes = match halves {
                    true => stored(&in_halves(name, shape, values, head_dim), dtype),
                    false => stored(values, dtype),
                };
                (hugging_face(name), shape.as_slice(), bytes)
            })
            .collect();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            (name, TensorView::new(dtype, shape.to_vec(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &path.join(file)).unwrap();
    }
    if shards > 1 {
        let index = json!({"metadata": {}, "weight_map": weight_map}).to_string();
        std::fs::write(path.join("model.safetensors.index.json"), index).unwrap();
    }
    std::fs::write(path.join("config.json"), config.to_string()).unwrap();
    std::fs::write(path.join("tokenizer.json"), "{}").unwrap();
}

/// The logits after each of `tokens`, one sequence.
fn logits(files: &ModelFiles, tokens: &[u32]) -> Vec<f32> {
    logits_of(&mut load(files), tokens)
}

fn load(files: &ModelFiles) -> Decoder {
    let (shard, pool) = (Shard::whole(files.config()), tiny::pool());
    let (mut seen, mut last) = (Vec::new(), (0, 1));
    let decoder = Decoder::load(files, shard, pool, &mut |progress| {
        seen.push(progress.bytes_done);
        last = (progress.bytes_done, progress.bytes_total);
    })
    .unwrap();
    assert!(seen.is_sorted() && last.0 == last.1, "progress goes up, to the end: {seen:?}");
    decoder
}

fn logits_of(decoder: &mut Decoder, tokens: &[u32]) -> Vec<f32> {
    let blocks = tokens.len().div_ceil(KV_BLOCK_TOKENS);
    let mut kv: KvPool = decoder.new_kv_pool(blocks).unwrap();
    let batch = Batch {
        tokens: tokens.to_vec(),
        spans: vec![Span {
            tokens: 0..tokens.len(),
            position: 0,
            blocks: (0..blocks as u32).collect(),
        }],
        logit_rows: (0..tokens.len()).collect(),
    };
    decoder.forward(&batch, &mut kv, &mut SingleRank).unwrap().to_vec()
}

fn tensors(biases: bool) -> TensorMap {
    let mut map = tiny::tensors(&tiny::config(), 11);
    map.retain(|name, _| is_used(name, biases));
    map
}

#[test]
fn a_model_says_the_same_from_gguf_and_from_safetensors() {
    let check = |architecture: &str, biases: bool, dtype: Dtype, shards: usize, tolerance: f32| {
        let directory = tempfile::tempdir().unwrap();
        let mut map = tensors(biases);
        map.values_mut().for_each(|(_, values)| round(values, dtype));
        let path = directory.path().join("model.gguf");
        std::fs::write(&path, gguf(architecture, &map).bytes()).unwrap();
        let expected = logits(&ModelFiles::open(&path).unwrap(), &TOKENS);
        let config = config_json(architecture);
        write_directory(directory.path(), &config, &map, dtype, shards);
        let files = ModelFiles::open(directory.path()).unwrap();
        assert_eq!(files.generation().eos_ids, [2, 5]);
        let found = logits(&files, &TOKENS);
        let worst = worst_difference(&found, &expected);
        assert!(worst <= tolerance, "{architecture} {dtype:?} {shards}: off by {worst}");
    };
    // The GGUF file holds the same rounded weights in F32. In llama the order in which a score is
    // summed differs, and with it, rarely, which of two f16 a key is rounded to.
    check("llama", false, Dtype::F32, 1, 3e-3);
    check("llama", false, Dtype::F16, 1, 3e-3);
    check("llama", false, Dtype::BF16, 3, 3e-3);
    check("llama", false, Dtype::F32, 3, 3e-3);
    check("qwen2", true, Dtype::F32, 1, 0.0);
    check("qwen2", true, Dtype::F32, 2, 0.0);
}

fn worst_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_gguf_file_tells_what_the_server_asks() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, gguf("llama", &tensors(false)).bytes()).unwrap();
    let files = ModelFiles::open(&path).unwrap();
    assert_eq!(files.generation().eos_ids, [2, 5]);
    assert_eq!(files.chat_template().as_deref(), Some("{{ messages }}"));
    let TokenizerSource::Gguf(gguf) = files.tokenizer() else { panic!("a GGUF file") };
    assert_eq!(gguf.metadata().unsigned("tokenizer.ggml.eos_token_id").unwrap(), Some(2));
    let config = files.config();
    assert_eq!((config.vocabulary, config.hidden, config.context_tokens), (51, 48, 64));
    assert_eq!(config.layers[0].rope.as_ref().unwrap().pairs, RopePairs::Neighbours);
    assert!(!config.tied_embeddings);
}

/// The error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let next = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", next.unwrap_or_default())
}

#[test]
fn gguf_files_that_cannot_be_served_say_why() {
    let check = |change: &dyn Fn(&mut GgufWriter), expected: &str| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        let mut writer = gguf("llama", &tensors(false));
        change(&mut writer);
        std::fs::write(&path, writer.bytes()).unwrap();
        let error = chain(&ModelFiles::open(&path).unwrap_err());
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    };
    let set = |writer: &mut GgufWriter, key: &str, value: Written| {
        writer.keys.retain(|(known, _)| known != key);
        writer.key(key, value);
    };
    check(
        &|w| set(w, "general.architecture", "mamba".into()),
        "architecture \"mamba\" is not supported; these are: llama, qwen2, qwen3, granite",
    );
    check(
        &|w| set(w, "llama.expert_count", Written::U32(8)),
        "llama: a mixture of experts is not supported (llama.expert_count)",
    );
    check(
        &|w| set(w, "llama.rope.scaling.type", "longrope".into()),
        "llama: rope scaling \"longrope\" is not supported (llama.rope.scaling.type)",
    );
    check(
        &|w| w.keys.retain(|(key, _)| key != "llama.block_count"),
        "metadata key llama.block_count is missing",
    );
    check(
        &|w| set(w, "llama.block_count", Written::U32(u32::MAX)),
        "configuration key llama.block_count is 4294967295: 1 to 4096 is needed",
    );
    check(
        &|w| set(w, "llama.attention.head_count_kv", Written::U32(3)),
        "key-value heads is 3 for 4 query heads: a divisor",
    );
    check(
        &|w| set(w, "llama.attention.head_count", Written::U32(0)),
        "configuration key attention heads is 0",
    );
    check(
        &|w| set(w, "llama.rope.freq_base", Written::F32(f32::NAN)),
        "configuration key rope base is NaN",
    );
    check(
        &|w| set(w, "llama.rope.dimension_count", Written::U32(17)),
        "configuration key rotary dimensions is 17",
    );
    check(&|w| drop(w.tensors.drain(..)), "configuration key vocabulary size is 0");
}

#[test]
fn a_tensor_in_a_format_that_is_only_listed_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let mut writer = gguf("llama", &tensors(false));
    let norm = writer.tensors.iter_mut().find(|t| t.name == "blk.0.attn_norm.weight").unwrap();
    norm.format = 26;
    std::fs::write(&path, writer.bytes()).unwrap();
    let files = ModelFiles::open(&path).unwrap();
    let shard = Shard::whole(files.config());
    let error = Decoder::load(&files, shard, tiny::pool(), &mut |_| ()).err().unwrap();
    let expected = "tensor blk.0.attn_norm.weight is stored as I32, which is not computed on";
    assert!(chain(&error).ends_with(expected), "{}", chain(&error));
}

#[test]
fn directories_that_cannot_be_served_say_why() {
    let check = |change: &dyn Fn(&Path, &mut Value), expected: &str| {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config_json("llama");
        write_directory(directory.path(), &config, &tensors(false), Dtype::F32, 2);
        change(directory.path(), &mut config);
        std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
        let error = chain(&ModelFiles::open(directory.path()).unwrap_err());
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    };
    let set =
        |key: &'static str, value: Value| move |_: &Path, c: &mut Value| c[key] = value.clone();
    check(&set("model_type", json!("mamba")), "architecture \"mamba\" is not supported");
    check(&set("model_type", json!(7)), "model_type is 7: text is needed");
    check(&set("hidden_size", json!(-1)), "hidden_size is -1: a whole number");
    check(&set("hidden_size", json!(null)), "configuration key hidden_size is missing");
    check(&set("hidden_act", json!("swoosh")), "activation \"swoosh\" is not supported");
    check(&set("quantization_config", json!({})), "a quantised safetensors checkpoint");
    check(&set("rope_scaling", json!({"type": "dynamic"})), "rope scaling \"dynamic\"");
    check(&set("rope_scaling", json!({"type": "linear"})), "rope_scaling.factor is missing");
    check(&|path, _| std::fs::remove_file(path.join("tokenizer.json")).unwrap(), "tokenizer.json");
    check(&|path, _| cut(&path.join("model-1.safetensors")), "model-1.safetensors");
    let index = "model.safetensors.index.json";
    check(
        &|path, _| write_index(&path.join(index), &json!({"a": "../../etc/passwd"})),
        "shard \"../../etc/passwd\" is not a plain file name",
    );
    check(
        &|path, _| write_index(&path.join(index), &json!({"a": "model-0.safetensors"})),
        "tensor a is not in model-0.safetensors",
    );
    check(&|path, _| write_index(&path.join(index), &json!(3)), "invalid type");
}

fn cut(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
}

fn write_index(path: &Path, weight_map: &Value) {
    std::fs::write(path, json!({"weight_map": weight_map}).to_string()).unwrap();
}

#[test]
fn config_json_chooses_ropes_and_windows() {
    let read = |model_type: &str, changes: Value| {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config_json(model_type);
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        write_directory(directory.path(), &config, &tensors(true), Dtype::F32, 1);
        ModelFiles::open(directory.path()).unwrap().config().clone()
    };
    let windows = |model_type, changes| -> Vec<Option<usize>> {
        read(model_type, changes).layers.iter().map(|layer| layer.window).collect()
    };
    let all = vec![Some(8); 4];
    assert_eq!(windows("llama", json!({"sliding_window": 8})), [None; 4]);
    assert_eq!(windows("mistral", json!({"sliding_window": 8})), all);
    let qwen = json!({"sliding_window": 8, "use_sliding_window": false});
    assert_eq!(windows("qwen2", qwen), [None; 4]);
    let qwen = json!({"sliding_window": 8, "use_sliding_window": true, "max_window_layers": 3});
    assert_eq!(windows("qwen2", qwen), [None, None, None, Some(8)]);
    let types = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"];
    let mixed = json!({"sliding_window": 8, "layer_types": types});
    assert_eq!(windows("mistral", mixed), [Some(8), None, Some(8), None]);

    let llama3 = json!({"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32});
    let config = read("llama", json!({"rope_parameters": llama3}));
    let rope = config.layers[0].rope.as_ref().unwrap();
    assert_eq!((rope.base, rope.pairs), (500_000.0, RopePairs::Halves));
    assert!(matches!(rope.scaling, RopeScaling::Llama3 { original_context: 32.0, .. }));
    let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
    let config = read("qwen2", json!({"rope_scaling": yarn}));
    assert_eq!(config.context_tokens, 256);
    assert!(config.attention.input_bias);
}
