# Everything runs in .venv, which `make dev` makes. Needs Python 3.11 or newer, a Rust toolchain and a
# package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST := $(wildcard rust/*.rs rust/*/*.rs) Cargo.toml Cargo.lock pyproject.toml
# options of `rarec demo`, such as DEMO=--restart
DEMO ?=
# the benchmark that `make bench` runs, such as ONLY=ops; all of them if it is empty
ONLY ?=
# small tests in two processes are fastest with one thread each, and Triton's interpreter is too
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PYTEST := -n 2 -q --durations 10
# tests of one file share costly fixtures, so one process runs all of them
BY_FILE := --dist loadfile
# tests on real data skip if this folder is missing
export RAREC_SHARED_DATA ?= $(abspath ../shared/data)

.PHONY: help dev demo test nightly check test-rust test-sources test-wheel test-oldest compile-sm90 \
	test-python test-kernels test-slow faults compile-kernels test-mutants test-sanitizer test-aarch64 fuzz architectures \
	bench wheel clean

help:
	@echo "make demo     the whole path on MovieLens-100K and MiniLM; results in runs/demo"
	@echo "make test     all checks and tests of CI, on the installed wheel"
	@echo "make nightly  the slow tests"
	@echo "make dev      .venv with everything for development"
	@echo "make check    formatters, linters, types"
	@echo "make bench    benchmarks (ONLY=name for one)"
	@echo "make wheel    the wheel, in dist/"

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "rarec needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@command -v cargo > /dev/null \
		|| { echo "rarec needs a Rust toolchain (cargo): https://rustup.rs"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@touch $@

$(VENV)/installed: $(VENV)/made $(RUST)
	@echo "building and installing rarec (torch is large: a few minutes the first time)"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/developed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

dev: $(VENV)/developed

demo: $(VENV)/installed
	$(BIN)/rarec demo $(DEMO)

# What CI runs. The Python tests run once, on the installed wheel.

test: check test-rust test-sources test-wheel test-oldest compile-sm90
	@echo "all checks and tests passed"

check: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	MYPYPATH=python $(BIN)/python -m mypy.stubtest rarec._rust
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	PYO3_PYTHON=$(abspath $(BIN)/python) cargo clippy --quiet --features python -- -D warnings

test-rust:
	cargo test --quiet --release

# tests that read the sources or the benchmarks, and the examples in docstrings
SOURCE_TESTS := tests/test_architecture.py $(wildcard tests/test_benches_*.py)
test-sources: dev
	$(ONE_THREAD) $(BIN)/python -m pytest -q --doctest-modules $(SOURCE_TESTS) python/rarec \
		--ignore python/rarec/kernels

# A test in another folder shows which files the wheel lacks. torch needs 4 GB of GPU libraries, which
# rarec does not name: they are linked from .venv, not installed a second time. The kernels need a
# process with TRITON_INTERPRET=1, because Triton reads the variable when it is imported; without it
# their tests would compare the reference with itself.
WHEEL_TEST := target/wheel-test
PACKAGES := lib/python3*/site-packages
LARGE := $(addprefix $(abspath $(VENV))/$(PACKAGES)/,triton* nvidia* cuda*)
test-wheel: wheel dev
	rm -rf $(WHEEL_TEST) && mkdir -p $(WHEEL_TEST)/docs
	$(PYTHON) -m venv $(WHEEL_TEST)/venv
	cd $(WHEEL_TEST)/venv/$(PACKAGES) && \
		for package in $(LARGE); do [ ! -e $$package ] || ln -s $$package .; done
	$(WHEEL_TEST)/venv/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(WHEEL_TEST)/venv/bin/python -m pip install --quiet --group test dist/rarec-*.whl
	cp -r tests pyproject.toml $(WHEEL_TEST)/ && cp -r docs/studies $(WHEEL_TEST)/docs/
	rm $(addprefix $(WHEEL_TEST)/,$(SOURCE_TESTS))
	cd $(WHEEL_TEST) && $(ONE_THREAD) venv/bin/python -m pytest $(PYTEST) $(BY_FILE) \
		--ignore tests/test_kernels.py
	cd $(WHEEL_TEST) && TRITON_INTERPRET=1 $(ONE_THREAD) venv/bin/python -m pytest $(PYTEST) \
		tests/test_kernels.py
	cd $(WHEEL_TEST) && venv/bin/rarec --help > /dev/null
	rm -rf $(WHEEL_TEST)

