# Two commands matter: `make demo` and `make test`. Both do all set-up themselves and are quick the
# second time.
SHELL := /bin/bash
CARGO := scripts/cargo
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/unprompt
export UNPROMPT_MODELS ?= $(CACHE)/models
# Runs a command with a CUDA toolkit: $(call with_cuda,COMMAND); $$cuda is the toolkit's folder.
with_cuda = cuda=$$(scripts/cuda-toolkit $(CACHE)/cuda) && CUDA_HOME=$$cuda NVCC=$$cuda/bin/nvcc PATH=$$cuda/bin:$$PATH $(1)
CHAOS = $(TARGET)/debug/unprompt-chaos --python $(CACHE)/test-python/bin/python --seed $(or $(SEED),1)
TARGET := $(or $(CARGO_TARGET_DIR),target)
INTO = $(DESTDIR)$(or $(PREFIX),/usr/local)

# Announces a first compilation and its duration: $(call say,FILE,WHAT,PROCESSOR MINUTES). FILE
# exists afterwards.
say = @[ -e $(1) ] || echo "make: compiling $(2), once: about $$(( $(3) / $$(nproc) + 1 )) minutes on $$(nproc) cores" >&2

.PHONY: help setup build install demo test kafka fuzz chaos soak lint docs performance check-cuda bench bench-models has-gpu bench-cuda bench-index bench-import parity references clean

help: ## lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: ## installs toolchain, system packages and models
	@scripts/system-packages
	@scripts/toolchain >/dev/null
	@models/tools/fetch_minilm.sh "$(UNPROMPT_MODELS)"

build: setup ## builds the binary
	$(call say,$(TARGET)/debug/unprompt,the binary and the 660 crates below it,42)
	$(CARGO) build --locked -p unprompt -p unprompt-unify

install: build ## installs the stripped binary and its models into PREFIX (/usr/local), below DESTDIR if set
	install -D -s -m 755 $(TARGET)/debug/unprompt "$(INTO)/bin/unprompt"
	mkdir -p "$(INTO)/share/unprompt/models"
	cd "$(UNPROMPT_MODELS)" && cp -R -p all-MiniLM-L6-v2 $$(ls -d onnxruntime 2>/dev/null) "$(abspath $(INTO))/share/unprompt/models/"
	cp -R -p models/tiny-world/checkpoints/clip models/tiny-world/checkpoints/sd2 "$(INTO)/share/unprompt/models/"

demo: build ## runs the main job, from prompts to predictions (ONCE=1: end after the table)
	$(TARGET)/debug/unprompt demo $(if $(ONCE),--once) --report reports/demo.json

test: setup ## runs every test
	@scripts/system-packages kcat java mvn openssl
	@scripts/kafka fetch $(CACHE)/kafka
	@scripts/registry fetch $(CACHE)/registry
	@scripts/python-env $(CACHE)/test-python tests/python/requirements.txt >/dev/null
	$(call say,$(firstword $(wildcard $(TARGET)/debug/deps/unprompt_chaos-*) none),all crates and their tests,50)
	UNPROMPT_TEST_PYTHON=$(CACHE)/test-python/bin/python UNPROMPT_TEST_KAFKA=$(CACHE)/kafka UNPROMPT_TEST_REGISTRY=$(CACHE)/registry scripts/failures-last $(CARGO) test --locked --workspace --no-fail-fast

kafka: ## runs an Apache Kafka for experiments on 127.0.0.1:9092 (PORT=…), until Ctrl-C
	@scripts/system-packages java mvn
	@scripts/kafka fetch $(CACHE)/kafka
	scripts/kafka run $(CACHE)/kafka unprompt-data/kafka $(or $(PORT),9092)

fuzz: setup ## runs a decoder under libFuzzer (DECODER=picture, default all; SECONDS=60 each)
	@scripts/fuzz $(CACHE)/fuzz $(or $(DECODER),all) $(or $(SECONDS),60)

chaos: build ## kills, zombies, outages, wrong clocks, a full disk and quotas under load, on both brokers: reports/chaos*.json (SEED=…)
	@scripts/system-packages java mvn libfaketime
	@scripts/kafka fetch $(CACHE)/kafka
	@scripts/python-env $(CACHE)/test-python tests/python/requirements.txt >/dev/null
	$(CARGO) build --locked -p unprompt-chaos -p unprompt-unify
	UNPROMPT_TEST_KAFKA=$(CACHE)/kafka $(CHAOS) --report reports/chaos.json
	$(CHAOS) --broker embedded --report reports/chaos-embedded.json

