//! Our model against llama.cpp's: teacher-forced on the peer's own greedy tokens.
//!
//! `tests/peers/make_fixture.py` asked the peer; nothing it answered is left out. A position where
//! our most likely token is not the peer's is a *miss*. Both round differently, so a miss is
//! forgiven where the peer itself was nearly undecided, and few may be forgiven.
//!
//! That text becomes the same token ids is tested through the worker's `/tokenize`, in `clients/`.

#![allow(clippy::print_stdout)] // the figures are the point of the run

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use naru_engine::{
    Batch, Decoder, Forward, KV_BLOCK_TOKENS, LocalDecoder, ModelFiles, Shard, Span,
};
use naru_kernels::{ComputePool, argmax, log_sum_exp};
use naru_tests::repository;
use serde_json::Value;

const PROMPTS: usize = 40;
const GREEDY_TOKENS: usize = 32;
/// Nats between the peer's token and ours, in the peer, under which a miss is a near-tie.
const NEAR_TIE_NATS: f64 = 0.1;

/// How near the peer a model must be.
struct Limits {
    /// Of all positions, those where our most likely token is the peer's.
    agreement_min: f64,
    /// Of all positions, those where it is not and the peer was not nearly undecided.
    far_misses_max: f64,
    /// Nats between our log-probability of the peer's token and the peer's own, mean.
    difference_nats_max: f64,
}

/// What we hold every model to. That no miss is far is the aim; Qwen has 4 in 1280 (0.16 to 0.26
/// nats apart), see `docs/adr/0009-measure-smollm2-by-its-noise.md`.
const AGREED: Limits =
    Limits { agreement_min: 0.98, far_misses_max: 0.004, difference_nats_max: 0.02 };

/// What SmolLM2 can be held to: the peer is 0.029 nats from itself with flash attention on or off,
/// and a plain float forward pass is 0.03 from it; see the same record.
const SMOLLM2: Limits =
    Limits { agreement_min: 0.96, far_misses_max: 0.015, difference_nats_max: 0.045 };

/// What SmolLM2 is held to where neither side rounds activations: an F32 copy of the same weights.
/// Found were no miss and 0.0005 nats, of which f16 keys and values on our side are a part.
const FLOATS: Limits =
    Limits { agreement_min: 0.998, far_misses_max: 0.0, difference_nats_max: 0.001 };

#[test]
fn smollm2_in_floats_agrees_with_the_peer() {
    check("SmolLM2-135M-Instruct.F32.gguf", "smollm2-f32.jsonl.gz", &FLOATS);
}

#[test]
fn smollm2_agrees_with_the_peer() {
    check("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2.jsonl.gz", &SMOLLM2);
}

#[test]
fn qwen_agrees_with_the_peer() {
    check("Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf", "qwen2.5-coder.jsonl.gz", &AGREED);
}

/// The prompt's tokens, then what the peer said after them.
struct Prompt {
    language: String,
    line: u64,
    tokens: Vec<u32>,
    steps: Vec<Step>,
}

/// One of the peer's greedy tokens: the first is the token itself, then its nearest rivals.
struct Step {
    ranked: Vec<(u32, f64)>,
}

#[derive(Default)]
struct Tally {
    positions: usize,
    agreed: usize,
    difference: f64,
    misses: Vec<String>,
    beyond_near_tie: usize,
}

#[track_caller]
fn check(model: &str, fixture: &str, limits: &Limits) {
    let prompts = read_fixture(fixture, model).expect("the fixture is readable");
    assert_eq!(prompts.len(), PROMPTS, "{fixture}: prompts");
    let longest = prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0);
    let mut forward = open(model, longest + GREEDY_TOKENS).expect("the model loads");
    let mut tally = Tally::default();
    for prompt in &prompts {
        assert_eq!(prompt.steps.len(), GREEDY_TOKENS, "{fixture}: greedy tokens");
        compare(&mut forward, prompt, &mut tally).expect("the forward pass");
    }
    let positions = tally.positions as f64;
    let (agreement, difference) = (tally.agreed as f64 / positions, tally.difference / positions);
    let summary = format!(
        "{model}: {} positions, {:.2} % agree, {} far misses, \
         mean difference {difference:.4} nats\n{}",
        tally.positions,
        100.0 * agreement,
        tally.beyond_near_tie,
        tally.misses.join("\n"),
    );
    println!("{summary}");
    let far_misses = tally.beyond_near_tie as f64 / positions;
    assert!(agreement >= limits.agreement_min, "{summary}");
    assert!(far_misses <= limits.far_misses_max, "misses that are no near-ties: {summary}");
    assert!(difference <= limits.difference_nats_max, "{summary}");
}

