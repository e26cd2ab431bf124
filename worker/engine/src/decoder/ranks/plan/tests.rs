use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What happens to one sequence in a step.
#[derive(Clone, Debug)]
struct Turn {
    sequence: u32,
    tokens: usize,
    new_blocks: usize,
    wants_logits: bool,
}

fn turns() -> impl Strategy<Value = Vec<Vec<Turn>>> {
    let turn = (0..6u32, 1..5usize, 0..3usize, any::<bool>()).prop_map(
        |(sequence, tokens, new_blocks, wants_logits)| Turn {
            sequence,
            tokens,
            new_blocks,
            wants_logits,
        },
    );
    prop::collection::vec(prop::collection::vec(turn, 0..6), 1..8)
}

/// Steps of sequences that come, grow, pause and share their first block.
fn steps(turns: &[Vec<Turn>]) -> Vec<(Batch, Vec<usize>)> {
    let (mut tables, mut next) = (BTreeMap::<u32, Vec<u32>>::new(), 1);
    let step = |turns: &Vec<Turn>| {
        let mut batch = Batch::default();
        let mut seen = Vec::new();
        for turn in turns {
            if seen.contains(&turn.sequence) {
                continue;
            }
            seen.push(turn.sequence);
            let table = tables.entry(turn.sequence).or_insert_with(|| vec![0]);
            table.extend(next..next + turn.new_blocks as u32);
            next += turn.new_blocks as u32;
            let first = batch.tokens.len();
            batch.tokens.extend((0..turn.tokens as u32).map(|token| token * 7 + next));
            let tokens = first..batch.tokens.len();
            if turn.wants_logits {
                batch.logit_rows.push(tokens.end - 1);
            }
            let position = table.len() * 16 - turn.tokens;
            batch.spans.push(Span { tokens, position, blocks: table.clone() });
        }
        let ends = match batch.tokens.len() {
            count if count > 3 => vec![3, count],
            count => vec![count],
        };
        (batch, ends)
    };
    turns.iter().map(step).collect()
}

/// Messages of those steps, and a reader that has read all but the last.
fn told(steps: &[(Batch, Vec<usize>)]) -> (Vec<u8>, PlanReader) {
    let (mut writer, mut reader) = (PlanWriter::default(), PlanReader::default());
    let mut message = Vec::new();
    for (index, (batch, ends)) in steps.iter().enumerate() {
        writer.step(batch, ends, &mut message).unwrap();
        if index + 1 < steps.len() {
            let expected = Plan::Step { batch: batch.clone(), ends: ends.clone() };
            assert_eq!(reader.read(&message), Ok(expected));
        }
    }
    (message, reader)
}

proptest! {
    #[test]
    fn what_is_written_is_read(turns in turns()) {
        let steps = steps(&turns);
        let (message, mut reader) = told(&steps);
        let (batch, ends) = steps.last().unwrap().clone();
        prop_assert_eq!(reader.read(&message), Ok(Plan::Step { batch, ends }));
        // The same once more is not the next.
        let again = matches!(reader.read(&message), Err(PlanError::Serial { .. }));
        prop_assert!(again);
    }

    #[test]
    fn a_message_cut_short_is_refused(turns in turns(), share in 0.0..1.0) {
        let (message, mut reader) = told(&steps(&turns));
        let length = (message.len() as f64 * share) as usize;
        prop_assert!(reader.read(&message[..length]).is_err());
    }

    #[test]
    fn a_message_with_another_byte_is_read_or_refused(
        turns in turns(),
        share in 0.0..1.0,
        byte in any::<u8>(),
    ) {
        let (mut message, mut reader) = told(&steps(&turns));
        let place = (message.len() as f64 * share) as usize;
        message[place] = byte;
        if let Ok(Plan::Step { batch, ends }) = reader.read(&message) {
            let spans: usize = batch.spans.iter().map(|span| span.tokens.len()).sum();
            prop_assert_eq!(spans, batch.tokens.len());
            prop_assert_eq!(ends.last(), Some(&batch.tokens.len()));
            let rows = batch.logit_rows;
            prop_assert!(rows.is_sorted() && rows.iter().all(|row| *row < batch.tokens.len()));
        }
    }

    #[test]
    fn any_words_behind_a_header_are_read_or_refused(
        small in prop::collection::vec(0..9u32, 0..40),
        large in prop::collection::vec(any::<u32>(), 0..20),
    ) {
        for words in [small, large] {
            let mut message = vec![b'n', b'p', VERSION, STEP];
            let words = std::iter::once(1).chain(words);
            message.extend(words.flat_map(|word: u32| word.to_le_bytes()));
            let _either = PlanReader::default().read(&message);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _either = PlanReader::default().read(&bytes);
    }
}

#[test]
fn groups_are_named_whole() {
    let read = |names: &[u8]| PlanReader::default().read(&PlanWriter::groups(names));
    for count in 0..3 {
        let names = vec![7; count * GroupId::BYTES];
        assert_eq!(read(&names), Ok(Plan::Groups { names: names.clone() }));
    }
    assert_eq!(read(&[7; 100]), Err(PlanError::Malformed { what: "a part of a name" }));
}

#[test]
fn the_end_is_told() {
    let mut message = vec![1; 40];
    PlanWriter::stop(&mut message);
    assert_eq!(PlanReader::default().read(&message), Ok(Plan::Stop));
    message.push(0);
    assert!(PlanReader::default().read(&message).is_err());
}

#[test]
fn other_versions_are_refused() {
    let (mut message, mut reader) = told(&steps(&[Vec::new()]));
    message[2] = VERSION + 1;
    let error = reader.read(&message).unwrap_err();
    assert_eq!(error.to_string(), "a plan begins with [110, 112, 2, 0]: another version of naru?");
}

/// 256 sequences of 32 Ki tokens, each with its next: the whole tables would be two megabytes.
#[test]
fn a_step_of_long_sequences_is_a_small_message() {
    let step = |position: usize| {
        let span = |sequence: usize| Span {
            tokens: sequence..sequence + 1,
            position,
            blocks: (0..=position / 16).map(|block| (sequence * 4096 + block) as u32).collect(),
        };
        let batch = Batch {
            tokens: vec![5; 256],
            spans: (0..256).map(span).collect(),
            logit_rows: (0..256).collect(),
        };
        (batch, vec![256])
    };
    for steps in [[step(32_700), step(32_701)], [step(32_767), step(32_768)]] {
        let (message, mut reader) = told(&steps);
        assert!(message.len() < 8 << 10, "{} bytes", message.len());
        let [_, (batch, ends)] = steps;
        assert_eq!(reader.read(&message), Ok(Plan::Step { batch, ends }));
    }
}
