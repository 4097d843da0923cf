# Every target sets up what it needs: Python 3.11+, Rust (rustup), a C linker and make must be there.
# PYTHON chooses the interpreter of a new virtual environment: make test PYTHON=python3.12
PYTHON    ?= python3
PROTO_OUT ?= .
VENV      := .venv
BIN       := $(VENV)/bin
PIP       := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check -c constraints.txt
NATIVE    := $(shell find compute/native -name target -prune -o \( -name '*.rs' -o -name '*.toml' \) -print)

.PHONY: help setup demo test deep check bench proto wheel verifier clean
help:
	@echo "make demo    two connectors and a witness answer joint queries on this machine"
	@echo "make test    the tests (five minutes at most, no root)"
	@echo "make deep    the longer checks: crash sweeps, verification by other people's tools"
	@echo "make check   linters, types, import rules, clippy, cargo test, stale generated code"
	@echo "make bench   every benchmark at its goal's size, into benchmarks/RESULTS.md (half an hour)"
	@echo "             PEERS=/path/to/python: an environment with spu, openmined-psi, phe to compare with"
	@echo "make wheel   the installable package, into dist/"
	@echo "make verifier  the auditor's single file, dist/bayspace-verify.pyz: equal sources, equal bytes"
	@echo "make proto   regenerate the gRPC code from proto/"

setup: $(VENV)/.ready
	@:

$(VENV)/.python: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "bayspace needs Python 3.11 or newer; '$(PYTHON)' is not. Name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "bayspace needs Python's venv module (Debian: apt-get install python3-venv)" >&2; exit 2; }
	@command -v cargo >/dev/null || { echo "bayspace needs Rust 1.89 or newer: cargo is not on the PATH (https://rustup.rs)" >&2; exit 2; }
	@command -v cc >/dev/null || { echo "bayspace needs a C linker: cc is not on the PATH (Debian: apt-get install gcc libc6-dev)" >&2; exit 2; }
	@echo "setting up $(VENV): Python packages (one to three minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) maturin
	@$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *p["optional-dependencies"]["dev"], *p["optional-dependencies"]["postgres"], *p["optional-dependencies"]["console"], sep="\n")' > $(VENV)/requirements.txt
	@$(PIP) -r $(VENV)/requirements.txt
	@touch $@

# Editable: the checkout is what runs. pip looks for maturin on the PATH.
$(VENV)/.ready: $(VENV)/.python $(NATIVE)
	@echo "building the Rust kernel (about one minute the first time)"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	@$(BIN)/bayspace demo

# Files in parallel, each file's tests in order: many of them wait for processes, not for the processor.
test: setup
	@$(BIN)/python -m pytest -n auto --dist loadfile -rs

deep: setup
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -rs -m deep

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo
	cargo fmt --manifest-path compute/native/Cargo.toml --check
	@# As an extension module, so that the tests link where there is no libpython to link with.
	PYO3_BUILD_EXTENSION_MODULE=1 cargo clippy --manifest-path compute/native/Cargo.toml --all-targets --quiet -- -D warnings
	PYO3_BUILD_EXTENSION_MODULE=1 cargo test --manifest-path compute/native/Cargo.toml --quiet
	rm -rf $(VENV)/proto && mkdir $(VENV)/proto
	$(MAKE) --no-print-directory proto PROTO_OUT=$(VENV)/proto
	diff -r -x '__*__*' $(VENV)/proto/connector/v1 connector/v1
	diff -r -x '__*__*' $(VENV)/proto/witness/v1 witness/v1

bench: setup
	@$(PIP) matplotlib
	@$(BIN)/python -m benchmarks.run all $(if $(PEERS),--peers $(PEERS))

proto: $(VENV)/.python
	@$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=$(PROTO_OUT) --mypy_out=quiet:$(PROTO_OUT) --grpc_python_out=$(PROTO_OUT) --mypy_grpc_out=quiet:$(PROTO_OUT) \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		$$(find proto -name '*.proto')

wheel: setup
	@rm -rf dist
	@$(BIN)/maturin build --release --quiet --out dist
	@ls dist/*.whl

verifier: $(VENV)/.python
	@mkdir -p dist
	@$(BIN)/python -m witness.onefile dist/bayspace-verify.pyz

clean:
	rm -rf $(VENV) compute/native/target bayspace-demo dist
