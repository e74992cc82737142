# The two commands: `make run`, `make test`. All that make makes lies in .venv, build, dist and zpush/_fast.
# A stamp file says that a step was done after everything it depends on: repeated runs start at once.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# python3, or the newest that is new enough; `make run PYTHON=…` for another one.
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))) python3)
BENCH := build/bench
BENCH_CC := $(CC) -std=gnu11 -O2 -Wall -Wextra
NATIVE := $(wildcard zpush/_fast/*.pyx zpush/_fast/*.pxd zpush/_fast/*.h)
ARGS ?=

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: $(VENV)/.built ## build what changed and start zpush here, demo page included (ARGS="--workers 2 …")
	@exec $(BIN)/zpush serve $(ARGS)

.PHONY: build
build: $(VENV)/.built ## virtual environment and extensions, nothing more

.PHONY: test
test: system-test $(VENV)/.dev $(VENV)/.built ## ruff, mypy and all tests (ARGS="-k name -x …")
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

.PHONY: bench
bench: $(VENV)/.dev $(VENV)/.built $(BENCH)/floor $(BENCH)/load ## CPU, memory and latency of a server, beside a floor in C (ARGS="name …")
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-queue
bench-queue: $(VENV)/.dev $(VENV)/.built $(BENCH)/floor $(BENCH)/load ## what the queue costs on a real Kafka (ARGS="produce outcome …")
	$(BIN)/python -m benchmarks.queue $(ARGS)

.PHONY: bench-functions
bench-functions: $(VENV)/.dev $(VENV)/.built ## time of single functions, beside other ways to do the same (ARGS="-k name …")
	$(BIN)/python -m pytest benchmarks/functions --benchmark-only --benchmark-group-by=group \
		--benchmark-columns=median,iqr,ops --benchmark-max-time=0.3 --benchmark-warmup=on $(ARGS)

.PHONY: bench-check
bench-check: $(VENV)/.dev $(VENV)/.built $(BENCH)/floor $(BENCH)/load $(BENCH)/callgrind.so ## instructions and memory, held against benchmarks/baseline.json (ARGS="--update")
	$(BIN)/python -m benchmarks.check $(ARGS)

.PHONY: fuzz
fuzz: $(VENV)/.dev $(VENV)/.built ## look for inputs that break what must hold (ARGS="--seconds 600 frames engine", --help)
	$(BIN)/python -m tests.fuzz $(ARGS)

.PHONY: sanitize
sanitize: $(VENV)/.dev $(VENV)/.built ## the engine's tests under ASan and UBSan, in build/sanitize (ARGS="-m tests.fuzz engine")
	.ci/sanitize $(BIN)/python $(ARGS)

.PHONY: conformance
conformance: $(VENV)/.dev $(VENV)/.built build/conformance/bin/wstest ## Autobahn's conformance suite against /ws (needs a Python 2.7; PYTHON2=…)
	$(BIN)/python -m pytest tests/road/test_conformance.py $(ARGS)

.PHONY: kafka
kafka: $(VENV)/.dev $(VENV)/.built ## a Kafka broker on this machine until Ctrl-C; says what to do with it (ARGS="--port 9092")
	@exec $(BIN)/python -m tests.kafka $(ARGS)

.PHONY: regions
regions: $(VENV)/.dev $(VENV)/.built ## three regions with Kafka, MirrorMaker and zpush on this machine, until Ctrl-C
	@exec $(BIN)/python -m tests.kafka.regions

.PHONY: docs
docs: $(VENV)/.built ## write docs/configuration.md anew, after a setting changed
	$(BIN)/zpush config docs > docs/configuration.md

.PHONY: clean
clean: ## remove all that make made; zpush-data stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	rm -f zpush/_fast/*.so $(patsubst %.pyx,%.c,$(wildcard zpush/_fast/*.pyx))
	find zpush tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Says what to install, instead of a compiler's error a minute later.
.PHONY: system-build system-test
system-build:
	@missing=$$(.ci/missing $(PYTHON)); [ -z "$$missing" ] || \
		{ echo "Missing on this machine: $$missing"; echo "  sudo apt-get install $$missing"; exit 1; } >&2
system-test:
	@missing=$$(.ci/missing $(PYTHON) test); [ -z "$$missing" ] || \
		{ echo "Missing on this machine: $$missing"; echo "  sudo apt-get install $$missing"; exit 1; } >&2

$(BIN)/python: | system-build
	$(PYTHON) -m venv $(VENV)

# The package itself is installed in place, and compiled by .built alone; --no-build-isolation: Cython and setuptools are
# here already.
IN_PLACE := ZPUSH_NO_EXTENSIONS=1 $(BIN)/python -m pip install -q --no-build-isolation -e

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q "setuptools>=77" "cython>=3.1,<4"
	$(IN_PLACE) .
	@touch $@

# More than .installed, so that step needs not run after it.
$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q "setuptools>=77" "cython>=3.1,<4"
	$(IN_PLACE) ".[dev]"
	@touch $(VENV)/.installed $@

# For benchmarks only: no part of the package.
$(BENCH)/floor: benchmarks/floor.c benchmarks/sha1.h
	@mkdir -p $(@D)
	$(BENCH_CC) -o $@ $<

$(BENCH)/load: $(wildcard benchmarks/load*.c) benchmarks/load.h
	@mkdir -p $(@D)
	$(BENCH_CC) -o $@ $(filter %.c,$^)

build/conformance/bin/wstest: .ci/conformance | $(BIN)/python
	.ci/conformance $(BIN)/python

# Without valgrind there is nothing to build, and bench-check says so.
$(BENCH)/callgrind.so: benchmarks/callgrind.c
	@mkdir -p $(@D)
	@! echo '#include <valgrind/callgrind.h>' | $(CC) -E - >/dev/null 2>&1 || $(BENCH_CC) -shared -fPIC -o $@ $<

$(VENV)/.built: setup.py $(NATIVE) $(VENV)/.installed
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@
