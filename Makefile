# Every target sets up .venv by itself; a fresh machine needs Python 3.11 (or newer) and make.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)
BIN := .venv/bin
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -gt 8 ] && echo 8 || echo $$n)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# a .venv that was half made, moved or broken is set up again
_ := $(shell [ "$$(cat .venv/.made 2>/dev/null)" = "$(CURDIR)" ] && $(BIN)/python -c 'import pip' 2>/dev/null || \
	rm -f .venv/.made .venv/.installed .venv/.developing)
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off

.DEFAULT_GOAL := help
.PHONY: help demo test check size docs bench deep clean

help:
	@echo "make demo    train a small Vision Transformer on handwritten digits three times, about three minutes"
	@echo "make test    all tests but the long sweeps"
	@echo "make check   format, lint, types, import layers"
	@echo "make size    code lines by package"
	@echo "make docs    the documents: links hold, commands exist, examples run"
	@echo "make bench   every speed claim beside its peer (quiet machine, several minutes)"
	@echo "make deep    the long sweeps: ten times the cases, a minute of damaged files a format"
	@echo "make clean   remove .venv and what tools left behind"

demo: .venv/.installed
	$(BIN)/python -m vitrail train digits --seeds 3

test: .venv/.developing
	$(PYTEST) -n $(WORKERS) --dist worksteal

check: .venv/.developing
	$(BIN)/python -m ruff format --check src tests bench
	$(BIN)/python -m ruff check src tests bench
	$(BIN)/python -m pyrefly check
	$(BIN)/python $(BIN)/lint-imports

size:
	@python3 tests/support/size.py src tests bench

docs: .venv/.developing
	$(PYTEST) tests/test_documents.py

bench: .venv/.developing
	@set -e; for claim in bench/*.py; do echo "== $$claim"; $(BIN)/python $$claim; done

deep: .venv/.developing
	VITRAIL_DEEP=1 $(PYTEST) -m deep -n $(WORKERS) -rP

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist

# A stamp is written last, so that an interrupted set-up is taken up again and a finished one is not repeated.
.venv/.installed: pyproject.toml | .venv/.made
	@echo "setting up .venv: PyTorch and what else Vitrail needs (once)"
	$(PIP) --editable .
	@touch $@

.venv/.developing: pyproject.toml | .venv/.made
	@echo "setting up .venv: Vitrail and its tests' tools (once)"
	$(PIP) --editable '.[dev]'
	@touch $@ .venv/.installed

.venv/.made:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer was found; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || "$(PYTHON)" -m venv --clear .venv || \
		{ echo "error: $(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "$(CURDIR)" > $@
