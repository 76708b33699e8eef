# hammerfs: `make demo` and `make test` each work alone on a new Debian 12+ / Ubuntu 24.04+ machine.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
JOBS   ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

.PHONY: demo test test-long bench lint types contracts clean

demo: $(STAMP)
	$(BIN)/python scripts/demo.py

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not long and not perf" $(PYTEST_ARGS)

test-long: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "long" --timeout 0 $(PYTEST_ARGS)

bench: $(STAMP)
	$(BIN)/python -m kernelcore bench $(BENCH_ARGS)
	$(BIN)/python -m tests.perf.bench_read $(BENCH_ARGS)
	$(BIN)/python -m tests.perf.bench_mount $(BENCH_ARGS)
	$(BIN)/python -m tests.perf.bench_fsck $(BENCH_ARGS)
	$(BIN)/python -m tests.perf.bench_btree $(BENCH_ARGS)
	$(BIN)/python -m tests.perf.bench_write $(BENCH_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

contracts: $(STAMP)
	$(BIN)/lint-imports

$(STAMP): pyproject.toml scripts/install-deps.sh
	PYTHON=$(PYTHON) sh scripts/install-deps.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[mount,dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
