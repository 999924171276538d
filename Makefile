# The only prerequisites are Python 3.11+ and make. `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
VLLM   := .venv-vllm
VERSIONS := 0.30.0 0.31.0 0.33.0
VLLM_STAMP := $(VLLM)/.installed
RAY    := .venv-ray
RAY_STAMP := $(RAY)/.installed
SGLANG := .venv-sglang
SGLANG_STAMP := $(SGLANG)/.installed

.NOTPARALLEL: # the tests on vLLM take both cores
.PHONY: help setup setup-vllm setup-vllm-versions setup-ray setup-sglang protos manifests demo demo-vllm docs gpu-check test \
  test-fast conformance conformance-table soak test-vllm test-vllm-versions test-ray test-sglang capture-matrix bench \
  bench-check lint format release-check image-check cluster-check clean
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(STAMP) ## a .venv with the daemon, the clients and the development tools
$(STAMP): pyproject.toml clients/python/pyproject.toml clients/vllm/pyproject.toml clients/dynamo/pyproject.toml clients/conformance/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e clients/python -e 'clients/vllm[proxy]' -e clients/dynamo -e '.[dev]' -e clients/conformance
	touch $@

protos: setup ## regenerate the stubs and build/eldr.binpb from protos/
	$(BIN)/python tools/generate_stubs.py
	if command -v go; then $(BIN)/python tools/generate_go_stubs.py; fi
	if command -v npm; then $(BIN)/python tools/generate_node_stubs.py; fi
	if command -v cargo; then $(BIN)/python tools/generate_rust_stubs.py; fi

docs: setup ## the documentation as a site, in build/site; broken links and anchors end it
	$(BIN)/python tools/docs_site.py

manifests: ## deploy/manifests/eldr.yaml from the chart; needs Go
	go run helm.sh/helm/v3/cmd/helm@v3.22.0 template eldr deploy/chart --namespace serving --kube-version 1.31.0 \
	  --values deploy/manifests/values.yaml > deploy/manifests/eldr.yaml

demo: setup ## the main job on recorded routing, in the terminal; DATA= POLICY= WORKERS= RATE= REQUESTS= SEED= KEEP=1
	@$(BIN)/python -m benchmarks.demos.demo $(strip $(foreach option,data policy workers rate requests seed,\
	  $(call given,$(option),$(shell echo $(option) | tr a-z A-Z)))) $(if $(KEEP),--keep)
given = $(if $($2),--$1='$($2)')

setup-vllm: $(VLLM_STAMP) ## a .venv-vllm with vLLM for the CPU, NIXL and the clients (3.4 GB)
$(VLLM_STAMP): $(STAMP) benchmarks/demos/demo_vllm/environment.py
	$(BIN)/python -m benchmarks.demos.demo_vllm.environment $(VLLM)
	touch $@

demo-vllm: setup $(if $(ELDR_VLLM_PYTHON),,setup-vllm) ## real vLLM engines, four policies, 17 minutes; ARGS='--long', '--help', …
	@$(BIN)/python -m benchmarks.demos.demo_vllm $(ARGS)

gpu-check: $(if $(ELDR_VLLM_PYTHON),,setup-vllm) ## is the capture exact on this machine's GPU, and what it costs; ARGS='--device cpu', '--help', …
	@PYTHONPATH=clients/vllm:clients/python $(or $(ELDR_VLLM_PYTHON),$(VLLM)/bin/python) -m benchmarks.engines.gpu_check $(ARGS)

test: test-fast bench-check test-vllm test-ray ## every test: those that need no vLLM, the short benchmarks, those on real vLLM engines
test-fast: setup ## the tests that need no vLLM
	$(BIN)/python -m pytest -m "not vllm" -n 2 --dist worksteal

conformance: setup ## what a client must do, asked of CLIENT='PROGRAM ARGUMENT…'; clients/conformance/README.md
	$(BIN)/eldr-conformance $(ARGS) -- $(CLIENT)

conformance-table: setup ## the table of clients/conformance/README.md: every client of this repository, every case
	$(BIN)/python tools/conformance_table.py

soak: setup ## the tests of tests/faults in long; ROUNDS= OPERATIONS= SECONDS= CHURN_SECONDS= PING_SECONDS=
	ELDR_FAULTS_ROUNDS=$(or $(ROUNDS),20) ELDR_FAULTS_OPERATIONS=$(or $(OPERATIONS),1000000) \
	  ELDR_FAULTS_SECONDS=$(or $(SECONDS),600) ELDR_FAULTS_CHURN_SECONDS=$(or $(CHURN_SECONDS),720) \
	  ELDR_FAULTS_PING_SECONDS=$(or $(PING_SECONDS),45) $(BIN)/python -m pytest tests/faults -s

test-vllm: setup-vllm ## the tests on real vLLM engines, in .venv-vllm
	$(VLLM)/bin/python -m pytest -m vllm tests/vllm tests/tiny_moe

