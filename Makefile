# make demo    train, compare and register models on the bundled sample
# make test    style, import rules, types, tests
# make lint    style, import rules, types
# make format  rewrite the code in the style of the repository
# make bench   run the benchmarks of speed and write their tables into docs/benchmarks.md
# make bench-gpu  time a training step on a GPU, in under eight minutes
# make docs    build the documentation into site/, offline; a warning or a broken link is an error
# make clean   remove the environment, the site and the caches of tools; never the warehouse
#
# Each creates the environment first if it is missing or older than its requirements.
# Variables: PYTHON=python3.12 the interpreter of the environment; VENV=path of the environment;
#            BENCHMARKS="chain ngram" which of benchmarks/; ngram, ablation and translation need corpora;
#            JOBS=4 test processes; TESTS="tests/test_text.py -k clitics" what to test;
#            MARKED="network or not network" also the test that installs a registered version's
#            requirements into a fresh environment, which takes minutes.
# On Linux, torch from the default package index brings several GB of CUDA libraries. To have the small
# CPU build, install it first:  make venv INSTALL_FIRST="torch --index-url <index of CPU builds>"
# (https://pytorch.org names that index).

PYTHON ?= python3
VENV ?= .venv
JOBS ?= auto
TESTS ?=
MARKED ?= not network
INSTALL_FIRST ?=
BENCHMARKS ?= segmentation ingest chain data_profile word_language_model sweep step_memory

# What computes with torch, tested once more as on a CPU that has nothing beyond AVX2.
AVX2 := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2
NUMERIC := averaging cpu_layers problems recurrent regularisation search softmax training

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV := $(shell command -v uv 2>/dev/null)
ifdef UV
CREATE = uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
INSTALL = uv pip install --quiet --python $(BIN)/python
else
CREATE = $(PYTHON) -m venv $(VENV)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517
endif

.PHONY: demo test lint format docs bench bench-gpu clean venv

demo: $(STAMP)
	@$(BIN)/tidemill retrain demo

test: lint
	@echo "tests"
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m "$(MARKED)" $(TESTS)
ifeq ($(TESTS),)
	@echo "numeric tests, restricted to AVX2"
	@$(AVX2) $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile $(NUMERIC:%=tests/test_%.py)
endif

lint: $(STAMP)
	@echo "style"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "run 'make format'"; exit 1; }
	@echo "import rules"
	@report=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$report"; exit 1; }
	@echo "types"
	@$(BIN)/mypy --no-error-summary

format: $(STAMP)
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

docs: $(STAMP)
	@$(BIN)/python docs/generate.py
	@$(BIN)/zensical build --strict --clean
	@$(BIN)/python docs/check_links.py site
	@echo "open site/index.html; for the search: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site"

bench: $(STAMP)
	@for name in $(BENCHMARKS); do echo "$$name"; $(BIN)/python "benchmarks/$$name.py" || exit 1; done
	@$(BIN)/python benchmarks/report.py

bench-gpu: $(STAMP)
	@$(BIN)/python benchmarks/gpu.py

clean:
	rm -rf $(VENV) .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist docs/reference site
	find flows pipeline warehouse tests -name __pycache__ -type d -exec rm -rf {} +

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "environment in $(VENV) (a few minutes, once)"
	@$(CREATE)
ifneq ($(INSTALL_FIRST),)
	@$(INSTALL) -c constraints.txt $(INSTALL_FIRST)
endif
	@$(INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@
