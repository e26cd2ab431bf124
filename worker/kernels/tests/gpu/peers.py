"""The same ops in PyTorch, timed as ours are, and what the device can do at best.

peers.py KERNELS.json OUT.json
"""

import json
import re
import statistics
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

FLUSH_BYTES = 256 << 20
BF16 = {"dtype": torch.bfloat16, "device": "cuda"}


def seconds(work: Callable[[], object], rounds: int = 15) -> float:
    """The median of single runs, the second-level cache flushed before each."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    for _ in range(3):
        work()
    found = []
    for _ in range(rounds):
        flush.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / 1000)
    return statistics.median(found)


def ceilings() -> dict[str, float]:
    """A large copy, bytes read and written; a large product of random matrices."""
    source = torch.empty(4 << 30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * source.numel() / seconds(lambda: target.copy_(source)) / 1e9
    del source, target
    a, b = (torch.randn(8192, 8192, **BF16) for _ in range(2))
    product = 2 * 8192**3 / seconds(lambda: a @ b) / 1e12
    return {"copy_gigabytes_per_second": copy, "matmul_teraflop_per_second": product}


def linear(case: str) -> tuple[str, Callable[[], object]] | None:
    tokens, columns, rows = map(int, re.search(r"(\d+)x(\d+)->(\d+)", case).groups())
    x, w = torch.randn(tokens, columns, **BF16), torch.randn(rows, columns, **BF16)
    return "F.linear of bf16 weights", lambda: F.linear(x, w)


def embed(case: str) -> tuple[str, Callable[[], object]] | None:
    rows, columns = map(int, re.search(r"(\d+)x(\d+)", case).groups())
    table, tokens = torch.randn(128256, columns, **BF16), torch.randint(128256, (rows,), device="cuda")
    return "F.embedding of bf16, to float", lambda: F.embedding(tokens, table).float()


def gate(case: str) -> tuple[str, Callable[[], object]] | None:
    rows, width = map(int, re.search(r"(\d+)x(\d+)", case).groups())
    x = torch.randn(rows, 2 * width, **BF16)
    return "F.silu(gate) * up", lambda: F.silu(x[:, :width]) * x[:, width:]


def norm(case: str) -> tuple[str, Callable[[], object]] | None:
    rows, width = map(int, re.search(r"(\d+)x(\d+)", case).groups())
    stream, block = torch.randn(rows, width, device="cuda"), torch.randn(rows, width, **BF16)
    weight = torch.randn(width, device="cuda")

    def work() -> torch.Tensor:
        stream.add_(block)
        return F.rms_norm(stream, (width,), weight, 1e-5).to(torch.bfloat16)

    return "add_ and F.rms_norm", work


def attention(case: str) -> tuple[str, Callable[[], object]] | None:
    way, count, keys = re.search(r"(\w+) bf16 (\d+)x(\d+)", case).groups()
    count, keys = int(count), int(keys)
    queries = keys if way == "prefill" else 1
    q = torch.randn(count, 32, queries, 128, **BF16)
    k, v = (torch.randn(count, 8, keys, 128, **BF16) for _ in range(2))

    def work() -> torch.Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, is_causal=way == "prefill", enable_gqa=True)

    return "scaled_dot_product_attention, FlashAttention, keys not in pages", work


def sampling(case: str) -> tuple[str, Callable[[], object]] | None:
    rows, vocabulary = map(int, re.search(r"(\d+)x(\d+)", case).groups())
    x = torch.randn(rows, vocabulary, device="cuda")

    def top_p() -> torch.Tensor:
        ordered, index = torch.softmax(x, -1).sort(-1, descending=True)
        ordered[ordered.cumsum(-1) - ordered > 0.9] = 0
        return index.gather(-1, torch.multinomial(ordered, 1))

    if "top" in case:
        return "softmax, sort, cumsum, multinomial", top_p
    return "softmax and multinomial", lambda: torch.multinomial(torch.softmax(x, -1), 1)


PEERS = {"linear": linear, "embed": embed, "gate": gate, "norm": norm, "attention": attention, "sampling": sampling}


def main() -> None:
    timings = json.load(open(sys.argv[1], encoding="utf-8"))["timings"]
    out = {"torch": torch.__version__, "ceilings": ceilings(), "peers": []}
    for timing in timings:
        make = PEERS.get(timing["op"])
        try:
            peer = make(timing["case"]) if make else None
            if peer is None:
                continue
            what, work = peer
            took = seconds(work)
        except (RuntimeError, AttributeError) as error:
            print(f"{timing['op']} {timing['case']}: PyTorch did not do it: {error}")
            continue
        finally:
            peer = work = None
            torch.cuda.empty_cache()
        out["peers"].append({"op": timing["op"], "case": timing["case"], "what": what, "seconds": took})
        print(f"{timing['op']} {timing['case']}: {took * 1e6:.1f} us ({what})", flush=True)
    json.dump(out, open(sys.argv[2], "w", encoding="utf-8"), indent=1)
    print(out["ceilings"])


if __name__ == "__main__":
    main()
