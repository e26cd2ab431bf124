//! Which part of a model one rank holds.
//!
//! ```text
//!              tensor rank 0   tensor rank 1
//! stage 0         rank 0          rank 1        layers 0..12: embeds
//! stage 1         rank 2          rank 3        layers 12..24: makes logits
//! ```
//!
//! Heads are shared evenly. The feed-forward block and the vocabulary are shared in pieces that the
//! weights' format and the kernels' layout leave whole, so ranks may differ by one piece.

use std::ops::Range;

use naru_kernels::Stretches;
use thiserror::Error;

use super::load::Source;
use crate::config::ModelConfig;
use crate::model::ModelFiles;

/// Ranks of a replica: more than any rack holds, and few enough for every table of them.
const RANKS_MAX: usize = 1024;
/// Rows that the kernels lay out together: a part of whole panels wastes nothing.
const PANEL_ROWS: usize = 16;
/// Up to so many tensor ranks add to the bits of one rank: a machine's devices. More would ask for
/// shorter stretches, which cost every rank, and the one, time.
const EXACT_RANKS_MAX: usize = 8;
/// As short as a stretch of feed-forward columns may be, or of a narrow model a 16th of them.
const STRETCH_COLUMNS_MIN: usize = 256;
/// Columns that quantised activations have one scale for.
const SCALE_COLUMNS: usize = 32;

/// How the ranks of a replica stand: `tensor` of them share each layer, `pipeline` such stages
/// follow each other. Ranks are counted stage by stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parallelism {
    tensor: usize,
    pipeline: usize,
}

impl Parallelism {
    /// One rank.
    pub const ONE: Self = Self { tensor: 1, pipeline: 1 };

    /// `tensor` ranks in each of `pipeline` stages. Errors: none of one, or too many in all.
    pub fn new(tensor: usize, pipeline: usize) -> Result<Self, ShardError> {
        let ranks = tensor.checked_mul(pipeline).filter(|ranks| (1..=RANKS_MAX).contains(ranks));
        ranks.map(|_| Self { tensor, pipeline }).ok_or(ShardError::Ranks { tensor, pipeline })
    }

    /// Ranks of a stage.
    pub fn tensor(&self) -> usize {
        self.tensor
    }

    /// Stages.
    pub fn pipeline(&self) -> usize {
        self.pipeline
    }

    /// Ranks in all.
    pub fn ranks(&self) -> usize {
        self.tensor * self.pipeline
    }

    /// The stage of `rank`.
    pub fn stage(&self, rank: usize) -> usize {
        rank / self.tensor
    }

    /// The number of `rank` in its stage.
    pub fn tensor_rank(&self, rank: usize) -> usize {
        rank % self.tensor
    }

    /// The ranks of the stage that `rank` is in.
    pub fn stage_ranks(&self, rank: usize) -> Range<usize> {
        let first = self.stage(rank) * self.tensor;
        first..first + self.tensor
    }

    /// The ranks of the last stage, which make logits.
    pub fn last_stage_ranks(&self) -> Range<usize> {
        self.ranks() - self.tensor..self.ranks()
    }
}

/// The part of a model that one rank loads and computes: some layers, and in each of them its share
/// of the heads and of the feed-forward columns. The embedding table and the output head are cut by
/// rows of the vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    layers: Range<usize>,
    parallelism: Parallelism,
    rank: usize,
}

impl Shard {
    /// The whole model.
    pub fn whole(config: &ModelConfig) -> Self {
        Self { layers: 0..config.layers.len(), parallelism: Parallelism::ONE, rank: 0 }
    }

    /// The shard of `rank`; layers are spread evenly, earlier stages take one more where they do
    /// not divide. Errors: no such rank, or more stages than layers. What tensor ranks can share
    /// is told at load, when the weights' formats are known, or by [`Splits`].
    pub fn of(
        config: &ModelConfig,
        parallelism: Parallelism,
        rank: usize,
    ) -> Result<Self, ShardError> {
        let (ranks, stages) = (parallelism.ranks(), parallelism.pipeline());
        if rank >= ranks {
            return Err(ShardError::Rank { rank, ranks });
        }
        let layers = config.layers.len();
        if stages > layers {
            return Err(ShardError::Stages { stages, layers });
        }
        let layers = part(layers, 1, parallelism.stage(rank), stages);
        Ok(Self { layers, parallelism, rank })
    }

