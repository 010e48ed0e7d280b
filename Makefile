# `make demo` and `make test` set everything up on a machine with Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
ifneq ($(wildcard $(CURDIR)/../shared/data),)
export DREAM_DATA ?= $(CURDIR)/../shared/data
endif

.PHONY: help demo test bench gpu adaptation soak lint format docs sbom clean

help:
	@echo "make demo    set up and run the forecasting demo (under 3 minutes)"
	@echo "make test    set up and run the tests"
	@echo "make bench   set up and time the layer beside nn.LSTM and others (about 5 minutes)"
	@echo "make gpu     with a GPU: set up, run the tests that need one, and time the layer beside nn.LSTM (under 8 minutes)"
	@echo "make adaptation  set up and run tasks with something new at test time, 3 seeds (over an hour)"
	@echo "make soak    set up and run what the tests run in short for long: kills, hostile and damaged data, memory (about 20 minutes)"
	@echo "make lint    set up and run ruff, mypy and the check of docstrings"
	@echo "make format  set up and reformat the code"
	@echo "make docs    set up and build the documentation site, build/docs/index.html"
	@echo "make sbom    set up and write dist/sbom.json: every pinned package, as CycloneDX"
	@echo "make clean   remove the virtual environment and caches"

# The stamps hold what was asked for, so that a second call costs nothing and a changed constraint installs again.
$(BIN)/.installed: pyproject.toml constraints.txt dream/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(BIN)/.linters: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	@touch $@

demo: $(BIN)/.installed
	$(BIN)/dream fit -c forecasting

test: $(BIN)/.installed
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

$(BIN)/.benchmarks: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[test,bench]'
	@touch $@

bench: $(BIN)/.benchmarks
	$(BIN)/python -m experiments.benchmarks.layer
	$(BIN)/python -m experiments.benchmarks.rows
	$(BIN)/python -m experiments.benchmarks.ranks
	$(BIN)/python -m experiments.benchmarks.service

gpu: $(BIN)/.installed
	$(BIN)/python -m pytest --quiet -m gpu --numprocesses auto tests
	$(BIN)/python -m experiments.benchmarks.gpu --seconds 240

adaptation: $(BIN)/.installed
	$(BIN)/python -m experiments.benchmarks.adaptation --jobs 2

soak: $(BIN)/.installed
	$(BIN)/python -m tests.soak
	$(BIN)/python -m pytest --quiet tests/experiments/test_bad_inputs.py

lint: $(BIN)/.linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict dream
	$(BIN)/mypy lightning_modules experiments
	$(BIN)/python tests/style.py

format: $(BIN)/.linters
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/.docs: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[test,docs]'
	@touch $@

docs: $(BIN)/.docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

$(BIN)/.sbom: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[test,sbom]'
	@touch $@

# -W: it warns that requirements alone do not say what depends on what
sbom: $(BIN)/.sbom
	@mkdir -p dist
	$(BIN)/python -W ignore -m cyclonedx_py requirements constraints.txt --pyproject pyproject.toml --mc-type library \
		--output-format JSON --output-reproducible --output-file dist/sbom.json

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
