// Sampling: a token of each row of logits, after bias, penalties, masks, temperature, min_p, top_k
// and top_p, in this order; and log-probabilities of the row as it was.
//
// logits [rows, vocabulary] in f32; one block of threads per row. Parameters [rows]; changes, of
// which each row names a stretch whose tokens all differ; saved, a float for each change, is memory
// to work in. tokens, logprobs [rows]; top_tokens, top_logprobs [rows, kTop].
//
// Nothing is sorted. Tokens are put in order by a code, the likelier and of equals the lower id
// first, and everything is one question: which is the last token of the fewest, in this order, that
// measure at least so much together? top_k asks it with a measure of 1, top_p with weights, and the
// draw with weights and a random amount. The answer is found 11 bits of the code at a time, from a
// histogram of measures. Weights are whole numbers, so sums do not depend on the order of
// additions: a row gives the same token whatever the threads do.
//
// A row is read once for its maximum, once to measure how far down the answer must lie (a survey),
// and once to gather the tokens down to there; the rest concerns these few alone. Only if they are
// too many is the row read again for every 11 bits.
// Bytes: 3 * 4 a logit at least, mostly from L2. Limited by instructions: about 40 a logit.
// Source of radix selection: Alabi et al., "Fast k-Selection Algorithms for Graphics Processing
// Units" (2012).
#include "row.cuh"

namespace naru {

constexpr unsigned kTop = 20;
constexpr unsigned kBinBits = 11;
constexpr unsigned kBins = 1u << kBinBits;
constexpr unsigned kGatheredMax = 3072;
constexpr float kTemperatureGreedy = 1e-5f;
constexpr float kLog2E = 1.44269504f;
// The weight of the likeliest token: 2^19 of them still fit into 64 bits.
constexpr float kWeightMax = 17592186044416.0f;  // 2^44
constexpr u64 kAll = ~0ull;
// Distances from the likeliest, in halvings of the weight, that a survey measures; then everything.
constexpr unsigned kDistances = 4;
constexpr float kFarthest = 18.0f;

__device__ __forceinline__ float distance_limit(unsigned i) {
  return i == 0 ? 3.0f : i == 1 ? 6.0f : i == 2 ? 10.0f : kFarthest;
}

// As DeviceSampling.
struct Parameters {
  float temperature, top_p, min_p;
  unsigned top_k;
  float repetition_penalty, presence_penalty, frequency_penalty;
  // 0: none; 1: of the token; 1 + n: of the n likeliest too.
  unsigned logprobs;
  // A uniform number in [0, 1) in units of 2^-53.
  u64 random;
  unsigned first_change, end_change;
};

// As TokenChange.
struct Change {
  enum Flag : unsigned { kIsInPrompt = 1, kIsMasked = 2 };

  unsigned token;
  // Occurrences in the output.
  unsigned count;
  unsigned flags;
  float bias;

  __device__ __forceinline__ float apply(float logit, const Parameters& row) const {
    logit += bias;
    if (row.repetition_penalty != 1.0f && (flags & kIsInPrompt || count > 0)) {
      logit = logit > 0.0f ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    }
    if (count > 0) logit -= row.frequency_penalty * count + row.presence_penalty;
    return flags & kIsMasked ? -infinity() : logit;
  }
};

struct Shared {
  // Whole numbers of 64 bits in two words, which atomics add to faster than to one.
  unsigned low[kBins], high[kBins];
  u64 gathered[kGatheredMax];
  u64 scratch[kWarp];
  u64 left, of_bin;
  unsigned bin, gathered_count, gathered_range, top_count;

  __device__ __forceinline__ void clear(unsigned bins) {
    for (unsigned i = threadIdx.x; i < bins; i += blockDim.x) low[i] = high[i] = 0;
    __syncthreads();
  }

  __device__ __forceinline__ void add(unsigned at, u64 x) {
    const unsigned part = static_cast<unsigned>(x), before = atomicAdd(&low[at], part);
    const unsigned rest = static_cast<unsigned>(x >> 32) + (before + part < before);
    if (rest != 0) atomicAdd(&high[at], rest);
  }

  __device__ __forceinline__ u64 sum(unsigned at) const {
    return static_cast<u64>(high[at]) << 32 | low[at];
  }
};

// What tokens weigh.
struct Weigh {
  unsigned max_key;
  float max;
  // Halvings of the weight for each unit of the logit.
  float scale;
  // Logits below it are not there.
  float floor;