setup-ray: $(RAY_STAMP) ## a .venv-ray with Ray over .venv-vllm (0.5 GB)
$(RAY_STAMP): $(VLLM_STAMP) clients/ray/pyproject.toml
	$(VLLM)/bin/python -m benchmarks.demos.demo_vllm.environment $(RAY) --base $(VLLM) --ray
	touch $@

test-ray: setup-ray ## the tests in Ray Serve, with and without real vLLM engines, in .venv-ray
	$(RAY)/bin/python -m pytest tests/ray

setup-sglang: $(SGLANG_STAMP) ## a .venv-sglang with SGLang for the CPU, over .venv-vllm (0.5 GB more)
$(SGLANG_STAMP): $(VLLM_STAMP) tools/sglang_environment.py clients/sglang/pyproject.toml
	$(BIN)/python tools/sglang_environment.py $(SGLANG) $(VLLM)
	touch $@

test-sglang: setup setup-sglang ## the tests on real SGLang engines
	$(BIN)/python -m pytest tests/sglang

setup-vllm-versions: setup-vllm ## other vLLM versions over .venv-vllm, for test-vllm-versions (1.1 GB)
	for version in $(VERSIONS); do test -e build/vllm-versions/$$version/bin/python || \
	  $(VLLM)/bin/python -m benchmarks.demos.demo_vllm.environment build/vllm-versions/$$version \
	  --base $(VLLM) --version $$version || exit 1; done

test-vllm-versions: setup-vllm-versions ## counts against the log on each of them
	$(VLLM)/bin/python -m pytest -m vllm tests/vllm/test_versions.py

capture-matrix: setup-vllm ## architectures by configurations against the log; ARGS='--configurations all --readme'
	$(VLLM)/bin/python -m benchmarks.engines.capture_matrix $(ARGS)

bench: setup ## the benchmarks that need no vLLM; each writes build/bench/NAME.json
	$(BIN)/python -m benchmarks.speed.assignment
	$(BIN)/python -m benchmarks.speed.decision
	$(BIN)/python -m benchmarks.speed.rpc
	$(BIN)/python -m benchmarks.speed.durability
	$(BIN)/python -m benchmarks.speed.overload
	$(BIN)/python -m benchmarks.speed.decision_log
	$(BIN)/python -m benchmarks.speed.scrape
	$(BIN)/python -m benchmarks.speed.traces
	$(BIN)/python -m benchmarks.speed.longest_steps
	$(BIN)/python -m benchmarks.speed.held_signatures
	$(BIN)/python -m benchmarks.speed.held_prefixes
	$(BIN)/python -m benchmarks.speed.remembered_ends
	$(BIN)/python -m benchmarks.speed.booking_memory
	$(BIN)/python -m benchmarks.speed.cold_start
	$(BIN)/python -m benchmarks.speed.fit
	$(BIN)/python -m benchmarks.speed.simulation
	$(BIN)/python -m benchmarks.speed.refit
	PYTHONPATH=clients/vllm $(BIN)/python -m benchmarks.speed.signature_cache
	$(BIN)/python -m benchmarks.speed.replicas

bench-check: setup ## a short form of the benchmarks with goals; fails on what noise does not explain
	$(BIN)/python -m benchmarks.speed.decision --turns 7 --check
	$(BIN)/python -m benchmarks.speed.held_signatures --check
	$(BIN)/python -m benchmarks.speed.rpc --turns 5 --seconds 1 --check

lint: setup ## ruff, mypy, stale stubs, buf lint and breaking; the other languages' own where they are installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/generate_stubs.py --check
	$(BIN)/buf lint build/eldr.binpb --path eldr --config protos/buf.yaml
	$(BIN)/buf breaking build/eldr.binpb --path eldr --config protos/buf.yaml --against protos/released.binpb
	if command -v go; then for each in go llm-d; do \
		(cd clients/$$each && go vet ./... && test -z "$$(gofmt -l .)") || exit 1; done; fi
	if command -v npm; then $(BIN)/python tools/build_node.py --lint; fi
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	if command -v cargo; then cd clients/rust && cargo fmt --check; fi

format: setup ## ruff's formatter and import order, clang-format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

CPP = $(wildcard $(addprefix clients/cpp/,include/eldr/*.h src/*.h src/*.cpp conformance/*.h conformance/*.cpp tests/*.cpp))

release-check: setup lint ## what a release publishes, in dist/: same bytes twice, serves from a clean environment, SBOM
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[release]'
	$(BIN)/python tools/release_check.py

image-check: setup ## deploy/Containerfile, built and run; as root, with buildah and debootstrap
	ELDR_IMAGE_TESTS=1 $(BIN)/python -m pytest tests/deploy/test_image.py -v

cluster-check: setup ## the chart and discovery at a real API server, built here; with Go and etcd
	ELDR_CLUSTER_TESTS=1 $(BIN)/python -m pytest tests/deploy/test_cluster.py -v

clean: ## everything that make built
	rm -rf $(VENV) $(VLLM) $(RAY) $(SGLANG) build dist .pytest_cache .mypy_cache .ruff_cache
