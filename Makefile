# What naru does for a newcomer and for a developer. `make help` lists it.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help up test check kernels bench bench-kubernetes bench-sharding bench-weights soak fuzz models fixtures clients images bundle cluster cluster-down

CACHE := $(or $(NARU_CACHE_DIR),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/naru)

# In CI every run is a fresh clone: what it builds is kept in the cache directory, so that the next run is warm.
# On your own machine it is where cargo puts it, in ./target.
ifeq ($(CI),true)
export CARGO_TARGET_DIR ?= $(CACHE)/target
endif
TARGET := $(or $(CARGO_TARGET_DIR),target)

export PYTHONDONTWRITEBYTECODE := 1
PYTEST := -p no:cacheprovider -q --durations=5

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 24

up: ## build naru, fetch the demo model, start it on 127.0.0.1:8080, ask it one question; Ctrl-C ends it
	@tests/prerequisites.sh
	@python=$$(tests/python.sh fetch) && "$$python" tests/models/fetch.py smollm2
	@cargo build --release -p naru -p naru-worker
	@python3 tests/up.py $(TARGET)/release/naru

models: ## fetch the models that the tests run, once, into the cache directory
	@tests/prerequisites.sh
	@python=$$(tests/python.sh models tests/models/requirements.txt) && \
	"$$python" tests/models/fetch.py && "$$python" tests/models/dequantise.py

check: ## the inner loop: format, lints, unit tests
	@tests/prerequisites.sh fmt clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --workspace --lib --bins

test: models kernels ## everything that proves the product; what CI runs
	@tests/prerequisites.sh fmt clippy
	@tests/cluster/ctl build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo build --workspace --bins
	cargo test --workspace
	tests/fuzz/run.sh 20
	@python=$$(tests/python.sh tests tests/requirements.txt) && \
	NARU_BINARIES=$(TARGET)/debug "$$python" -m pytest $(PYTEST) tests

kernels: ## compile the CUDA kernels ahead of time; the next build of the worker has them with it
	@tests/prerequisites.sh
	@python=$$(tests/python.sh kernels worker/kernels/requirements.txt) && \
	"$$python" worker/kernels/compile.py --cache $(CACHE)

clients: models ## only the tests that talk to running processes; PYTEST="-k name" picks some
	@tests/cluster/ctl build
	cargo build --workspace --bins
	@python=$$(tests/python.sh tests tests/requirements.txt) && \
	NARU_BINARIES=$(TARGET)/debug "$$python" -m pytest $(PYTEST) tests

images: kernels ## the operator, gateway and worker images as one archive, and the commands to load and to push it
	@tests/prerequisites.sh
	cargo build --release -p naru -p naru-worker
	@python3 charts/images/pack.py --binaries $(TARGET)/release --out $(TARGET)/images

bundle: kernels ## all that an installation without internet needs, signed; KEY=minisign.key, MODEL=a file, a directory or none
	@tests/prerequisites.sh
	cargo build --release -p naru -p naru-worker
	@python=$$(tests/python.sh bundle charts/bundle/requirements.txt) && \
	$(if $(MODEL),,"$$python" tests/models/fetch.py smollm2 && )\
	"$$python" charts/bundle/build.py --binaries $(TARGET)/release --out $(TARGET)/bundle \
	$(if $(KEY),--key "$(KEY)") \
	$(if $(filter none,$(MODEL)),,--model "$(or $(MODEL),$(CACHE)/models/SmolLM2-135M-Instruct.Q4_1.gguf)")

cluster: ## bring up a real Kubernetes of two nodes on this machine (root), and print what to export
	@tests/prerequisites.sh
	@tests/cluster/ctl up

cluster-down: ## take it down, and leave nothing of it
	@tests/cluster/ctl down

soak: models ## five minutes of 64 streams with random cancellations, upgrades there and back, and every party lost in the middle of every phase
	@tests/cluster/ctl build
	cargo build --release -p naru -p naru-worker
	@python=$$(tests/python.sh tests tests/requirements.txt) && export NARU_BINARIES=$(TARGET)/release && \
	NARU_SOAK_SECONDS=300 "$$python" -m pytest $(PYTEST) -s tests/processes/test_soak.py && \
	"$$python" -m pytest $(PYTEST) -s tests/kubernetes/test_an_upgrade.py tests/kubernetes/soak.py

fuzz: ## fuzz each target for ten minutes
	@tests/prerequisites.sh
	tests/fuzz/run.sh 3600

bench: models ## naru beside llama.cpp on this machine; docs/benchmarks/cpu.md says how it is measured
	cargo build --release -p naru-worker
	@python=$$(tests/python.sh peer tests/peers/requirements.txt) && \
	"$$python" tests/peers/bench_cpu.py $(TARGET)/release/naru-worker

bench-kubernetes: models ## how long users wait on a cluster, and what COUNT=1000 model deployments cost the operator
	@tests/prerequisites.sh
	@tests/cluster/ctl build
	cargo build --release -p naru -p naru-worker
	@python=$$(tests/python.sh tests tests/requirements.txt) && \
	"$$python" tests/kubernetes/bench_kubernetes.py $(TARGET)/release --count $(or $(COUNT),1000)

bench-sharding: models ## one replica as several ranks, and what joins them; docs/benchmarks/sharding.md
	cargo build --release -p naru-worker
	@python=$$(tests/python.sh tests tests/requirements.txt) && \
	"$$python" tests/peers/bench_sharding.py $(TARGET)/release/naru-worker

bench-weights: models ## weights fetched and loaded, beside curl and the hub's client; docs/benchmarks/weights.md
	cargo build --release -p naru-worker
	@python=$$(tests/python.sh weights tests/peers/requirements-weights.txt) && \
	"$$python" tests/peers/bench_weights.py $(TARGET)/release/naru-worker

fixtures: models ## ask llama.cpp again for what tests/tests/peer.rs expects (rarely needed)
	@python=$$(tests/python.sh peer tests/peers/requirements.txt) && \
	"$$python" tests/peers/make_fixture.py $(CACHE)/models/SmolLM2-135M-Instruct.Q4_1.gguf tests/peers/fixtures/smollm2.jsonl.gz && \
	"$$python" tests/peers/make_fixture.py $(CACHE)/models/SmolLM2-135M-Instruct.F32.gguf tests/peers/fixtures/smollm2-f32.jsonl.gz --float && \
	"$$python" tests/peers/make_fixture.py $(CACHE)/models/Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf tests/peers/fixtures/qwen2.5-coder.jsonl.gz
