# Two commands for a fresh machine: `make demo` and `make test`. Each does its own set-up.
PYTHON ?= python3
BIN := .venv/bin
# Files with parts that cog writes from the code.
GENERATED := batcher/settings.py docs/cli.md docs/design.md docs/services.md

.PHONY: demo test test-lowest check docs bench clean

demo: .venv/.runtime
	$(BIN)/batcher demo

test: .venv/.dev
	$(BIN)/python -m pytest

# The tests on the oldest releases that pyproject.toml admits.
test-lowest: .venv-lowest/.dev
	.venv-lowest/bin/python -m pytest

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/cog --check -P $(GENERATED)

# Writes the parts that come from the code, then the outputs of the commands that the pages show.
docs: .venv/.dev
	$(BIN)/cog -r -P $(GENERATED)
	$(BIN)/python tests/pages.py

# batcher beside what else could do the job, on this machine: five minutes. See docs/performance.md.
bench: .venv/.bench
	$(BIN)/python benchmarks/compare.py

clean:
	rm -rf .venv .venv-lowest

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "batcher needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.runtime: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ .venv/.runtime

.venv/.bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@ .venv/.runtime

.venv-lowest/.dev: pyproject.toml tests/lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint tests/lowest.txt --editable '.[dev]'
	touch $@