/// Runs the prompt and the peer's tokens at once, and compares each position after the prompt.
fn compare(forward: &mut LocalDecoder, prompt: &Prompt, tally: &mut Tally) -> Result<()> {
    let mut tokens = prompt.tokens.clone();
    tokens.extend(prompt.steps.iter().map(|step| step.ranked[0].0));
    // The logits after the last token of the prompt are about the first greedy token.
    let first = prompt.tokens.len() - 1;
    let blocks = u32::try_from(tokens.len().div_ceil(KV_BLOCK_TOKENS))?;
    let spans = vec![Span { tokens: 0..tokens.len(), position: 0, blocks: (0..blocks).collect() }];
    let logit_rows = (first..first + prompt.steps.len()).collect();
    let batch = Batch { tokens, spans, logit_rows };
    let vocabulary = forward.vocab_size();
    let logits = forward.forward(&batch).map_err(|error| anyhow::anyhow!(error))?;
    for (place, (row, step)) in logits.chunks_exact(vocabulary).zip(&prompt.steps).enumerate() {
        let (token, expected) = step.ranked[0];
        let ours = f64::from(row[usize::try_from(token)?] - log_sum_exp(row));
        tally.positions += 1;
        tally.difference += (ours - expected).abs();
        let best = u32::try_from(argmax(row).context("no logits")?)?;
        if best == token {
            tally.agreed += 1;
            continue;
        }
        let rival = step.ranked.iter().find(|(id, _)| *id == best);
        let apart = rival.map_or(f64::INFINITY, |(_, logprob)| expected - logprob);
        tally.beyond_near_tie += usize::from(apart >= NEAR_TIE_NATS);
        let Prompt { language, line, .. } = prompt;
        tally.misses.push(format!(
            "  {language} line {line}, place {place}: {best} for {token}, {apart:.3} nats apart"
        ));
    }
    Ok(())
}

fn open(model: &str, tokens: usize) -> Result<LocalDecoder> {
    let path = cache_directory()?.join("models").join(model);
    ensure!(path.is_file(), "{} is not there: run `make models`", path.display());
    let files = ModelFiles::open(&path)?;
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let pool = Arc::new(ComputePool::start(threads)?);
    let decoder = Decoder::load(&files, Shard::whole(files.config()), pool, &mut |_| {})?;
    Ok(LocalDecoder::new(decoder, tokens.div_ceil(KV_BLOCK_TOKENS))?)
}

fn cache_directory() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(chosen) = variable("NARU_CACHE_DIR") {
        return Ok(chosen.into());
    }
    if let Some(cache) = variable("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(cache).join("naru"));
    }
    Ok(PathBuf::from(variable("HOME").context("no HOME")?).join(".cache/naru"))
}

fn read_fixture(name: &str, model: &str) -> Result<Vec<Prompt>> {
    let path = repository().join("tests/peers/fixtures").join(name);
    let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let mut lines = BufReader::new(GzDecoder::new(file)).lines();
    let header: Value = serde_json::from_str(&lines.next().context("an empty fixture")??)?;
    ensure!(header["model"] == model, "{name} is about {}", header["model"]);
    let mut ids: Vec<(String, u64, Vec<u32>)> = Vec::new();
    let mut prompts = Vec::new();
    for line in lines {
        let record: Value = serde_json::from_str(&line?)?;
        let language = record["language"].as_str().context("a language")?.to_owned();
        if let Some(line) = record["line"].as_u64() {
            ids.push((language, line, serde_json::from_value(record["ids"].clone())?));
            continue;
        }
        // A prompt is one of the lines before it, named by its number.
        let line = record["prompt"].as_u64().context("a prompt's line")?;
        let (_, _, tokens) = ids
            .iter()
            .find(|(of, number, _)| *of == language && *number == line)
            .context("the line of a prompt")?;
        let greedy = record["greedy"].as_array().context("greedy tokens")?;
        let steps = greedy.iter().map(read_step).collect::<Result<_>>()?;
        prompts.push(Prompt { language, line, tokens: tokens.clone(), steps });
    }
    Ok(prompts)
}

fn read_step(step: &Value) -> Result<Step> {
    let mut ranked: Vec<(u32, f64)> = serde_json::from_value(step["rivals"].clone())?;
    let id = u32::try_from(step["id"].as_u64().context("a token")?)?;
    ranked.insert(0, (id, step["logprob"].as_f64().context("its probability")?));
    Ok(Step { ranked })
}
