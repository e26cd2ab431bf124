//! Sampling on the device: what is wanted of a step's rows as it lies there, and what came of them.
//!
//! Rows may be more than there is room for logits of at once, or change more logits together than
//! there is room for; they are then sampled in groups, one launch after another, so that no row's
//! token depends on its company. One row always has room: it changes each token of the vocabulary
//! at most once.

use std::ops::Range;

use naru_kernels::ShapeError;
use naru_kernels::cuda::{
    DevicePointer, DeviceSampling, Launch, SampleTask, TokenChange, sample as sample_launch,
};

use crate::event::TokenLogprobs;
use crate::sampling::{NextToken, RowSampling, SampledRow, Wanted, changes};

const TOP: usize = DeviceSampling::LOGPROBS_MAX;
/// Words that come of a row.
pub(super) const RESULT_WORDS: usize = 2 + 2 * TOP;
const NO_TOKEN: u32 = u32::MAX;

/// What is wanted of the rows of one step.
pub(super) struct StepSampling<'a> {
    wanted: &'a [RowSampling<'a>],
    rows: Vec<DeviceSampling>,
    changes: Vec<TokenChange>,
    groups: Vec<Group>,
    vocabulary: usize,
    at_once: usize,
}

/// Rows that are sampled by one launch, and the changes of theirs.
struct Group {
    rows: Range<usize>,
    changes: Range<usize>,
}

/// Where sampling reads and writes.
#[derive(Clone, Copy)]
pub(super) struct SamplingPlaces {
    /// Of the rows that there is room for at once.
    pub(super) logits: DevicePointer,
    /// What [`StepSampling::write`] wrote.
    pub(super) sampling: DevicePointer,
    pub(super) saved: DevicePointer,
    /// `RESULT_WORDS` for each row.
    pub(super) results: DevicePointer,
}

/// One group's part of a step.
pub(super) struct Pass {
    /// Where another lot of logits begins, these are to be made first.
    pub(super) first_row: usize,
    /// What must be put where before; those of the first group came with the rows.
    pub(super) changes: (DevicePointer, Vec<u8>),
    pub(super) launch: Launch,
}