# the oldest transformers that pyproject.toml allows; everything else comes from .venv
OLDEST := $(shell sed -n 's/.*"transformers>=\([0-9.]*\),.*/\1/p' pyproject.toml)
# the architectures that it does not know yet are left out by name (`since` in tests/tiny_models.py)
OLDEST_TESTS ?= $(addprefix tests/test_,$(addsuffix .py,backbone backbone_architectures backbone_loading backbone_names model))
test-oldest: dev
	rm -rf target/oldest
	$(BIN)/python -m venv --without-pip target/oldest
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$(target/oldest/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/developed.pth"
	target/oldest/bin/python -m pip install --quiet "transformers==$(OLDEST)"
	$(ONE_THREAD) target/oldest/bin/python -m pytest $(PYTEST) $(BY_FILE) $(OLDEST_TESTS)

# compiles the kernels for an H100, which need not be here, and fails if one spills (docs/kernels.md)
compile-sm90: dev
	mkdir -p target
	$(ONE_THREAD) $(BIN)/python -m benches.compile_kernels --target sm_90 --out target/sm90.json

# What takes too long for CI.

nightly: test-slow faults compile-kernels test-mutants test-sanitizer
	$(MAKE) test-oldest OLDEST_TESTS="$(addprefix tests/test_,$(addsuffix .py,encoding prompts recommender training))"
	if cargo +nightly --version > /dev/null 2>&1; then $(MAKE) fuzz; \
		else echo "fuzz targets not run: they need a nightly Rust toolchain"; fi

test-slow: dev
	$(ONE_THREAD) $(BIN)/python -m pytest $(PYTEST) $(BY_FILE) -m slow

# disturbs all commands at their file events and damages finished runs; FAULTS=--share=0.1 is quicker
FAULTS ?=
faults: dev
	mkdir -p target
	$(ONE_THREAD) $(BIN)/python -m tests.faults --jobs 2 --output target/faults.json $(FAULTS)

# the same for all GPUs that rarec supports; writes benches/results/kernels.json
compile-kernels: dev
	$(ONE_THREAD) $(BIN)/python -m benches.compile_kernels

# checks that the tests of the kernels notice mistakes in the kernels
test-mutants: dev
	$(BIN)/python -m benches.tools.kernel_mutants

# the Rust tests with the address sanitizer, for each instruction set of this processor
test-sanitizer:
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address cargo test --quiet --release \
		--target $$(rustc -vV | sed -n 's/host: //p') --target-dir target/sanitizer --lib

# all fuzz targets with the address sanitizer, SECONDS each; needs a nightly Rust toolchain
SECONDS ?= 30
fuzz:
	command -v cargo-fuzz > /dev/null || cargo install --quiet cargo-fuzz
	for target in sampling scoring denoising; do \
		cargo +nightly fuzz run --fuzz-dir rust/fuzz $$target -- -max_total_time=$(SECONDS) -max_len=4096 || exit 1; \
	done

# While you work: tests of the tree, without building a wheel.

test-python: dev
	$(ONE_THREAD) $(BIN)/python -m pytest $(PYTEST) $(BY_FILE) --ignore tests/test_kernels.py

test-kernels: dev
	TRITON_INTERPRET=1 $(ONE_THREAD) $(BIN)/python -m pytest $(PYTEST) tests/test_kernels.py

# the Rust tests on NEON; needs the Rust target, a cross linker and qemu-user
test-aarch64:
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu" \
		cargo test --quiet --release --target aarch64-unknown-linux-gnu --lib

# writes docs/architectures.md: which language models take a prefix exactly
architectures: dev
	$(ONE_THREAD) $(BIN)/python -m benches.tools.architectures

bench: dev
	$(ONE_THREAD) $(BIN)/python -m pytest benches --benchmark-only -o python_files="bench_$(ONLY)*.py"

wheel: $(VENV)/made
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls -l dist

clean:
	rm -rf $(VENV) target dist
