# Two commands on a fresh machine: `make demo` and `make test`. Python 3.10 or newer and make are all they need.

PYTHON ?= python3
# What provides torch; another build: make venv TORCH="torch==2.9.0"
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
# torch_xla fits one torch alone, so its tests have an environment of their own.
XLA_TORCH ?= torch==2.9.0 torch_xla==2.9.0
XLA_VENV := .venv-xla
XLA_BIN := $(XLA_VENV)/bin
TPU_VENV := .venv-tpu
TPU_BIN := $(TPU_VENV)/bin
BUILD := build
# More for pytest: make test PYTEST_ARGS="-k loader"
PYTEST_ARGS ?=
# Colab's Python, wherever this machine has one.
PYTHON313 ?= $(firstword $(shell python3.13 -c 'import sys; print(sys.executable)' 2> /dev/null) \
	$(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python3.13))

.PHONY: help venv demo test test-slow test-browser test-colab test-binder test-xla test-tpu check lab bench clean

help:  ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

# Each stamp is one level of installation; all live in the same .venv.
$(VENV)/base: pyproject.toml
	@echo "Making $(VENV) (once; about two minutes, most of it for torch) ..."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -e ".[notebooks,widgets]"
	touch $@

$(VENV)/test: $(VENV)/base
	@echo "Adding what the tests need ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -e ".[test]"
	touch $@

$(VENV)/lab: $(VENV)/base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -e ".[lab,notebooks]"
	touch $@

$(VENV)/browser: $(VENV)/test $(VENV)/lab
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -e ".[browser]"
	touch $@

# Debian's packages, only where they are missing: a browser, and npm for axe-core, which checks accessibility.
$(BUILD)/npm/done: tests/browser/package.json
	command -v chromium || command -v chromium-browser || command -v google-chrome || (apt-get update -qq && apt-get install -y -qq chromium)
	command -v npm || (apt-get update -qq && apt-get install -y -qq npm)
	mkdir -p $(BUILD)/npm && cp tests/browser/package.json $(BUILD)/npm
	npm install --silent --no-fund --no-audit --prefix $(BUILD)/npm
	touch $@

# As in a notebook of Colab: its packages are there, then comes nbaccel.
.venv-colab/done: pyproject.toml tests/colab/pins.txt
	test -n "$(PYTHON313)" || (echo "test-colab needs Python 3.13: make test-colab PYTHON313=/path/to/python3.13"; exit 1)
	test -x .venv-colab/bin/python || $(PYTHON313) -m venv .venv-colab
	.venv-colab/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" numpy -r tests/colab/pins.txt
	.venv-colab/bin/python -m pip install --quiet --disable-pip-version-check -e .
	.venv-colab/bin/python -m pip install --quiet --disable-pip-version-check \
		accelerate hydra-core matplotlib pandas scikit-learn nbclient nbformat pytest pytest-timeout pytest-xdist -r tests/colab/pins.txt
	touch $@

# As Binder makes it.
.venv-binder/done: pyproject.toml binder/requirements.txt binder/postBuild
	test -x .venv-binder/bin/python || $(PYTHON) -m venv .venv-binder
	.venv-binder/bin/python -m pip install --quiet --disable-pip-version-check --retries 0 -r binder/requirements.txt
	PATH="$(CURDIR)/.venv-binder/bin:$$PATH" binder/postBuild
	touch $@

$(VENV)/bench: $(VENV)/test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -e ".[bench]"
	touch $@

$(XLA_VENV)/test: pyproject.toml
	@echo "Making $(XLA_VENV) (once; about 7 GB, since this torch brings CUDA along) ..."
	test -x $(XLA_BIN)/python || $(PYTHON) -m venv $(XLA_VENV)
	$(XLA_BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(XLA_BIN)/python -m pip install --quiet --disable-pip-version-check $(XLA_TORCH) -e ".[test-xla]"
	touch $@

$(TPU_VENV)/test: pyproject.toml
	@echo "Making $(TPU_VENV) (once; about 2 GB) ..."
	test -x $(TPU_BIN)/python || $(PYTHON) -m venv $(TPU_VENV)
	$(TPU_BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(TPU_BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -e ".[tpu,test-xla]"
	touch $@

venv: $(VENV)/base  ## The virtual environment, with nbaccel in it

demo: $(VENV)/base  ## Run notebooks/01_first_run.ipynb in a real kernel and show what it printed
	$(BIN)/python notebooks/run.py notebooks/01_first_run.ipynb $(BUILD)/demo

test: $(VENV)/test  ## Run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/test  ## Run the tests that take long: many processes, thousands of files
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow $(PYTEST_ARGS)

test-browser: $(VENV)/browser $(BUILD)/npm/done  ## Run the tests that need JupyterLab in Chromium
	$(BIN)/python -m pytest tests/browser $(PYTEST_ARGS)

COLAB_TESTS := tests/colab tests/test_widgets.py tests/test_bars.py tests/test_notebooks.py \
	$(addprefix tests/kernel/test_,magic.py launcher.py session.py jobs.py) \
	$(addprefix tests/faces/test_,curves.py configuration.py)

test-colab: .venv-colab/done  ## Run the tests of notebooks with Colab's Python and packages
	.venv-colab/bin/python -m pytest -n 2 --dist loadfile -W "ignore:Unclosed context:ResourceWarning" $(COLAB_TESTS) $(PYTEST_ARGS)

test-binder: .venv-binder/done  ## Run the first notebook with what Binder installs, in 2 GB
	.venv-binder/bin/python tests/binder/limited.py 2048 .venv-binder/bin/python notebooks/run.py \
		notebooks/01_first_run.ipynb $(BUILD)/binder

test-xla: $(XLA_VENV)/test  ## Run the tests of TPU code: torch_xla on the CPU, in an environment of its own
	$(XLA_BIN)/python -m pytest tests/xla -o faulthandler_timeout=580 $(PYTEST_ARGS)

test-tpu: $(TPU_VENV)/test  ## Check what is assumed of torch_tpu against the real package, without a TPU
	$(TPU_BIN)/python -m pytest tests/tpu tests/test_plan_chips.py

check: $(VENV)/test  ## Lint, formatting, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lab: $(VENV)/lab  ## Open JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks

bench: $(VENV)/bench  ## Measure nbaccel beside its peers
	$(BIN)/python benchmarks/launch.py
	$(BIN)/python benchmarks/session.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/ddp.py
	$(BIN)/python benchmarks/gather.py
	$(BIN)/python benchmarks/checkpoint.py
	$(BIN)/python benchmarks/config_form.py
	$(BIN)/python benchmarks/monitor.py
	$(BIN)/python benchmarks/config.py

clean:  ## Remove what was made
	rm -rf $(VENV) $(XLA_VENV) $(TPU_VENV) $(BUILD)