impl<'a> StepSampling<'a> {
    /// `vocabulary`: logits of a row, and changes that there is room for. `at_once`: rows that
    /// there is room for.
    pub(super) fn of(wanted: &'a [RowSampling<'a>], vocabulary: usize, at_once: usize) -> Self {
        let (mut rows, mut all) = (Vec::with_capacity(wanted.len()), Vec::new());
        let mut groups: Vec<Group> = Vec::new();
        for (index, row) in wanted.iter().enumerate() {
            let start = all.len();
            let sampling = describe(row, vocabulary, &mut all);
            let is_full = groups.last().is_none_or(|g| all.len() - g.changes.start > vocabulary);
            if is_full || index.is_multiple_of(at_once) {
                groups.push(Group { rows: index..index, changes: start..start });
            }
            if let Some(group) = groups.last_mut() {
                (group.rows.end, group.changes.end) = (index + 1, all.len());
                let first = group.changes.start;
                let changes = [start, all.len()].map(|place| (place - first) as u32);
                rows.push(DeviceSampling { changes, ..sampling });
            }
        }
        Self { wanted, rows, changes: all, groups, vocabulary, at_once }
    }

    /// Bytes that `write` may write.
    pub(super) fn bytes_max(rows: usize, vocabulary: usize) -> usize {
        rows * DeviceSampling::BYTES + vocabulary * TokenChange::BYTES
    }

    /// What the rows and the first group want.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        self.rows.iter().for_each(|row| bytes.extend_from_slice(&row.to_bytes()));
        self.groups.iter().take(1).for_each(|group| self.write_changes(group, bytes));
    }

    /// The groups, in order.
    pub(super) fn passes(
        &self,
        places: SamplingPlaces,
    ) -> impl Iterator<Item = Result<Pass, ShapeError>> {
        let changes = places.sampling.offset(self.rows.len() * DeviceSampling::BYTES);
        self.groups.iter().map(move |group| {
            let launch = self.launch(group, changes, places)?;
            let mut bytes = Vec::new();
            if group.rows.start > 0 {
                self.write_changes(group, &mut bytes);
            }
            Ok(Pass { first_row: group.rows.start, changes: (changes, bytes), launch })
        })
    }

    fn write_changes(&self, group: &Group, bytes: &mut Vec<u8>) {
        let changes = &self.changes[group.changes.clone()];
        changes.iter().for_each(|change| bytes.extend_from_slice(&change.to_bytes()));
    }

    fn launch(
        &self,
        group: &Group,
        changes: DevicePointer,
        places: SamplingPlaces,
    ) -> Result<Launch, ShapeError> {
        let (first, word, vocabulary) = (group.rows.start, size_of::<u32>(), self.vocabulary);
        let logits = first % self.at_once * vocabulary * word;
        let results = |place: usize| places.results.offset(place * word);
        let [tokens, logprobs, top_tokens, top_logprobs] = self.result_places();
        sample_launch(&SampleTask {
            rows: group.rows.len(),
            vocabulary,
            logits: places.logits.offset(logits),
            sampling: places.sampling.offset(first * DeviceSampling::BYTES),
            changes,
            saved: places.saved,
            tokens: results(tokens + first),
            logprobs: results(logprobs + first),
            top_tokens: results(top_tokens + first * TOP),
            top_logprobs: results(top_logprobs + first * TOP),
        })
    }

    /// Where among the results tokens, log-probabilities, and those of the likeliest begin.
    fn result_places(&self) -> [usize; 4] {
        let rows = self.rows.len();
        [0, rows, 2 * rows, (2 + TOP) * rows]
    }

    /// Words of the results that are worth reading.
    pub(super) fn result_words(&self) -> usize {
        let most = self.rows.iter().filter_map(|row| row.logprobs).max();
        let words = match most {
            None => 1,
            Some(0) => 2,
            Some(_) => RESULT_WORDS,
        };
        words * self.rows.len()
    }

    /// What came of the rows.
    pub(super) fn read(&self, words: &[u32]) -> Vec<SampledRow> {
        let rows = self.wanted.iter().enumerate();
        rows.map(|(row, wanted)| self.read_row(row, wanted.0, words)).collect()
    }

    fn read_row(&self, row: usize, wanted: Wanted<'_>, words: &[u32]) -> SampledRow {
        let [tokens, logprobs, top_tokens, top_logprobs] = self.result_places();
        let found = Some(words[tokens + row]).filter(|token| *token != NO_TOKEN);
        let logprob = |place: usize| f32::from_bits(words[place]);
        let (token, top) = match wanted {
            Wanted::Nothing => return SampledRow::default(),
            Wanted::Known { token, top } => (Some(token), Some(top)),
            Wanted::Next(next) => (found, next.logprobs),
        };
        let logprobs = token.zip(top).map(|(token, top)| {
            let ranks = (0..top as usize).map(|rank| row * TOP + rank);
            let likeliest = ranks
                .map(|rank| (words[top_tokens + rank], logprob(top_logprobs + rank)))
                .take_while(|(token, _)| *token != NO_TOKEN);
            // A known token whose logit is no number above minus infinity could not be found.
            let is_found = found == Some(token);
            let logprob = if is_found { logprob(logprobs + row) } else { f32::NEG_INFINITY };
            TokenLogprobs { logprob, top: likeliest.collect() }
        });
        SampledRow { token, logprobs }
    }
}

/// A row's sampling but for the place of its changes, which are added to `all`.
fn describe(
    row: &RowSampling<'_>,
    vocabulary: usize,
    all: &mut Vec<TokenChange>,
) -> DeviceSampling {
    let next = match row.0 {
        Wanted::Nothing => return DeviceSampling::GREEDY,
        Wanted::Known { token, top } => {
            // Log-probabilities are of what the row was, so this token may be made the likeliest.
            all.push(TokenChange { token, bias: f32::INFINITY, ..TokenChange::default() });
            return DeviceSampling { logprobs: Some(top), ..DeviceSampling::GREEDY };
        }
        Wanted::Next(next) => next,
    };
    changes(&next, vocabulary, all);
    let NextToken { sampling, draw, logprobs, .. } = next;
    DeviceSampling {
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        top_k: u32::try_from(sampling.top_k).unwrap_or(0),
        repetition_penalty: sampling.repetition_penalty,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        logprobs,
        random: draw.random_units(sampling.seed),
        changes: [0, 0],
    }
}