    /// Layers of the model.
    pub fn layers(&self) -> Range<usize> {
        self.layers.clone()
    }

    /// The ranks there are.
    pub fn parallelism(&self) -> Parallelism {
        self.parallelism
    }

    /// Which of them this is.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of this rank in its stage.
    pub fn tensor_rank(&self) -> usize {
        self.parallelism.tensor_rank(self.rank)
    }

    /// Whether this rank embeds tokens.
    pub fn is_first_stage(&self) -> bool {
        self.parallelism.stage(self.rank) == 0
    }

    /// Whether this rank makes logits.
    pub fn is_last_stage(&self) -> bool {
        self.parallelism.stage(self.rank) + 1 == self.parallelism.pipeline()
    }

    /// What this shard holds of a model. Errors: it cannot be cut so.
    pub(super) fn cut(&self, splits: &Splits) -> Result<Cut, ShardError> {
        splits.check(self.parallelism)?;
        let (ranks, rank) = (self.parallelism.tensor(), self.tensor_rank());
        let heads = part(splits.heads, 1, rank, ranks);
        let group = splits.heads / splits.kv_heads;
        let (head_stretch, width_stretch) = splits.stretches();
        let rows = |rank| part(splits.vocabulary, PANEL_ROWS, rank, ranks);
        Ok(Cut {
            kv_heads: heads.start / group..heads.end.div_ceil(group),
            heads,
            width: part(splits.width, splits.width_step, rank, ranks),
            vocabulary: rows(rank),
            vocabulary_parts: (0..ranks).map(rows).collect(),
            head_stretch,
            width_stretch,
        })
    }
}

/// What of each layer, and of the vocabulary, a rank holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Query heads.
    pub(super) heads: Range<usize>,
    /// Key-value heads; ranks hold the same one where there are fewer heads than ranks.
    pub(super) kv_heads: Range<usize>,
    /// Columns of the feed-forward block.
    pub(super) width: Range<usize>,
    /// Rows of the vocabulary, in the embedding table and in the output head.
    pub(super) vocabulary: Range<usize>,
    /// The same of each rank of the stage.
    pub(super) vocabulary_parts: Vec<Range<usize>>,
    /// As [`Splits::stretches`].
    head_stretch: usize,
    width_stretch: usize,
}

impl Cut {
    /// How the columns from `start` on of attention's output projection are summed, in whose format
    /// `block` values of a row belong together. Quantised activations of heads that share a scale
    /// are rounded otherwise on two ranks than on one, so nothing is kept apart for their sake.
    pub(super) fn head_stretches(&self, head_dim: usize, block: usize, start: usize) -> Stretches {
        let columns = self.head_stretch * head_dim;
        if block > 1 && !columns.is_multiple_of(SCALE_COLUMNS) {
            return Stretches::ONE;
        }
        Stretches { columns, skipped: start % columns }
    }

    /// How the columns of this rank's down projections are summed.
    pub(super) fn width_stretches(&self) -> Stretches {
        let columns = self.width_stretch;
        Stretches { columns, skipped: self.width.start % columns }
    }

    /// Rows of the vocabulary that `rank`, another one of a replica of `shard`, has.
    pub(super) fn vocabulary_part_of(&self, shard: &Shard, rank: usize) -> Range<usize> {
        self.vocabulary_parts[shard.parallelism.tensor_rank(rank)].clone()
    }
}

/// Into how many ranks a model can be cut, by its sizes and its weights' formats alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splits {
    layers: usize,
    heads: usize,
    kv_heads: usize,
    width: usize,
    width_step: usize,
    vocabulary: usize,
}

