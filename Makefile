# `make demo` and `make test` set everything up on a machine with Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
ifneq ($(wildcard $(CURDIR)/../shared/data),)
export DREAM_DATA ?= $(CURDIR)/../shared/data
endif

.PHONY: help demo test bench gpu adaptation peers build/peers/wheel soak lint image format docs sbom clean

help:
	@echo "make demo    set up and run the forecasting demo (under 3 minutes)"
	@echo "make test    set up and run the tests"
	@echo "make bench   set up and time the layer beside nn.LSTM and others (about 5 minutes)"
	@echo "make gpu     with a GPU: set up, run the tests that need one, and time the layer beside nn.LSTM (under 8 minutes)"
	@echo "make adaptation  set up and run tasks with something new at test time, 3 seeds (over an hour)"
	@echo "make peers   set up other packages, each in an environment of its own, and write reference values beside the tests"
	@echo "make soak    set up and run what the tests run in short for long: kills, hostile and damaged data, memory (about 20 minutes)"
	@echo "make lint    set up and run ruff, mypy, hadolint and the check of docstrings"
	@echo "make image   set up and run the steps of the Dockerfile, without a container engine"
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

# A package whose pins clash with ours has those of peers/NAME.txt, in an environment of its own.
PEERS := $(basename $(notdir $(wildcard peers/*.txt)))
VALUES := $(filter-out aeon mlflow,$(PEERS))
TESTED := $(filter-out aeon,$(PEERS))

peers: $(PEERS:%=peers-%)

build/peers/%/.installed: peers/%.txt
	$(PYTHON) -m venv build/peers/$*
	env -u PIP_CONSTRAINT build/peers/$*/bin/python -m pip install --quiet --requirement $<
	@touch $@

build/peers/wheel: $(BIN)/.installed
	rm -rf $@
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $@ .

$(VALUES:%=tests/peers/%.json): tests/peers/%.json: build/peers/%/.installed
	build/peers/$*/bin/python peers/values.py $* $@

# with the installed wheel: neither the checkout nor the current folder is searched
$(TESTED:%=peers-%): peers-%: build/peers/%/.installed build/peers/wheel
	build/peers/$*/bin/python -m pip install --quiet --no-deps --force-reinstall build/peers/wheel/*.whl
	build/peers/$*/bin/pytest --quiet -o pythonpath= tests/peers

$(VALUES:%=peers-%): peers-%: tests/peers/%.json

peers-aeon: build/peers/aeon/.installed $(BIN)/.installed
	build/peers/aeon/bin/python peers/random_kernels.py sets build/peers/sequences
	$(BIN)/python -m experiments.benchmarks.sequences --write --sets build/peers/sequences
	build/peers/aeon/bin/python peers/random_kernels.py reference build/peers/sequences tests/peers/aeon.json

soak: $(BIN)/.installed
	$(BIN)/python -m tests.soak
	$(BIN)/python -m pytest --quiet tests/experiments/test_bad_inputs.py

lint: $(BIN)/.linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict dream
	$(BIN)/mypy lightning_modules experiments
	$(BIN)/python tests/style.py
	$(BIN)/hadolint deploy/Dockerfile

image: $(BIN)/.installed
	$(BIN)/python -W ignore -m tests.image

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