  __device__ Weigh(unsigned max_key, float temperature, float min_p) : max_key(max_key) {
    max = logit_of(max_key);
    scale = kLog2E / temperature;
    // Minus infinity is never there.
    floor = fmaxf(max + logf(min_p) * temperature, -3.4028235e38f);
  }

  __device__ __forceinline__ float distance(float logit) const { return (max - logit) * scale; }

  __device__ __forceinline__ u64 weight(float distance) const {
    return static_cast<u64>(exp2f(-distance) * kWeightMax);
  }

  // Ascends from the likeliest token on, of equals with the id.
  __device__ __forceinline__ u64 code(unsigned token, float logit) const {
    return static_cast<u64>(max_key - key_of(logit)) << 32 | token;
  }

  __device__ __forceinline__ float logit(u64 code) const {
    return logit_of(max_key - static_cast<unsigned>(code >> 32));
  }

  // What the token of a code measures if it is not after `last`.
  __device__ __forceinline__ u64 measure(u64 code, u64 last, bool is_count) const {
    const float x = logit(code);
    if (!(x >= floor) || code > last) return 0;
    return is_count ? 1 : weight(distance(x));
  }
};

// What tokens measure together, by their distance from the likeliest, and all of them.
struct Survey {
  u64 within[kDistances], all;
};

__device__ __forceinline__ u64 block_sum(u64 x, Shared& shared) {
  for (unsigned step = kWarp / 2; step > 0; step /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, step);
  }
  shared.clear(1);
  if (threadIdx.x % kWarp == 0) shared.add(0, x);
  __syncthreads();
  x = shared.sum(0);
  __syncthreads();
  return x;
}

__device__ __forceinline__ Survey survey(const Row& row, const Weigh& weigh, bool is_count,
                                         Shared& shared) {
  Survey of = {};
  row.for_each([&](unsigned, float logit) {
    if (!(logit >= weigh.floor)) return;
    const float distance = weigh.distance(logit);
    const u64 measure = is_count ? 1 : weigh.weight(distance);
    of.all += measure;
    if (distance > kFarthest) return;
#pragma unroll
    for (unsigned i = 0; i < kDistances; i++) {
      if (distance <= distance_limit(i)) of.within[i] += measure;
    }
  });
#pragma unroll
  for (unsigned i = 0; i < kDistances; i++) of.within[i] = block_sum(of.within[i], shared);
  of.all = block_sum(of.all, shared);
  return of;
}

// The tokens that are still asked about: those gathered, or the row.
struct Tokens {
  Row row;
  Weigh weigh;
  bool are_gathered;
  // Bits of the codes' keys and ids.
  unsigned key_bits, id_bits;

  // Gathers the tokens down to the nearest distance within which `amount` lies, if they fit.
  __device__ __forceinline__ Tokens(const Row& row, const Weigh& weigh, const Survey& survey,
                                    u64 amount, Shared& shared)
      : row(row), weigh(weigh), are_gathered(false), key_bits(32) {
    id_bits = 32 - __clz(row.count);
    float limit = 0.0f;
#pragma unroll
    for (unsigned i = 0; i < kDistances; i++) {
      if (limit == 0.0f && survey.within[i] >= amount) limit = distance_limit(i);
    }
    if (limit == 0.0f) return;
    if (threadIdx.x == 0) shared.gathered_count = shared.gathered_range = 0;
    __syncthreads();
    row.for_each([&](unsigned token, float logit) {
      if (!(logit >= weigh.floor && weigh.distance(logit) <= limit)) return;
      const unsigned at = atomicAdd(&shared.gathered_count, 1u);
      if (at >= kGatheredMax) return;
      const u64 code = weigh.code(token, logit);
      shared.gathered[at] = code;
      atomicMax(&shared.gathered_range, static_cast<unsigned>(code >> 32));
    });
    __syncthreads();
    if (shared.gathered_count > kGatheredMax) return;
    are_gathered = true;
    key_bits = 32 - __clz(shared.gathered_range);
  }

