# Patchwarden's few everyday commands; `make help` lists them.
#
# Everything happens in .venv at the root, made by `make setup` (which the other targets call) from the lock files; `make fuzz` adds what it needs.
# PYTHON chooses the interpreter that .venv is made from: `make setup PYTHON=/path/to/python3.12`.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# The first of these that really runs and is new enough (a version manager's shim can exist without its Python).
PYTHON ?= $(shell for p in python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && exit; done; echo python3)

VENV := .venv
BIN := $(VENV)/bin
LOCKED := $(VENV)/.stamp-locked
STAMP := $(VENV)/.stamp-setup
FUZZER := $(VENV)/.stamp-fuzzer

# A lock names every file by its hash, and .venv is built without isolation: what the caller's environment says about
# other places for packages stays valid, what it says about versions does not matter.
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) install --quiet --require-hashes --no-deps --no-build-isolation

.PHONY: help setup demo test check lint types layers fast coverage bench large faults scale crash sim traps fuzz meaning format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## make .venv with patchwarden in it; does nothing when it is up to date

$(LOCKED): requirements.lock requirements-build.lock
	@scripts/ensure-packages "$(PYTHON)"
	@echo "setup: making $(VENV) from the lock files (about half a minute)"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@$(INSTALL) --requirement requirements-build.lock
	@$(INSTALL) --requirement requirements.lock
	@touch $@

$(STAMP): $(LOCKED) pyproject.toml
	@$(PIP) install --quiet --no-deps --no-build-isolation --no-index --editable .
	@report=$$($(PIP) check) || { echo "$$report" >&2; exit 1; }
	@touch $@
	@echo "setup: $(BIN)/patchwarden is ready"

demo: setup ## the whole story on this machine: network, patch, refusal, approvals, application, audit
	@$(BIN)/patchwarden demo

test: setup ## the whole test suite, except what needs the internet
	@$(BIN)/python -m pytest -m "not network"

check: lint types layers fast ## lint, types, layer contracts and the fast tests

lint: setup ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## mypy, strict, over the shipped packages
	@$(BIN)/mypy

layers: setup ## who may import whom
	@$(BIN)/lint-imports

fast: setup ## the tests that take no long time, start no processes and need no internet
	@$(BIN)/python -m pytest -q -m "not network and not slow and not live"

# What runs above the pure packages covers nothing of them that their own tests do not.
ABOVE := agent cli console explorer gateway net node patch storage sync

coverage: setup ## branch coverage of the pure packages by their own tests; fails under the threshold of pyproject.toml
	@$(BIN)/coverage run -m pytest -q -m "not network and not live and not slow" $(ABOVE:%=--ignore-glob='*/test_%_*')
	@$(BIN)/coverage report

bench: setup ## measure; BENCH="--quick patch" says how and what
	@$(BIN)/python -m tests.bench $(BENCH)

large: setup ## what patches of 100 MB and of 10,000 files take, alone and on a real network: time, and memory against its bound
	@$(BIN)/python -m tests.bench.large_patch
	@$(BIN)/python -m tests.bench.large_network
	@$(BIN)/python -m tests.bench.large_network --mode in-place
	@$(BIN)/python -m tests.bench.large_network --bytes 100000000

faults: setup ## hurt real nodes in network namespaces under load, as root; FAULTS="--minutes 30 --seed 7" says how
	@$(BIN)/python -m tests.faults $(FAULTS) || { code=$$?; [ $$code -eq 77 ] || exit $$code; }

scale: setup ## 10,000 hosts with real agents and a real ledger in one process through a rollout; SCALE="--hosts 2000" for fewer
	@$(BIN)/python -m tests.scale $(SCALE)

crash: setup ## kill the agent, cut its power and fail its disk at every file-system call; CRASH="--operation recover" says what
	@$(BIN)/python -m tests.crash $(CRASH)

sim: setup ## whole clusters on simulated machines: fixed seeds, then fresh ones; SIM="--minutes 30" or SIM="--seed 17" says how
	@$(BIN)/python -m tests.sim $(SIM)

traps: setup ## take each protection out of a copy and see its test fail; TRAPS="--trap 15" for one
	@$(BIN)/python -m tests.traps $(TRAPS)

$(FUZZER): requirements-fuzz.lock $(LOCKED)
	@$(INSTALL) --requirement requirements-fuzz.lock
	@touch $@

MINUTES ?= 10

fuzz: setup $(FUZZER) ## coverage-guided fuzzing of every decoder; MINUTES=60, FUZZ="--target diff" says how
	@$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(FUZZ)

EXAMPLES ?= 2000

meaning: setup ## draw many more diffs with allowances for git, GNU patch and busybox than the tests do; EXAMPLES=5000
	@PATCHWARDEN_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -q --hypothesis-show-statistics tests/properties/test_diff_allowances.py

format: setup ## rewrite the code as ruff would
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: ## choose versions anew and write the lock files
	@scripts/lock "$(PYTHON)"

clean: ## remove .venv and everything that tools have written
	@rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis .coverage build dist
	@find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +
