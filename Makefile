# `make demo` and `make test` do everything themselves, starting from git, make, python3 and python3-venv.
# Run without a target, make lists what there is.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
SEEDS ?= 1..200
FUZZ_S ?= 60
FUZZ_PROGRAMS ?= 1000
LONG ?=
# The tests start a thousand processes of `dressage`: each would compile it anew where this is set to something.
export PYTHONDONTWRITEBYTECODE :=
ROUNDS ?= 3
SOAK_MINUTES ?= 60
SLEEPING ?= 100000
BRANCHES ?= 10000
SLEEPERS ?= 5000
WAKES ?= 10000

.PHONY: help demo test lint types contracts pytest fuzz faults availability soak simulate bench branches sleepers wakes sleeping format clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(INSTALLED) ## orders become durable runs, and SQL tells how they went
	@$(BIN)/dressage demo

test: lint types contracts pytest ## everything that has to pass

lint: $(INSTALLED) ## style and likely mistakes
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(INSTALLED) ## mypy and basedpyright, both strict
	@$(BIN)/mypy
	@$(BIN)/basedpyright

contracts: $(INSTALLED) ## who may import whom
	@$(BIN)/lint-imports

pytest: $(INSTALLED) ## the tests alone, the kill tests included
	@$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 2

fuzz: $(INSTALLED) ## every decoder under coverage-guided fuzzing, and random workflows beside Python; FUZZ_S=3600 FUZZ_PROGRAMS=20000 for long
	@$(BIN)/python tests/fuzz/guided.py --seconds $(FUZZ_S)
	@$(BIN)/python tests/fuzz/programs.py --programs $(FUZZ_PROGRAMS)

faults: $(INSTALLED) ## processes killed and paused, links cut, disks filled, all under load; LONG=1 for the long form
	@FAULTS_LONG=$(LONG) $(BIN)/pytest -m faults -s

availability: $(INSTALLED) ## how long work stands still after losing an orchestrator, a server, a worker
	@$(BIN)/python -m tests.faults.availability --rounds $(ROUNDS)

soak: $(INSTALLED) ## an hour under load and faults: nothing may grow, be lost or be doubled; SOAK_MINUTES=5 for less
	@$(BIN)/python -m tests.faults.soak --minutes $(SOAK_MINUTES) --json build/soak.json

simulate: $(INSTALLED) ## the engine under seeded faults on virtual time; SEEDS=1..20000 for the long run
	@$(BIN)/dressage simulate --seeds $(SEEDS) --mutants

bench: $(INSTALLED) ## tasks per second and latency, beside what bare JetStream does
	@$(BIN)/dressage bench

branches: $(INSTALLED) ## a run with 10,000 branches has half the tasks/s of 10,000 runs, or this fails; BRANCHES=1000 for less
	@$(BIN)/dressage bench --branches $(BRANCHES)

sleepers: $(INSTALLED) ## 5,000 runs that sleep 5 s end within 9 s, none early, or this fails; SLEEPERS=100 for less
	@$(BIN)/dressage bench --sleepers $(SLEEPERS)

wakes: $(INSTALLED) ## 2,500 runs a second are woken by events at their keys, or this fails; WAKES=1000 for less
	@$(BIN)/dressage bench --wakes $(WAKES)

sleeping: $(INSTALLED) ## a take-over beside 100,000 sleeping runs serves within 2 s, or this fails; SLEEPING=1000 for less
	@$(BIN)/dressage bench --sleeping $(SLEEPING)

format: $(INSTALLED) ## put the code into the form that lint wants
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

clean: ## remove the virtual environment and every cache
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist

# The stamp is newer than pyproject.toml exactly when the environment holds what that file asks for. An
# environment without pip is what a missing python3-venv leaves behind, so it is made again.
$(INSTALLED): pyproject.toml
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[all,dev]'
	@touch $@