  template <typename Each>
  __device__ __forceinline__ void for_each(const Shared& shared, Each each) const {
    if (are_gathered) {
      for (unsigned i = threadIdx.x; i < shared.gathered_count; i += blockDim.x) {
        each(shared.gathered[i]);
      }
    } else {
      row.for_each([&](unsigned token, float logit) { each(weigh.code(token, logit)); });
    }
  }

  // The weight of the tokens up to `last`.
  __device__ __forceinline__ u64 mass(u64 last, Shared& shared) const {
    u64 sum = 0;
    for_each(shared, [&](u64 code) { sum += weigh.measure(code, last, false); });
    return block_sum(sum, shared);
  }

  // The code of the last of the fewest tokens that measure at least `amount` together, at least 1
  // and at most what all tokens up to `last` do. A count may give a greater code that no token
  // up to the next one has.
  __device__ __forceinline__ u64 cut(u64 amount, u64 last, bool is_count, Shared& shared) const {
    u64 left = amount - 1, found = 0;
    unsigned end = 32 + key_bits;
    // Ids matter only where logits are equal.
    if (end == 32) end = id_bits;
    for (;;) {
      const unsigned least = end > 32 ? 32 : 0;
      const unsigned start = end > least + kBinBits ? end - kBinBits : least;
      shared.clear(kBins);
      for_each(shared, [&](u64 code) {
        const u64 bin = (code ^ found) >> start;
        if (bin >> (end - start) != 0) return;
        const u64 measure = weigh.measure(code, last, is_count);
        if (measure != 0) shared.add(static_cast<unsigned>(bin), measure);
      });
      __syncthreads();
      find_bin(left, shared);
      left = shared.left;
      found |= static_cast<u64>(shared.bin) << start;
      const bool is_whole = left + 1 == shared.of_bin;
      __syncthreads();
      if (is_whole && is_count) return found | ((1ull << start) - 1);
      if (start == 0) return found;
      end = start == 32 ? id_bits : start;
    }
  }

  // Puts down the bin that `left` lies in, what is left of it there, and what the bin has.
  static __device__ __forceinline__ void find_bin(u64 left, Shared& shared) {
    const unsigned each = kBins / blockDim.x, first = threadIdx.x * each;
    const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    u64 mine = 0;
    for (unsigned i = 0; i < each; i++) mine += shared.sum(first + i);
    u64 before = mine;
    for (unsigned step = 1; step < kWarp; step *= 2) {
      const u64 other = __shfl_up_sync(kAllLanes, before, step);
      if (lane >= step) before += other;
    }
    if (lane == kWarp - 1) shared.scratch[warp] = before;
    __syncthreads();
    before -= mine;
    for (unsigned i = 0; i < warp; i++) before += shared.scratch[i];
    if (left >= before && left - before < mine) {
      left -= before;
      unsigned bin = first;
      for (; left >= shared.sum(bin); bin++) left -= shared.sum(bin);
      shared.bin = bin;
      shared.left = left;
      shared.of_bin = shared.sum(bin);
    }
    __syncthreads();
  }
};

// A token of a row whose greatest logit is `best`'s.
__device__ __forceinline__ unsigned choose(const Row& row, u64 best, const Parameters& parameters,
                                           Shared& shared) {
  const Parameters& p = parameters;
  const bool is_greedy = p.temperature < kTemperatureGreedy || p.top_k == 1;
  if (is_greedy || key_in(best) == 0 || logit_of(key_in(best)) == infinity()) {
    return token_in(best);
  }
  const Weigh weigh(key_in(best), p.temperature, p.min_p);
  const bool has_top_k = p.top_k > 0 && p.top_k < row.count, has_top_p = p.top_p < 1.0f;
  const Survey of = survey(row, weigh, has_top_k, shared);
  const auto share = [&](u64 mass) {
    const u64 amount = static_cast<u64>(ceil(static_cast<double>(mass) * p.top_p));
    return amount > 1 ? amount : 1;
  };
  const auto drawn = [&](u64 mass) { return __umul64hi(mass, p.random << 11) + 1; };
  // What the first cut asks for.
  const u64 amount = has_top_k ? (p.top_k < of.all ? p.top_k : of.all)
                     : has_top_p ? share(of.all)
                                 : drawn(of.all);
  const Tokens tokens(row, weigh, of, amount, shared);
  u64 last = kAll, mass = of.all;
  if (has_top_k) {
    last = tokens.cut(amount, last, true, shared);
    mass = tokens.mass(last, shared);
  }
  if (has_top_p) {
    last = tokens.cut(share(mass), last, false, shared);
    mass = tokens.mass(last, shared);
  }
  return static_cast<unsigned>(tokens.cut(drawn(mass), last, false, shared));
}

// Log-probabilities of a row.
struct Logprobs {
  float max, log_mass;

  __device__ __forceinline__ float operator()(float logit) const { return logit - max - log_mass; }
};

// Of the row whose greatest logit is `best`'s; the likeliest are written down.
__device__ __forceinline__ Logprobs likeliest_logprobs(const Row& row, u64 best, unsigned count,
                                                       unsigned* tokens, float* logprobs,
                                                       Shared& shared) {
  const Weigh weigh(key_in(best), 1.0f, 0.0f);
  const u64 mass = survey(row, weigh, false, shared).all;
  const Logprobs logprob = {weigh.max, logf(static_cast<float>(mass) / kWeightMax)};
  if (count == 0) return logprob;
  const Survey of = survey(row, weigh, true, shared);
  count = count < kTop ? count : kTop;
  const u64 amount = count < of.all ? count : of.all;
  if (threadIdx.x < kTop) {
    tokens[threadIdx.x] = kNoToken;
    logprobs[threadIdx.x] = -infinity();
  }
  if (amount == 0) return logprob;
  const Tokens all(row, weigh, of, amount, shared);
  const u64 last = all.cut(amount, kAll, true, shared);
  if (threadIdx.x == 0) shared.top_count = 0;
  __syncthreads();
  // At most kTop of them, whose place in the scratch does not matter.
  all.for_each(shared, [&](u64 code) {
    if (weigh.measure(code, last, true)) shared.scratch[atomicAdd(&shared.top_count, 1u)] = code;
  });
  __syncthreads();
  if (threadIdx.x < amount) {
    const u64 code = shared.scratch[threadIdx.x];
    unsigned rank = 0;
    for (unsigned i = 0; i < amount; i++) rank += shared.scratch[i] < code;
    tokens[rank] = static_cast<unsigned>(code);
    logprobs[rank] = logprob(weigh.logit(code));
  }
  __syncthreads();
  return logprob;
}

// What a row changes: where it lies, and in the end it is made again what it was.
struct Changes {
  const Change* changes;
  float* saved;
  unsigned first, end;

  __device__ __forceinline__ void apply(const Row& row, const Parameters& parameters) const {
    for (unsigned i = first + threadIdx.x; i < end; i += blockDim.x) {
      const Change change = changes[i];
      if (change.token >= row.count) continue;
      saved[i] = row.logits[change.token];
      row.logits[change.token] = change.apply(saved[i], parameters);
    }
    __syncthreads();
  }

  __device__ __forceinline__ void undo(const Row& row) const {
    __syncthreads();
    for (unsigned i = first + threadIdx.x; i < end; i += blockDim.x) {
      if (changes[i].token < row.count) row.logits[changes[i].token] = saved[i];
    }
    __syncthreads();
  }
};

}  // namespace naru

extern "C" __global__ void __launch_bounds__(1024)
    sample(float* logits, unsigned vocabulary, const naru::Parameters* parameters,
           const naru::Change* changes, float* saved, unsigned* tokens, float* logprobs,
           unsigned* top_tokens, float* top_logprobs) {
  using namespace naru;
  __shared__ Shared shared;
  const size_t index = blockIdx.x;
  const Row row = {logits + index * vocabulary, vocabulary};
  const Parameters p = parameters[index];
  const Changes of_row = {changes, saved, p.first_change, p.end_change};
  u64 best = likeliest(row, shared.scratch);
  Logprobs logprob = {};
  if (p.logprobs > 0) {
    logprob = likeliest_logprobs(row, best, p.logprobs - 1, top_tokens + index * kTop,
                                 top_logprobs + index * kTop, shared);
  }
  if (p.first_change < p.end_change) {
    of_row.apply(row, p);
    best = likeliest(row, shared.scratch);
  }
  const unsigned token = choose(row, best, p, shared);
  of_row.undo(row);
  if (threadIdx.x != 0) return;
  tokens[index] = token;
  if (p.logprobs > 0) {
    logprobs[index] = token == kNoToken ? -infinity() : logprob(row.logits[token]);
  }
}
NARU_KERNEL(sample)