impl Splits {
    /// Of a checkpoint.
    pub fn of(files: &ModelFiles) -> Self {
        Source::of(files).splits()
    }

    /// Of a model whose down projections are stored in blocks of `down_block` values along a row;
    /// of floats that is 1.
    pub(super) fn new(config: &ModelConfig, down_block: usize) -> Self {
        Self {
            layers: config.layers.len(),
            heads: config.attention.heads,
            kv_heads: config.attention.kv_heads,
            width: config.feed_forward.width,
            width_step: down_block.max(PANEL_ROWS),
            vocabulary: config.vocabulary,
        }
    }

    /// Every number of tensor ranks that works, ascending; 1 always does.
    pub fn tensor(&self) -> Vec<usize> {
        (1..=self.heads.min(RANKS_MAX)).filter(|ranks| self.obstacle(*ranks).is_none()).collect()
    }

    /// The most stages.
    pub fn pipeline_max(&self) -> usize {
        self.layers
    }

    /// Whether the model can be cut so. Errors: what cannot be shared, and the splits that work.
    pub fn check(&self, parallelism: Parallelism) -> Result<(), ShardError> {
        let (ranks, stages) = (parallelism.tensor(), parallelism.pipeline());
        if stages > self.layers {
            return Err(ShardError::Stages { stages, layers: self.layers });
        }
        let refused = |(size, what)| ShardError::Tensor { ranks, size, what, works: self.tensor() };
        self.obstacle(ranks).map_or(Ok(()), |obstacle| Err(refused(obstacle)))
    }

    /// The most heads, and the most columns of the feed-forward block, that follow each other and
    /// are parted by no cut into a number of ranks that adds to the bits of one. A number that
    /// would leave too few columns is none of these.
    fn stretches(&self) -> (usize, usize) {
        let least = STRETCH_COLUMNS_MIN.min(self.width / 16);
        let mut kept = (self.heads, 0);
        for ranks in (2..=EXACT_RANKS_MAX).filter(|ranks| self.obstacle(*ranks).is_none()) {
            let cuts = (1..ranks).map(|rank| part(self.width, self.width_step, rank, ranks).start);
            let columns = cuts.fold(kept.1, greatest_common_divisor);
            if columns >= least {
                kept = (greatest_common_divisor(kept.0, self.heads / ranks), columns);
            }
        }
        if kept.1 == 0 { (self.heads, self.width) } else { kept }
    }

