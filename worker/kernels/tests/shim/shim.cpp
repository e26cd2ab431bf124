// The fibers of the shim, and the number formats that the host has no instruction for.
#include "shim.hpp"

#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <memory>
#include <vector>

namespace shim {

uint3 thread_index, block_index, block_size, grid_size;

namespace {

constexpr std::size_t kStackBytes = 128 << 10;
constexpr std::size_t kPageBytes = 4096;
constexpr unsigned kThreadsMax = 1024;

enum class Wait { Nothing, Barrier, Exchange, Ended };

struct Fiber {
  ucontext_t context;
  uint3 index;
  Wait wait;
  int line;
  unsigned mask;
  // What it put down in an exchange.
  uint64_t put;
  // What the lanes of its exchange put down, once all have.
  uint64_t seen[32];
};

struct Warp {
  Fiber* lanes;
  unsigned size;
};

struct Launch {
  Body body;
  const void* kernel;
  void** arguments;
};

std::vector<Fiber> fibers(kThreadsMax);
unsigned char* stacks = nullptr;
std::vector<unsigned char> shared;
ucontext_t scheduler;
Fiber* running = nullptr;
Launch current;
char message[256];

void enter() {
  current.body(current.kernel, current.arguments);
  running->wait = Wait::Ended;
  swapcontext(&running->context, &scheduler);
}

void begin(Fiber& fiber, unsigned place) {
  if (stacks == nullptr) {
    const std::size_t bytes = kThreadsMax * kStackBytes;
    stacks = static_cast<unsigned char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    // A stack that is too small is a fault, not another fiber's data.
    for (unsigned i = 0; i < kThreadsMax; i++) mprotect(stacks + i * kStackBytes, kPageBytes, 0);
  }
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stacks + place * kStackBytes;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, enter, 0);
  const unsigned x = block_size.x, y = block_size.y;
  fiber.index = {place % x, place / x % y, place / (x * y)};
  fiber.wait = Wait::Nothing;
}

void wait(Wait what, int line) {
  running->wait = what;
  running->line = line;
  swapcontext(&running->context, &scheduler);
}

// Lets go the lanes of an exchange that all have come to. Returns whether any were.
bool complete_exchanges(Warp warp) {
  bool any = false;
  for (unsigned i = 0; i < warp.size; i++) {
    Fiber& fiber = warp.lanes[i];
    if (fiber.wait != Wait::Exchange) continue;
    bool all = true;
    for (unsigned lane = 0; lane < warp.size; lane++) {
      const Fiber& other = warp.lanes[lane];
      const bool is_asked = fiber.mask >> lane & 1;
      const bool is_here = other.wait == Wait::Exchange && other.mask == fiber.mask &&
                           other.line == fiber.line;
      all = all && (!is_asked || is_here);
    }
    if (!all) continue;
    const unsigned mask = fiber.mask;
    uint64_t seen[32] = {};
    for (unsigned lane = 0; lane < warp.size; lane++) {
      if (mask >> lane & 1) seen[lane] = warp.lanes[lane].put;
    }
    for (unsigned lane = 0; lane < warp.size; lane++) {
      if (!(mask >> lane & 1)) continue;
      std::memcpy(warp.lanes[lane].seen, seen, sizeof(seen));
      warp.lanes[lane].wait = Wait::Nothing;
    }
    any = true;
  }
  return any;
}

// Lets go a block whose threads all wait at one barrier. Returns whether they did.
bool complete_barrier(unsigned threads) {
  const Fiber* first = nullptr;
  for (unsigned i = 0; i < threads; i++) {
    if (fibers[i].wait == Wait::Ended) continue;
    if (fibers[i].wait != Wait::Barrier) return false;
    if (first == nullptr) first = &fibers[i];
    if (fibers[i].line != first->line) return false;
  }
  if (first == nullptr) return false;
  for (unsigned i = 0; i < threads; i++) {
    if (fibers[i].wait == Wait::Barrier) fibers[i].wait = Wait::Nothing;
  }
  return true;
}

const char* stuck(unsigned threads) {
  for (unsigned i = 0; i < threads; i++) {
    const Fiber& fiber = fibers[i];
    if (fiber.wait == Wait::Ended) continue;
    const char* what = fiber.wait == Wait::Barrier ? "barrier" : "exchange";
    std::snprintf(message, sizeof(message),
                  "block (%u, %u, %u): thread %u waits for ever in the %s of line %d, mask %08x",
                  block_index.x, block_index.y, block_index.z, i, what, fiber.line, fiber.mask);
    return message;
  }
  return nullptr;
}

const char* run_block(unsigned threads) {
  for (unsigned i = 0; i < threads; i++) begin(fibers[i], i);
  for (;;) {
    bool any = false;
    for (unsigned i = 0; i < threads; i++) {
      if (fibers[i].wait != Wait::Nothing) continue;
      any = true;
      running = &fibers[i];
      thread_index = running->index;
      swapcontext(&scheduler, &running->context);
    }
    for (unsigned first = 0; first < threads; first += 32) {
      const unsigned size = threads - first < 32 ? threads - first : 32;
      any = complete_exchanges({&fibers[first], size}) || any;
    }
    if (!any && !complete_barrier(threads)) return stuck(threads);
  }
}

}  // namespace

unsigned char* dynamic_shared() {
  const auto start = reinterpret_cast<std::uintptr_t>(shared.data());
  return shared.data() + (16 - start % 16) % 16;
}

void block_barrier(int line) { wait(Wait::Barrier, line); }

const uint64_t* exchange(unsigned mask, uint64_t bits, int line) {
  running->mask = mask;
  running->put = bits;
  wait(Wait::Exchange, line);
  return running->seen;
}

const char* run(Body body, const void* kernel, const unsigned* grid, const unsigned* block,
                unsigned shared_bytes, void** arguments) {
  const unsigned threads = block[0] * block[1] * block[2];
  if (threads == 0 || threads > kThreadsMax) return "a block has 1 to 1024 threads";
  if (shared_bytes > 227u << 10) return "a block has at most 227 KiB of shared memory";
  current = {body, kernel, arguments};
  block_size = {block[0], block[1], block[2]};
  grid_size = {grid[0], grid[1], grid[2]};
  for (unsigned z = 0; z < grid[2]; z++) {
    for (unsigned y = 0; y < grid[1]; y++) {
      for (unsigned x = 0; x < grid[0]; x++) {
        block_index = {x, y, z};
        shared.assign(shared_bytes + 16, 0xff);
        if (const char* error = run_block(threads)) return error;
      }
    }
  }
  return nullptr;
}

float half_to_float(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float size;
  if (exponent == 31) {
    size = fraction ? NAN : INFINITY;
  } else {
    size = exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp(fraction, -24);
  }
  return std::copysign(size, bits & 0x8000 ? -1.0f : 1.0f);
}

uint16_t float_to_half(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float size = std::fabs(x);
  if (size == 0.0f) return sign;
  if (std::isnan(x)) return sign | 0x7e00;
  if (size >= 65520.0f) return sign | 0x7c00;
  int exponent;
  std::frexp(size, &exponent);
  // The unit of the last place; rounding to nearest is the host's own.
  const int unit = exponent - 11 < -24 ? -24 : exponent - 11;
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(size, -unit)));
  // A carry out of the fraction goes into the exponent by itself.
  return sign | static_cast<uint16_t>((unit + 24) * 1024 + steps);
}

uint16_t float_to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (std::isnan(x)) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace shim
