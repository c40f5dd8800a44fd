# What a newcomer needs: `make run`. What a change needs: `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Tests start hundreds of gateways: each would compile the whole program again where bytecode is switched off.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install run test lint bench clean

install: $(VENV)/.installed

run: install
	@$(BIN)/registry-gateway init --config config/development.yaml
	@exec $(BIN)/registry-gateway serve --config config/development.yaml

test: $(VENV)/.installed-test
	@$(PYTHON) tests/install_peers.py
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope $(PYTEST_ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy gateway plugins tests benchmarks

bench: $(VENV)/.installed-test
	@$(PYTHON) tests/install_peers.py --bench
	$(BIN)/python benchmarks/bench.py $(BENCH_ARGS)

clean:
	rm -rf $(VENV) build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $(VENV)/.installed $@