    /// What `ranks` tensor ranks cannot share: how many, of what.
    fn obstacle(&self, ranks: usize) -> Option<(usize, &'static str)> {
        let (heads, kv_heads) = (self.heads, self.kv_heads);
        if !heads.is_multiple_of(ranks) {
            return Some((heads, "query heads evenly"));
        }
        // A rank's query heads read whole key-value heads, or all of them one.
        let (held, group) = (heads / ranks, heads / kv_heads);
        if !held.is_multiple_of(group) && !group.is_multiple_of(held) {
            return Some((kv_heads, "key-value heads"));
        }
        let too_few = |size: usize, step: usize, what| {
            let pieces = size.div_ceil(step);
            (pieces < ranks).then_some((pieces, what))
        };
        too_few(self.width, self.width_step, "blocks of the feed-forward width")
            .or_else(|| too_few(self.vocabulary, PANEL_ROWS, "pieces of the vocabulary"))
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Part `index` of `size` things cut into `parts`, in pieces of `step` that stay whole; the last
/// piece may be short, and earlier parts have one piece more where they do not divide.
fn part(size: usize, step: usize, index: usize, parts: usize) -> Range<usize> {
    let pieces = size.div_ceil(step);
    let start = |index: usize| index * (pieces / parts) + index.min(pieces % parts);
    (start(index) * step).min(size)..(start(index + 1) * step).min(size)
}

/// A shard that a model cannot be cut into.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ShardError {
    /// No rank, or too many.
    #[error("tensor {tensor}, pipeline {pipeline}: each is at least 1, both together {RANKS_MAX}")]
    Ranks {
        /// Ranks of a stage.
        tensor: usize,
        /// Stages.
        pipeline: usize,
    },
    /// A rank that there is not.
    #[error("rank {rank} of {ranks}")]
    Rank {
        /// The rank asked for.
        rank: usize,
        /// Ranks there are.
        ranks: usize,
    },
    /// A stage would have no layer.
    #[error("pipeline {stages}: the model has {layers} layers; splits that work: 1 to {layers}")]
    Stages {
        /// Stages asked for.
        stages: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// Something that the ranks of a stage cannot share.
    #[error("tensor {ranks}: {ranks} ranks cannot share {size} {what}; {}", list(works))]
    Tensor {
        /// Ranks of a stage.
        ranks: usize,
        /// How much there is to be shared.
        size: usize,
        /// Of what.
        what: &'static str,
        /// Numbers of ranks that can share everything.
        works: Vec<usize>,
    },
}

fn list(works: &[usize]) -> String {
    let works: Vec<String> = works.iter().map(usize::to_string).collect();
    format!("splits that work: {}", works.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SmolLM2-135M in blocks of 32.
    const SMOLLM2: Splits = Splits {
        layers: 30,
        heads: 9,
        kv_heads: 3,
        width: 1536,
        width_step: 32,
        vocabulary: 49_152,
    };
    /// Qwen2.5-0.5B in K-quants.
    const QWEN: Splits = Splits {
        layers: 24,
        heads: 14,
        kv_heads: 2,
        width: 4864,
        width_step: 256,
        vocabulary: 151_936,
    };

    fn cut(splits: &Splits, tensor: usize, rank: usize) -> Cut {
        let parallelism = Parallelism::new(tensor, 1).unwrap();
        Shard { layers: 0..splits.layers, parallelism, rank }.cut(splits).unwrap()
    }

    #[test]
    fn splits_that_work_are_listed() {
        assert_eq!(SMOLLM2.tensor(), [1, 3, 9]);
        assert_eq!(QWEN.tensor(), [1, 2, 14]);
        let llama = Splits { heads: 32, kv_heads: 8, width: 14_336, ..QWEN };
        assert_eq!(llama.tensor(), [1, 2, 4, 8, 16, 32]);
        let narrow = Splits { width: 1024, ..llama };
        assert_eq!(narrow.tensor(), [1, 2, 4], "four blocks of 256");
        assert_eq!(QWEN.pipeline_max(), 24);
    }

    #[test]
    fn splits_that_cannot_be_are_refused_with_those_that_can() {
        let check = |splits: &Splits, (tensor, pipeline), expected: &str| {
            let error = splits.check(Parallelism::new(tensor, pipeline).unwrap()).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check(
            &SMOLLM2,
            (2, 1),
            "tensor 2: 2 ranks cannot share 9 query heads evenly; splits that work: 1, 3, 9",
        );
        check(
            &QWEN,
            (7, 1),
            "tensor 7: 7 ranks cannot share 2 key-value heads; splits that work: 1, 2, 14",
        );
        check(
            &Splits { heads: 32, kv_heads: 8, width: 1024, ..QWEN },
            (8, 1),
            "tensor 8: 8 ranks cannot share 4 blocks of the feed-forward width; \
             splits that work: 1, 2, 4",
        );
        check(&QWEN, (2, 25), "pipeline 25: the model has 24 layers; splits that work: 1 to 24");
        for (tensor, pipeline) in [(0, 1), (1, 0), (usize::MAX, 2), (33, 32)] {
            let error = Parallelism::new(tensor, pipeline).unwrap_err();
            assert_eq!(error, ShardError::Ranks { tensor, pipeline });
        }
    }

    #[test]
    fn nineteen_blocks_are_cut_ten_and_nine() {
        assert_eq!(cut(&QWEN, 2, 0).width, 0..2560);
        assert_eq!(cut(&QWEN, 2, 1).width, 2560..4864);
        assert_eq!(cut(&QWEN, 2, 1).heads, 7..14);
        assert_eq!(cut(&QWEN, 2, 1).kv_heads, 1..2);
        assert_eq!(cut(&QWEN, 14, 6).kv_heads, 0..1, "seven ranks hold the same head");
        assert_eq!(cut(&SMOLLM2, 9, 5).kv_heads, 1..2);
    }

    #[test]
    fn parts_are_everything_once_and_nearly_equal() {
        for splits in [SMOLLM2, QWEN, Splits { width: 4870, vocabulary: 51_203, ..SMOLLM2 }] {
            for ranks in splits.tensor() {
                let cuts: Vec<Cut> = (0..ranks).map(|rank| cut(&splits, ranks, rank)).collect();
                let check = |of: &dyn Fn(&Cut) -> Range<usize>, size: usize, step: usize| {
                    let parts: Vec<Range<usize>> = cuts.iter().map(of).collect();
                    assert_eq!((parts[0].start, parts[ranks - 1].end), (0, size));
                    assert!(parts.windows(2).all(|two| two[0].end == two[1].start));
                    assert!(parts[1..].iter().all(|part| part.start.is_multiple_of(step)));
                    let lengths = || parts.iter().map(ExactSizeIterator::len);
                    let (least, most) = (lengths().min().unwrap(), lengths().max().unwrap());
                    // One piece more or less, and the last piece may be short.
                    assert!(least > 0 && most - least < 2 * step);
                };
                check(&|cut| cut.heads.clone(), splits.heads, 1);
                check(&|cut| cut.width.clone(), splits.width, splits.width_step);
                check(&|cut| cut.vocabulary.clone(), splits.vocabulary, PANEL_ROWS);
                for (rank, cut) in cuts.iter().enumerate() {
                    assert_eq!(cut.vocabulary_parts[rank], cut.vocabulary);
                    let group = splits.heads / splits.kv_heads;
                    let reads = |head: usize| cut.kv_heads.contains(&(head / group));
                    assert!(cut.heads.clone().all(reads), "a head's keys are elsewhere");
                }
            }
        }
    }

    #[test]
    fn stretches_end_wherever_up_to_eight_ranks_cut() {
        let check = |splits: &Splits, heads, width| {
            assert_eq!(splits.stretches(), (heads, width));
        };
        check(&SMOLLM2, 3, 512);
        check(&QWEN, 7, 2560);
        let llama = Splits { heads: 32, kv_heads: 8, width: 14_336, ..QWEN };
        check(&llama, 4, 1792);
        check(&Splits { width: 11_008, ..llama }, 4, 256);
        // Qwen2.5-1.5B: six ranks would leave 32 columns, of K-quants 768.
        let other = Splits { heads: 12, kv_heads: 2, width: 8960, width_step: 32, ..QWEN };
        check(&other, 3, 2240);
        check(&Splits { width_step: 256, ..other }, 1, 768);
        check(&Splits { heads: 7, kv_heads: 1, ..QWEN }, 1, 256);
        check(&Splits { heads: 11, kv_heads: 11, ..QWEN }, 11, 4864);
        let of_second = cut(&QWEN, 2, 1);
        assert_eq!(of_second.width_stretches(), Stretches { columns: 2560, skipped: 0 });
        let stretches = of_second.head_stretches(64, 256, 256);
        assert_eq!(stretches, Stretches { columns: 448, skipped: 256 });
        assert_eq!(of_second.head_stretches(24, 32, 0), Stretches::ONE, "168 columns");
    }

    #[test]
    fn stages_are_in_a_line() {
        let parallelism = Parallelism::new(2, 3).unwrap();
        assert_eq!(parallelism.ranks(), 6);
        assert_eq!((parallelism.stage(3), parallelism.tensor_rank(3)), (1, 1));
        assert_eq!(parallelism.stage_ranks(3), 2..4);
        assert_eq!(parallelism.last_stage_ranks(), 4..6);
    }
}