soak: build ## an hour of steady load on both brokers: the trend of memory and disk, reports/soak.json (MINUTES=60)
	@scripts/system-packages java mvn
	@scripts/kafka fetch $(CACHE)/kafka
	$(CARGO) build --locked -p unprompt-chaos -p unprompt-unify
	UNPROMPT_TEST_KAFKA=$(CACHE)/kafka $(TARGET)/debug/unprompt-soak --minutes $(or $(MINUTES),60) --logs $(TARGET)/soak --report reports/soak.json

lint: setup ## runs rustfmt, clippy and cargo-deny (bans, licences, sources)
	$(CARGO) fmt --all -- --check
	scripts/check-features
	$(CARGO) clippy --locked --workspace -- -D warnings
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings -A clippy::unwrap_used -A clippy::print_stdout
	scripts/cargo-deny $(CACHE)/tools check bans licenses sources

docs: ## checks the pages' links, headings, commands, flags, keys and codes (commands only if the binary is built)
	@scripts/check-docs $(addprefix --binary ,$(wildcard $(TARGET)/debug/unprompt))
	@scripts/performance --check

performance: ## writes the tables of docs/performance.md from reports/*.json
	@scripts/performance

check-cuda: setup ## type-checks the networks for CUDA and cuDNN; needs no GPU (CUDA_COMPUTE_CAP=90; the first run takes half an hour)
	$(call with_cuda,CUDA_COMPUTE_CAP=$(or $(CUDA_COMPUTE_CAP),90) $(CARGO) check --locked -p unprompt-models --features "cuda cudnn")

parity: setup ## compares our networks with transformers, diffusers and sentence-transformers: reports/parity.json
	UNPROMPT_PARITY_REPORT=$(CURDIR)/reports/parity.json $(CARGO) test --locked -p unprompt-models -p unprompt-unify --features unprompt-models/onnx --test it parity -- --nocapture
	@cat reports/parity.json

references: setup ## makes the reference outputs for parity (torch, diffusers, transformers, open_clip: 7 GB)
	@scripts/python-env $(CACHE)/reference-python models/tools/requirements.txt >/dev/null
	$(CACHE)/reference-python/bin/python models/tools/make_references.py $(ONLY)

bench: build ## measures every stage and the runner, then our speed beside alternatives: reports/bench.json
	$(CARGO) bench --locked --profile dev -p unprompt-benchmarks -p unprompt-unify --bench stages --bench runner
	benchmarks/run --python-env $(CACHE)/bench-python --report reports/bench.json

bench-models: setup ## measures full-size networks and pictures beside transformers, open_clip, diffusers, Pillow, OpenCV (ONLY=clip, open-clip, unet)
	$(CARGO) build --locked -p unprompt-benchmarks -p unprompt -p unprompt-unify
	@scripts/python-env $(CACHE)/reference-python models/tools/requirements.txt >/dev/null
	$(CACHE)/reference-python/bin/python benchmarks/models_peers.py --ours $(TARGET)/debug/models --work $(CACHE)/bench-models --report reports/bench.json $(if $(ONLY),--only $(ONLY))

has-gpu:
	@nvidia-smi -L >/dev/null 2>&1 || { echo "bench-cuda: there is no NVIDIA GPU with its driver here, so nothing was measured" >&2; exit 1; }

bench-cuda: has-gpu setup ## measures SD2.1, CLIP L/14 and EVA02-E on a GPU beside diffusers, transformers and open_clip (FEATURES="cuda flash-attn")
	@scripts/python-env $(CACHE)/reference-python models/tools/requirements.txt >/dev/null
	$(call with_cuda,$(CARGO) build --locked -p unprompt-benchmarks --bin models --features "$(or $(FEATURES),cuda flash-attn)" && \
	$(CACHE)/reference-python/bin/python benchmarks/cuda_peers.py --ours $(TARGET)/debug/models --libraries $$cuda/lib64 --work $(CACHE)/bench-cuda --report reports/bench.json)

bench-index: setup ## measures the index with N=1000000 prompts and PROFILES=… beside hnswlib and faiss: reports/bench.json
	benchmarks/index --count $(or $(N),1000000) --profiles "$(or $(PROFILES),balanced small-memory fastest)"

bench-import: build ## imports N=1000000 prompts twice, once with three kills on the way: reports/import.json
	work=$$(mktemp -d "$(CACHE)/import-XXXXXX") && trap 'rm -rf "$$work"' EXIT && \
	python3 benchmarks/import_check.py $(TARGET)/debug/unprompt --count $(or $(N),1000000) --work "$$work" --report reports/import.json

clean: ## removes the build (the caches of models and Python stay)
	$(CARGO) clean
