# Every target sets up what it needs: Python 3.11+, Rust (rustup) and make are all that must be there.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS := dev,postgres
NATIVE := $(shell find compute/native -name '*.rs' -o -name 'Cargo.toml' | grep -v /target/)

.PHONY: help demo test check proto clean setup
help:
	@echo "make demo    two connectors and a witness answer joint queries on this machine"
	@echo "make test    the tests (five minutes at most, no root)"
	@echo "make check   linters, types, import rules, clippy, cargo test, stale generated code"
	@echo "make proto   regenerate the gRPC code from proto/"

setup: $(VENV)/.ready

$(VENV)/.python: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "bayspace needs Python 3.11 or newer: $(PYTHON) is not on the PATH" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "bayspace needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "bayspace needs Python's venv module (Debian: apt-get install python3-venv)" >&2; exit 2; }
	@echo "setting up $(VENV) (Python packages; one to three minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $$($(PYTHON) -c "import tomllib; p = tomllib.load(open('pyproject.toml','rb'))['project']; print(' '.join(p['dependencies'] + sum((p['optional-dependencies'][e] for e in '$(EXTRAS)'.split(',')), [])))" | tr -d '\n' | sed 's/[<>]=*[0-9.,<>=]*//g')
	@touch $@

$(VENV)/.ready: $(VENV)/.python $(NATIVE)
	@command -v cargo >/dev/null || { echo "bayspace needs Rust 1.89 or newer (cargo is not on the PATH): https://rustup.rs" >&2; exit 2; }
	@echo "building the Rust kernel (about one minute the first time)"
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --quiet
	@touch $@

demo: setup
	@$(BIN)/bayspace demo

test: setup
	@$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cargo clippy --manifest-path compute/native/Cargo.toml --all-targets --quiet -- -D warnings
	cargo test --manifest-path compute/native/Cargo.toml --quiet
	$(MAKE) --no-print-directory proto
	git diff --exit-code -- connector/v1 witness/v1

proto: $(VENV)/.python
	@$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=. --mypy_out=. --grpc_python_out=. --mypy_grpc_out=. \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		$$(find proto -name '*.proto')

clean:
	rm -rf $(VENV) compute/native/target bayspace-demo
