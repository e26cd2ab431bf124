//! Stands in for the loading of weights.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::Context;
use naru_engine::{ChatTemplate, Engine, KV_BLOCK_TOKENS, SimModel, Tokenizer};

use super::{Meter, Pace, SimSettings};
use crate::drive::Drive;
use crate::load::{EngineSettings, Loaded, ModelBounds};
use crate::member::{Bytes, Defaults, Member, Served};

/// Reports of a load's progress.
const LOAD_PARTS: u32 = 20;

/// Waits as long as loading is said to take, then is ready to answer. Errors: bounds within which
/// nothing could run.
pub(crate) fn load(
    member: &Arc<Member>,
    settings: &EngineSettings,
    sim: &SimSettings,
) -> anyhow::Result<Loaded> {
    let profile = sim.profile;
    tracing::warn!(
        profile = profile.name,
        source = profile.source,
        speed = ?sim.speed,
        "SIMULATED: there is no model; answers are words by chance, time and watts are modelled"
    );
    let meter = Arc::new(Meter::new(profile.idle_watts(), sim.speed, Instant::now()));
    member.metrics.simulate(Arc::clone(&meter));
    let part = sim.speed.real(sim.load_seconds) / LOAD_PARTS;
    let total = profile.weight_bytes;
    for done in 1..=LOAD_PARTS {
        thread::sleep(part);
        let done = total / u64::from(LOAD_PARTS) * u64::from(done);
        member.loaded(Bytes { done, total });
    }
    member.loaded(Bytes { done: total, total });
    let config = settings.for_model(&ModelBounds {
        context_tokens: profile.context_tokens,
        kv_bytes_per_block: profile.kv_bytes_per_token * KV_BLOCK_TOKENS as u64,
        kv_memory_bytes: profile.kv_memory_bytes(),
    })?;
    let tokenizer = Arc::new(Tokenizer::of_sim());
    let vocabulary = Arc::clone(&tokenizer);
    let model = SimModel::new(profile, config.kv_blocks);
    let engine = Engine::new(Box::new(model), vocabulary, config).context("the engine's bounds")?;
    member.metrics.describe_cache(KV_BLOCK_TOKENS, config.kv_blocks);
    let context_tokens_max = engine.context_tokens();
    tracing::info!(kv_blocks = config.kv_blocks, context_tokens_max, "loaded");
    let pace = Pace::new(sim.speed, meter);
    let (drive, engine_loop) = Drive::new(engine, Arc::clone(&member.metrics));
    // Without a word on temperature the same question has the same answer everywhere.
    let defaults = Defaults { temperature: Some(0.0), ..Defaults::default() };
    let template = Some(ChatTemplate::of_sim());
    let served = Served { tokenizer, template, defaults, context_tokens_max, drive };
    Ok(Loaded { answers: Some((served, engine_loop.paced(pace))), ranks: None })
}
