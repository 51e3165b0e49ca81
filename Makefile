# make demo: watch a CLIP being adapted.  make test: run the tests.  Both set up .venv themselves.
# make dist: build wheel and sdist, install the wheel into an empty environment and run the demo from it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN = .venv/bin
SEEDS ?= 3

.PHONY: install demo test lint dist clean

install: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	@touch $@

.venv/.dev: .venv/.installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

demo: .venv/.installed
	$(BIN)/restore-vlm demo --seeds $(SEEDS)

test: .venv/.dev
	$(BIN)/pytest --numprocesses auto --cov --cov-report=term:skip-covered

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

dist: .venv/.dev
	rm -rf dist build/installed
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv build/installed
	build/installed/bin/pip install --quiet dist/*.whl
	cd build && installed/bin/restore-vlm demo --seeds 1

clean:
	rm -rf .venv build dist .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis
