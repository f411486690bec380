# Each target works as the only command on a fresh machine with python3 >= 3.10, pip and gcc:
# it makes .venv, installs what it needs there, and does its job. Stamps make a repeat quick.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# `make test ARGS="-k sort -x"` hands options to pytest.
ARGS ?=
# How long the soak's mixed load takes.
SECONDS ?= 3600

.DELETE_ON_ERROR:
.PHONY: help run test soak load every-instruction bench bench-quick lint clean fuzz fuzz-files

help:
	@echo 'make run     probe a real program: hits with registers, a stack and data'
	@echo 'make test    the tests, within 10 minutes        (ARGS="-k NAME": options for pytest)'
	@echo 'make soak    the tests that take long, then an hour of mixed load (SECONDS=N)'
	@echo 'make load    the mixed load alone, with exact books'
	@echo 'make every-instruction  a probe on each of 140,000 instructions of real libraries'
	@echo 'make fuzz-files  damaged files for 15 minutes, given to all that reads files'
	@echo 'make bench   the measurements, beside the kernel and other tools (25 minutes; bench-quick: 3)'
	@echo 'make fuzz    every instruction against the processor, 10 minutes  (ARGS="--seconds 60")'
	@echo 'make lint    ruff, mypy --strict, import-linter'
	@echo 'make clean   remove what the others made'

$(VENV)/python.stamp:
	@PYTHON='$(PYTHON)' sh .ci/make-venv '$(VENV)'
	@touch $@

# An editable install: a changed file of Python needs no new install, one that it is built with does.
BUILT_WITH := pyproject.toml hatch_build.py src/ptrace_uprobes/engine/_counting.c

$(VENV)/run.stamp: $(BUILT_WITH) $(VENV)/python.stamp
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/test.stamp: $(BUILT_WITH) $(VENV)/python.stamp
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/run.stamp

$(VENV)/bench.stamp: $(BUILT_WITH) $(VENV)/python.stamp
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@ $(VENV)/run.stamp

# Programs that the tests probe and compare with. What cannot be had makes tests skip, by name.
$(VENV)/programs.stamp: .ci/install-programs $(VENV)/python.stamp
	@sh .ci/install-programs
	@touch $@

$(VENV)/peers.stamp: .ci/install-bench-programs $(VENV)/programs.stamp
	@sh .ci/install-bench-programs
	@touch $@

run: $(VENV)/run.stamp
	@$(BIN)/python examples/watch_sort.py

test: $(VENV)/test.stamp $(VENV)/programs.stamp
	$(BIN)/python -m pytest $(ARGS)

soak: $(VENV)/test.stamp $(VENV)/programs.stamp
	$(BIN)/python -m pytest -m soak $(ARGS)
	$(BIN)/python -m tests.soak --seconds $(SECONDS)

# The mixed load alone: `make load SECONDS=180`, `make load ARGS="--seed 7 --only gated"`.
load: $(VENV)/test.stamp $(VENV)/programs.stamp
	$(BIN)/python -m tests.soak --seconds $(SECONDS) $(ARGS)

# A probe on every instruction of some thousand functions of real libraries, with its figures.
every-instruction: $(VENV)/test.stamp $(VENV)/programs.stamp
	$(BIN)/python -m tests.every_instruction $(ARGS)

fuzz: $(VENV)/test.stamp $(VENV)/programs.stamp
	@$(BIN)/python -m fuzz $(ARGS)

fuzz-files: $(VENV)/test.stamp $(VENV)/programs.stamp
	@$(BIN)/python -m fuzz.files $(ARGS)

# Results go to bench-results/: JSON of pytest-benchmark, and a report with plots made of it.
bench: $(VENV)/bench.stamp $(VENV)/peers.stamp
	@$(BIN)/python -m bench $(ARGS)

bench-quick: $(VENV)/bench.stamp $(VENV)/peers.stamp
	@$(BIN)/python -m bench --quick $(ARGS)

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports --no-cache

clean:
	rm -rf $(VENV) bench-results build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
