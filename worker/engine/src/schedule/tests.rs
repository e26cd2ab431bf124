//! Schedules as tables: who gets how many tokens.

use super::*;
use crate::kv::Prefix;

const BLOCKS: usize = 64;

fn scheduler(max_sequences: usize, max_batch_tokens: usize, blocks: usize) -> Scheduler {
    Scheduler::new(Bounds { max_sequences, max_batch_tokens }, BlockPool::new(blocks, true))
}

fn id(request: u64) -> SequenceId {
    SequenceId { request, choice: 0 }
}

/// A prompt that shares nothing with another request's.
fn prompt(request: u64, tokens: usize) -> Sequence {
    let tokens: Vec<u32> = (0..tokens as u32).map(|at| at + 1000 * request as u32).collect();
    Sequence::new(&tokens, Prefix::Tenant(0))
}

/// One step: computes it, appends a token to whoever reached the end, and says it as
/// "request:first..last" for each entry, then "-request" for each preempted.
fn step(scheduler: &mut Scheduler) -> String {
    let step = scheduler.schedule();
    scheduler.check();
    scheduler.commit(&step);
    for work in step.work.iter().filter(|work| work.reaches_end) {
        scheduler.append(work.sequence, 7);
    }
    let name = |id: SequenceId| match id.choice {
        0 => id.request.to_string(),
        choice => format!("{}.{choice}", id.request),
    };
    let work = step.work.iter().map(|work| format!("{}:{:?}", name(work.sequence), work.positions));
    let preempted = step.preempted.iter().map(|id| format!("-{}", name(*id)));
    work.chain(preempted).collect::<Vec<_>>().join(" ")
}

fn check(why: &str, scheduler: &mut Scheduler, steps: &[&str]) {
    for (index, expected) in steps.iter().enumerate() {
        assert_eq!(step(scheduler), *expected, "{why}, step {index}");
    }
}

#[test]
fn decodes_come_first_and_prefill_fills_what_is_left() {
    let mut scheduler = scheduler(4, 10, BLOCKS);
    scheduler.admit(id(0), prompt(0, 3));
    scheduler.admit(id(1), prompt(1, 12));
    scheduler.admit(id(2), prompt(2, 4));
    check(
        "a long prompt is cut",
        &mut scheduler,
        &["0:0..3 1:0..7", "0:3..4 1:7..12 2:0..4", "0:4..5 1:12..13 2:4..5"],
    );
}

#[test]
fn arrivals_wait_for_a_free_place_in_order() {
    let mut scheduler = scheduler(2, 8, BLOCKS);
    (0..4).for_each(|request| scheduler.admit(id(request), prompt(request, 2)));
    check("two at a time", &mut scheduler, &["0:0..2 1:0..2", "0:2..3 1:2..3"]);
    scheduler.remove(id(0));
    check("the next in line", &mut scheduler, &["1:3..4 2:0..2"]);
    scheduler.remove(id(3));
    scheduler.remove(id(1));
    check("a place with nobody in line", &mut scheduler, &["2:2..3"]);
    scheduler.remove(id(2));
    check("nothing to do", &mut scheduler, &[""]);
    assert_eq!((scheduler.running(), scheduler.waiting()), (0, 0));
}

#[test]
fn the_latest_arrival_loses_its_blocks_and_finds_them_again() {
    let mut scheduler = scheduler(4, 100, 4);
    scheduler.admit(id(0), prompt(0, 31));
    scheduler.admit(id(1), prompt(1, 16));
    check(
        "two and one blocks of four",
        &mut scheduler,
        &[
            "0:0..31 1:0..16",
            "0:31..32 1:16..17",
            // 0 needs a third block, which 1 has.
            "0:32..33 -1",
            // 1 knows 18 tokens: too many for the block left.
            "0:33..34",
        ],
    );
    scheduler.remove(id(0));
    check("its first block was never overwritten", &mut scheduler, &["1:16..18"]);
}

#[test]
fn who_waits_for_blocks_is_not_overtaken() {
    let mut scheduler = scheduler(4, 100, 4);
    scheduler.admit(id(0), prompt(0, 30));
    scheduler.admit(id(1), prompt(1, 40));
    scheduler.admit(id(2), prompt(2, 3));
    check("2 would fit, but it is not its turn", &mut scheduler, &["0:0..30", "0:30..31"]);
    scheduler.remove(id(0));
    check("both fit", &mut scheduler, &["1:0..40"]);
    check("2 leaves a block to 1", &mut scheduler, &["1:40..41"]);
    scheduler.remove(id(1));
    check("its turn", &mut scheduler, &["2:0..3"]);
}

#[test]
fn choices_wait_for_the_first_to_compute_their_prompt() {
    let mut scheduler = scheduler(8, 30, BLOCKS);
    for choice in 0..3 {
        scheduler.admit(SequenceId { request: 0, choice }, prompt(0, 40));
    }
    scheduler.admit(id(1), prompt(1, 4));
    check(
        "others need not wait with them",
        &mut scheduler,
        &[
            "0:0..30",
            "0:30..40 1:0..4",
            // In one step with a block of prompt each, that of the last token.
            "0:40..41 1:4..5 0.1:32..40 0.2:32..40",
        ],
    );
}

#[test]
fn logits_of_every_prompt_token_come_a_few_at_a_time_and_from_no_cache() {
    let mut scheduler = scheduler(8, 100, BLOCKS);
    scheduler.admit(id(0), prompt(0, 70));
    check("computed and cached", &mut scheduler, &["0:0..70"]);
    scheduler.remove(id(0));
    let rows = Sequence::with_prompt_rows(&prompt(0, 70).tokens, Prefix::Tenant(0));
    scheduler.admit(id(1), rows);
    check("32 rows a step", &mut scheduler, &["1:0..32", "1:32..64", "1:64..70"]);
    scheduler.remove(id(1));
    scheduler.admit(id(2), prompt(0, 70));
    check("anyone else finds it", &mut scheduler, &["2:64..70"]);
}

#[test]
fn only_what_is_computed_is_found() {
    let mut scheduler = scheduler(8, 40, BLOCKS);
    let text = prompt(0, 70);
    scheduler.admit(id(0), Sequence::with_prompt_rows(&text.tokens, Prefix::Tenant(0)));
    check("a part of the prompt", &mut scheduler, &["0:0..32"]);
    scheduler.admit(id(1), text);
    check("not what this step computes", &mut scheduler, &["0:32..64 1:32..40"]);
    check("each goes on by itself", &mut scheduler, &["0:64..70 1:40..70", "0:70..71 1:70..71"]);
}
