# Everything runs in .venv, which the first target makes. Needs Python 3.11+, a Rust toolchain and
# a package index; nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST := $(wildcard rust/*.rs rust/python/*.rs rust/simd/*.rs) Cargo.toml Cargo.lock pyproject.toml
# what `make demo` passes on, such as DEMO="--fresh"
DEMO ?=
# which benchmark `make bench` runs, such as ONLY=ops; empty for all
ONLY ?=
# one thread each: many small tests side by side are quicker, and Triton's interpreter is far quicker
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PYTEST := -n 2 --dist loadfile -q

.PHONY: help dev demo test check test-rust test-sanitizer test-aarch64 test-python test-oldest test-kernels \
	compile-kernels test-mutants architectures test-wheel fuzz bench wheel clean

help:
	@echo "make demo   the whole path on MovieLens-100K and MiniLM; results in runs/demo"
	@echo "make test   all checks and tests, also of the built wheel: what CI runs"
	@echo "make dev    .venv with everything for development"
	@echo "make check  formatters, linters, types"
	@echo "make bench  benchmarks (ONLY=name for one)"
	@echo "make wheel  the wheel, in dist/"

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

# under the address sanitizer; needs a nightly toolchain. All targets, SECONDS each.
SECONDS ?= 30
fuzz:
	command -v cargo-fuzz > /dev/null || cargo install --quiet cargo-fuzz
	for target in sampling scoring denoising; do \
		cargo +nightly fuzz run --fuzz-dir rust/fuzz $$target -- -max_total_time=$(SECONDS) -max_len=4096 || exit 1; \
	done

# the Rust tests with the address sanitizer over all instructions this processor has
test-sanitizer:
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address cargo test --quiet --release \
		--target $$(rustc -vV | sed -n 's/host: //p') --target-dir target/sanitizer --lib

# the same tests as NEON; needs the Rust target, a cross linker and qemu-user
test-aarch64:
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu" \
		cargo test --quiet --release --target aarch64-unknown-linux-gnu --lib

test-python: dev
	$(ONE_THREAD) $(BIN)/python -m pytest $(PYTEST) --ignore tests/test_kernels.py
	$(ONE_THREAD) $(BIN)/python -m pytest -q --doctest-modules python/rarec --ignore python/rarec/kernels

# on the oldest transformers that pyproject.toml allows, over all else of .venv
OLDEST := $(shell sed -n 's/.*"transformers>=\([0-9.]*\),.*/\1/p' pyproject.toml)
OLDEST_TESTS := $(addprefix tests/test_,$(addsuffix .py,backbone backbone_architectures \
	backbone_loading encoding model prompts recommender training))
test-oldest: dev
	rm -rf target/oldest
	$(BIN)/python -m venv --without-pip target/oldest
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$(target/oldest/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/developed.pth"
	target/oldest/bin/python -m pip install --quiet "transformers==$(OLDEST)"
	$(ONE_THREAD) target/oldest/bin/python -m pytest $(PYTEST) $(OLDEST_TESTS)

# a process of its own: Triton reads the variable when it is imported
test-kernels: dev
	TRITON_INTERPRET=1 $(ONE_THREAD) $(BIN)/python -m pytest -n 2 -q tests/test_kernels.py

# the kernels for GPUs that need not be here: none may spill (docs/kernels.md)
compile-kernels: dev
	$(ONE_THREAD) $(BIN)/python -m benches.compile_kernels

# which language models take a prefix, exactly: writes docs/architectures.md
architectures: dev
	$(ONE_THREAD) $(BIN)/python -m tests.architectures

# do the tests of the kernels notice mistakes in them?
test-mutants: dev
	$(BIN)/python -m tests.kernel_mutants

# only the installed wheel, seen from elsewhere, shows what the wheel forgot; what torch brings for
# GPUs, 4 GB that no wheel of ours names, is seen from .venv and not installed a second time
PACKAGES := lib/python3*/site-packages
LARGE := $(addprefix $(abspath $(VENV))/$(PACKAGES)/,triton* nvidia* cuda*)
test-wheel: wheel dev
	rm -rf target/wheel-test && mkdir -p target/wheel-test
	$(PYTHON) -m venv target/wheel-test/venv
	cd target/wheel-test/venv/$(PACKAGES) && \
		for package in $(LARGE); do [ ! -e $$package ] || ln -s $$package .; done
	target/wheel-test/venv/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	target/wheel-test/venv/bin/python -m pip install --quiet --group test dist/rarec-*.whl
	cp -r tests pyproject.toml target/wheel-test/
	rm target/wheel-test/tests/test_architecture.py target/wheel-test/tests/test_benches_*.py
	cd target/wheel-test && TRITON_INTERPRET=1 $(ONE_THREAD) venv/bin/python -m pytest $(PYTEST)
	cd target/wheel-test && venv/bin/rarec --help > /dev/null
	rm -rf target/wheel-test

test: check test-rust test-python test-oldest test-kernels compile-kernels test-wheel
	@echo "all checks and tests passed"

bench: dev
	$(ONE_THREAD) $(BIN)/python -m pytest benches --benchmark-only -o python_files="bench_$(ONLY)*.py"

wheel: $(VENV)/made
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls -l dist

clean:
	rm -rf $(VENV) target dist
