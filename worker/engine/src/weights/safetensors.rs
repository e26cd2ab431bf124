//! Safetensors checkpoints: one file, or shards with an index.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use naru_kernels::DType;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::{Entry, MappedFile, Tensors, WeightError};

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
/// Shards of one checkpoint; the largest published ones have some hundreds.
const SHARDS_MAX: usize = 4096;

#[derive(Deserialize)]
struct Index {
    /// Which file holds each tensor.
    weight_map: HashMap<String, String>,
}

/// Opens the tensors of the checkpoint in `directory`. Errors: neither a single file nor an index
/// is there, or one of them is not sound.
pub(crate) fn open_directory(directory: &Path) -> Result<Tensors, WeightError> {
    let index_path = directory.join(INDEX_FILE);
    let single = directory.join(SINGLE_FILE);
    let mut tensors = Tensors { files: Vec::new(), entries: HashMap::new() };
    if single.exists() || !index_path.exists() {
        add_file(&mut tensors, &single)?;
        return Ok(tensors);
    }
    let wrong = |reason: String| WeightError::Index { path: index_path.clone(), reason };
    let bytes = std::fs::read(&index_path)
        .map_err(|source| WeightError::Open { path: index_path.clone(), source })?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    let shards: BTreeSet<&String> = index.weight_map.values().collect();
    if shards.len() > SHARDS_MAX {
        return Err(wrong(format!("{} shards; at most {SHARDS_MAX} are read", shards.len())));
    }
    for shard in shards {
        // A checkpoint is one directory: its index must not point elsewhere.
        if Path::new(shard).file_name() != Some(shard.as_ref()) {
            return Err(wrong(format!("shard {shard:?} is not a plain file name")));
        }
        add_file(&mut tensors, &directory.join(shard))?;
    }
    for (name, shard) in &index.weight_map {
        if !tensors.contains(name) {
            return Err(wrong(format!("tensor {name} is not in {shard}")));
        }
    }
    Ok(tensors)
}

fn add_file(tensors: &mut Tensors, path: &Path) -> Result<(), WeightError> {
    let failed = |source| WeightError::Open { path: path.to_owned(), source };
    let file = Arc::new(MappedFile::open(path).map_err(failed)?);
    let unsound = |source| WeightError::Safetensors { path: path.to_owned(), source };
    let parsed = SafeTensors::deserialize(file.bytes()).map_err(unsound)?;
    let start_of_file = file.bytes().as_ptr() as usize;
    for (name, tensor) in parsed.iter() {
        let start = tensor.data().as_ptr() as usize - start_of_file;
        let entry = Entry {
            file: tensors.files.len(),
            dtype: dtype(tensor.dtype()),
            format: format!("{:?}", tensor.dtype()),
            shape: tensor.shape().to_vec(),
            bytes: start..start + tensor.data().len(),
        };
        if tensors.entries.insert(name.to_owned(), entry).is_some() {
            let reason = format!("tensor {name} is in two shards");
            return Err(WeightError::Index { path: path.to_owned(), reason });
        }
    }
    tensors.files.push(file);
    Ok(())
}

fn dtype(stored: Dtype) -> Option<DType> {
    match stored {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}
