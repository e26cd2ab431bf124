//! What rank 0 broadcasts, from a stranger: plans in order, each of them read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Each message behind its length, two bytes.
    let mut rest = bytes;
    let messages = std::iter::from_fn(|| {
        let (length, after) = rest.split_first_chunk()?;
        let (message, after) = after.split_at(usize::from(u16::from_le_bytes(*length)).min(after.len()));
        rest = after;
        Some(message)
    });
    let messages: Vec<&[u8]> = messages.collect();
    if let Ok(steps) = naru_engine::read_plans(messages.iter().copied()) {
        assert!(steps <= messages.len(), "a message is a step at most");
    }
});
