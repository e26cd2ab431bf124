"""docs/reference/metrics.md says what the running processes say, all of it and no more."""

import httpx

import reference
import serving

HOW = 'UPDATE=1 make clients PYTEST="-k the_reference_lists"'
INTRODUCTION = f"""# Metrics

Generated from running processes: `{HOW}`. A metric with labels of models, tenants, codes or states
appears once something has happened to count. On Kubernetes there are a few more: [operator-metrics.md](operator-metrics.md).
With a GPU a worker also exports, by the device's bus address, `naru_worker_gpu_watts`, `naru_worker_gpu_power_limit_watts`,
`naru_worker_gpu_energy_joules_total` (since the driver was loaded), `naru_worker_gpu_memory_bytes` and `naru_worker_gpu_clock_hertz`, all of them NVML's readings.
"""


def test_the_reference_lists_every_metric_and_no_other(client, platform, worker, tmp_path):
    client.chat.completions.create(model="smollm2", messages=[{"role": "user", "content": "Hi"}], max_tokens=2)
    body = {"model": "smollm2", "prompt": "Hi", "max_tokens": 2}
    httpx.post(f"{worker.address}/v1/completions", json=body).raise_for_status()
    refused = httpx.post(f"{platform.address}/completions", json=body | {"model": "nobody"})
    assert refused.status_code == 404
    simulated = serving.Worker(tmp_path, "sim://llama-3.1-8b-h100", "--backend", "sim", name="sim").wait_ready()
    try:
        httpx.post(f"{simulated.address}/v1/completions", json=body | {"model": served(simulated)}).raise_for_status()
        rows = reference.described(f"{simulated.ops}/metrics")
    finally:
        simulated.stop()
    ranks = ["--pipeline=2", "--devices-per-member=2", f"--links-listen={serving.free_address(2)}", "--served-name=m"]
    sharded = serving.Worker(tmp_path, serving.model(serving.SMOLLM2), *ranks, name="ranks").wait_ready()
    try:
        httpx.post(f"{sharded.address}/v1/completions", json=body | {"model": "m"}, timeout=60).raise_for_status()
        of_ranks = reference.described(f"{sharded.ops}/metrics")
    finally:
        sharded.stop()
    known = reference.described(f"{worker.ops}/metrics")
    assert set(known) <= set(of_ranks), "a worker with ranks exports what others do"
    assert set(known) <= set(rows), "a simulated worker exports what a real one does"
    parts = {
        "`naru up`": reference.described(f"{platform.ops}/metrics"),
        "`naru-worker`": known,
        "`naru-worker` with ranks, besides those": {name: row for name, row in of_ranks.items() if name not in known},
        "`naru-worker --backend sim`, besides those": {name: row for name, row in rows.items() if name not in known},
    }
    for rows in parts.values():
        for name in rows:
            assert name.startswith(("naru_", "vllm:", "process_")), name
            assert not name.startswith("naru_") or "_total" in name or "| counter |" not in rows[name], name
    reference.compare("metrics.md", INTRODUCTION, parts, HOW)


def served(worker):
    """The name that a worker serves by."""
    return httpx.get(f"{worker.address}/v1/models").json()["data"][0]["id"]
