//! The pool under tables that come, grow and go in any order.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// What a sequence does to the pool.
#[derive(Debug, Clone)]
enum Op {
    /// A new sequence of so many tokens, under one of two tenants, of one of two texts that part
    /// at some token.
    Open { tenant: u64, text: u32, parts_at: usize, tokens: usize },
    /// One of the open sequences computes so many of its tokens.
    Compute { which: usize, tokens: usize },
    /// One of the open sequences ends.
    Release { which: usize },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let open = (0..2_u64, 0..2_u32, 0..100_usize, 1..100_usize)
        .prop_map(|(tenant, text, parts_at, tokens)| Op::Open { tenant, text, parts_at, tokens });
    let compute =
        (any::<usize>(), 1..60_usize).prop_map(|(which, tokens)| Op::Compute { which, tokens });
    let release = any::<usize>().prop_map(|which| Op::Release { which });
    prop::collection::vec(prop_oneof![3 => open, 4 => compute, 2 => release], 1..120)
}

struct Sequence {
    tenant: u64,
    tokens: Vec<u32>,
    computed: usize,
    table: BlockTable,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Blocks neither leak nor serve two contents, and what is found in the cache is what the
    /// finder would have computed, for its own tenant. `written` is the truth: what was last
    /// computed into each block.
    #[test]
    fn blocks_hold_what_their_tables_say(ops in ops(), blocks in 1..30_usize, retain: bool) {
        let mut pool = BlockPool::new(blocks, retain);
        let mut open: Vec<Sequence> = Vec::new();
        let mut written: HashMap<u32, (u64, Vec<u32>)> = HashMap::new();
        for op in ops {
            match op {
                Op::Open { tenant, text, parts_at, tokens } => {
                    let token = |at: usize| at as u32 + if at < parts_at { 0 } else { text * 1000 };
                    let tokens: Vec<u32> = (0..tokens).map(token).collect();
                    let mut table = BlockTable::open(&mut pool, Prefix::Tenant(tenant), &tokens);
                    let computed = table.sealed_tokens();
                    prop_assert!(computed < tokens.len());
                    for (index, id) in table.ids().iter().enumerate() {
                        let end = (index + 1) * KV_BLOCK_TOKENS;
                        let truth = &written[id];
                        prop_assert_eq!((truth.0, &truth.1[..]), (tenant, &tokens[..end]));
                    }
                    if table.reserve(&mut pool, tokens.len()) {
                        open.push(Sequence { tenant, tokens, computed, table });
                    } else {
                        prop_assert!(table.missing(tokens.len()) > pool.available());
                        table.release(&mut pool);
                    }
                }
                Op::Compute { which, tokens } if !open.is_empty() => {
                    let which = which % open.len();
                    let sequence = &mut open[which];
                    let end = (sequence.computed + tokens).min(sequence.tokens.len());
                    for at in sequence.computed..end {
                        let id = sequence.table.ids()[at / KV_BLOCK_TOKENS];
                        written.insert(id, (sequence.tenant, sequence.tokens[..=at].to_vec()));
                    }
                    sequence.computed = end;
                    sequence.table.seal(&mut pool, &sequence.tokens[..end]);
                }
                Op::Release { which } if !open.is_empty() => {
                    let sequence = open.remove(which % open.len());
                    sequence.table.release(&mut pool);
                }
                _ => {}
            }
            let held: usize = open.iter().map(|sequence| sequence.table.ids().len()).sum();
            prop_assert_eq!(pool.check(), held);
            // Nobody's computed tokens were overwritten.
            for sequence in &open {
                for (index, id) in sequence.table.ids().iter().enumerate() {
                    let end = sequence.computed.min((index + 1) * KV_BLOCK_TOKENS);
                    if end > index * KV_BLOCK_TOKENS {
                        let truth = &written[id];
                        prop_assert_eq!(&truth.1[..], &sequence.tokens[..end]);
                    }
                }
            }
        }
        for sequence in open {
            sequence.table.release(&mut pool);
        }
        prop_assert_eq!(pool.check(), 0);
        prop_assert_eq!(pool.available(), blocks);
        prop_assert!(retain || pool.cached() == 0);
    }
}

#[test]
fn the_end_of_the_least_recently_used_sequence_goes_first() {
    let mut pool = BlockPool::new(6, true);
    let root = Prefix::Tenant(0);
    let text = |start: u32| (start..start + 48).collect::<Vec<u32>>();
    for start in [0, 100] {
        let mut table = BlockTable::open(&mut pool, root, &text(start));
        assert!(table.reserve(&mut pool, 48));
        table.seal(&mut pool, &text(start));
        table.release(&mut pool);
    }
    assert_eq!((pool.cached(), pool.available()), (6, 6));
    // Two blocks for another sequence: the older loses its end and keeps its beginning.
    let mut other = BlockTable::empty(Prefix::Request(1));
    assert!(other.reserve(&mut pool, 32));
    let found = |pool: &mut BlockPool, start: u32| {
        let longer: Vec<u32> = text(start).into_iter().chain([9]).collect();
        let table = BlockTable::open(pool, root, &longer);
        let tokens = table.sealed_tokens();
        table.release(pool);
        tokens
    };
    assert_eq!((found(&mut pool, 0), found(&mut pool, 100)), (16, 48));
    other.release(&mut pool);
}
