## make demo    installs everything into .venv and runs the main job on the embedded stack; JSON=PATH writes its results
## make test    installs what the tests need and runs all of them
## make test-api-long  the whole API with EXAMPLES requests of every kind, from a seed that is printed
## make test-faults  pulls plugs of the real processes and servers, one by one and in some random schedules
## make test-faults-long  SCHEDULES random schedules, about half an hour; SEED=n replays one; build/faults.json
## make bench-distill  our trainer against the plain loop, in turn; LIMIT documents (ONLY ids), ROUNDS rounds; build/bench/distill.json
## make bench-serve    the engine against itself, transformers and PEFT; SERVE_ROUNDS rounds; build/bench/serve.json
## make bench-growth   how the engine's figures grow with rows, prefix, rank, slots, candidates; build/bench/serve-growth.json
## make bench-fleet    routing among 10^3 workers, simulated with the gateway's own policy; about two minutes; build/bench/fleet.json
## make bench-retrieval  searching among 10^4 and 10^5 memories of one tenant; build/bench/retrieval.json
## make bench-sealing  what encryption costs the load of an adapter; build/bench/sealing.json
## make bench-jobs     the queue: intake, dispatch, claims, publication, against bare Celery; build/bench/jobs.json
## make bench-fairness  shares of 10^4 tenants with heavy-tailed jobs, simulated with the real choice; build/bench/fairness.json
## make check   format, lint, types, import rules, bandit, known vulnerabilities, fast tests
## make lock    rewrites the lock files from what is installed in .venv

VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP    := $(BIN)/python -m pip install -qq --disable-pip-version-check
PYTHON ?= $(shell command -v python3.11 || command -v python3)
JSON   ?=
LIMIT  ?= 4
ROUNDS ?= 1
ONLY   ?=
SCHEDULES ?= 200
SERVE_ROUNDS ?= 3
EXAMPLES ?= 1000

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install install-dev servers demo test test-api-long test-faults test-faults-long bench-distill bench-serve bench-growth bench-fleet bench-retrieval bench-sealing bench-jobs bench-fairness check lock clean

help:
	@sed -n "s/^## //p" $(firstword $(MAKEFILE_LIST))

install: $(STAMPS)/install

install-dev: $(STAMPS)/install-dev

demo: $(STAMPS)/install
	$(BIN)/latentbank demo --install-seconds "$$(cat $(STAMPS)/install)" $(if $(JSON),--json "$(JSON)")

test-api-long: $(STAMPS)/install-dev
	LATENTBANK_API_EXAMPLES=$(EXAMPLES) LATENTBANK_API_SEED=$$(od -An -N3 -tu4 /dev/urandom | tr -d ' ') \
	$(BIN)/python -m pytest -rA --tb=short tests/integration/gateway/test_any_request.py tests/integration/inference/test_any_question.py

test: $(STAMPS)/install-dev servers
	$(BIN)/python -m pytest -m "not exhaustive"

test-faults: $(STAMPS)/install-dev servers
	$(BIN)/python -m pytest tests/faults tests/unit/faults

test-faults-long: $(STAMPS)/install-dev servers
	$(BIN)/python -m tests.faults.long --schedules $(SCHEDULES) --json build/faults.json

bench-distill: $(STAMPS)/install-dev
	$(BIN)/python -m tests.benchmarks.distil --limit $(LIMIT) $(if $(ONLY),--only $(ONLY)) --rounds $(ROUNDS) --json build/bench/distill.json

bench-serve: $(STAMPS)/install-dev
	$(BIN)/python -m tests.benchmarks.serving --rounds $(SERVE_ROUNDS) --json build/bench/serve.json

bench-growth: $(STAMPS)/install-dev
	$(BIN)/python -m tests.benchmarks.serving_growth --json build/bench/serve-growth.json

bench-fleet: $(STAMPS)/install-dev
	$(BIN)/python -m tests.benchmarks.fleet --json build/bench/fleet.json

bench-retrieval: $(STAMPS)/install-dev
	$(BIN)/python -m tests.benchmarks.retrieval --json build/bench/retrieval.json

bench-sealing: $(STAMPS)/install-dev
	$(BIN)/python -m tests.benchmarks.sealing --json build/bench/sealing.json

bench-jobs: $(STAMPS)/install-dev servers
	$(BIN)/python -m tests.benchmarks.jobs --json build/bench/jobs.json

bench-fairness: $(STAMPS)/install-dev
	$(BIN)/python -m tests.benchmarks.fairness --json build/bench/fairness.json

check: $(STAMPS)/install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit -q -c pyproject.toml -r core gateway orchestrator workers infra
	$(BIN)/python infra/audit.py
	$(BIN)/python -m pytest tests/unit -q -m "not slow"

servers:
	@bash infra/test-servers.sh

lock: $(STAMPS)/install-dev
	$(BIN)/python infra/lock.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(STAMPS)/venv:
	@bash infra/make-venv.sh "$(PYTHON)" $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# The stamp holds how long the installation took, in seconds.
$(STAMPS)/install: requirements.lock requirements-nodeps.lock pyproject.toml | $(STAMPS)/venv
	@echo "Installing LatentBank into $(VENV); torch is large, this takes a few minutes the first time."
	@set -e; started=$$(date +%s); \
	$(PIP) -r requirements.lock; \
	$(PIP) --no-deps -r requirements-nodeps.lock; \
	$(PIP) --no-deps --no-build-isolation --editable .; \
	echo $$(( $$(date +%s) - started )) > $@

$(STAMPS)/install-dev: requirements-dev.lock $(STAMPS)/install
	@$(PIP) -r requirements-dev.lock
	@touch $@
