# hammerfs: `make demo` and `make test` each work alone on a new Debian 12+ / Ubuntu 24.04+ machine.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
JOBS   ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

PREFIX  ?= /usr/local
SBINDIR ?= /sbin
LIBDIR  := $(PREFIX)/lib/hammerfs
COMMANDS := hammer undo newfs_hammer fstyp_hammer fsck_hammer mount_hammer
HELPERS := mount.hammer mount.fuse.hammer umount.hammer umount.fuse.hammer fsck.hammer mkfs.hammer

.PHONY: demo test test-long bench lint types contracts install uninstall clean

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

# The program with all it needs in a folder of its own, links to it, and the helpers where mount(8) looks for them.
install:
	PYTHON=$(PYTHON) sh scripts/install-deps.sh
	$(PYTHON) -m venv "$(LIBDIR)"
	"$(LIBDIR)/bin/python" -m pip install -q --disable-pip-version-check '.[mount]'
	mkdir -p "$(PREFIX)/bin" "$(SBINDIR)"
	for name in $(COMMANDS); do ln -sf "$(LIBDIR)/bin/$$name" "$(PREFIX)/bin/$$name" || exit 1; done
	for name in $(HELPERS); do ln -sf "$(LIBDIR)/bin/$$name" "$(SBINDIR)/$$name" || exit 1; done
	sh scripts/support-files.sh install "$(PREFIX)" $(COMMANDS) $(HELPERS)

uninstall:
	for name in $(COMMANDS); do rm -f "$(PREFIX)/bin/$$name"; done
	for name in $(HELPERS); do rm -f "$(SBINDIR)/$$name"; done
	sh scripts/support-files.sh uninstall "$(PREFIX)" $(COMMANDS) $(HELPERS)
	rm -rf "$(LIBDIR)"

$(STAMP): pyproject.toml scripts/install-deps.sh
	PYTHON=$(PYTHON) sh scripts/install-deps.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[mount,dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
