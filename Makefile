# Everything works from a fresh clone: Python >= 3.11, a C compiler, a package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python that is compiled with the types of the .pxd beside it.
TYPED := $(foreach pxd,$(wildcard llmgw/*.pxd llmgw/[a-z]*/*.pxd),$(pxd) $(wildcard $(pxd:.pxd=.py)))
SOURCES := setup.py pyproject.toml $(wildcard llmgw/_*/*.pyx llmgw/_*/*.pxd llmgw/_*/*.h) $(TYPED)

.PHONY: run test build bench soak lint debug-test clean

run: build
	@$(BIN)/llmgw serve

build: $(VENV)/.built

$(VENV)/.built: $(SOURCES)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check "setuptools>=80" "Cython>=3.3"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --editable .
	@touch $@

$(VENV)/.tested: $(VENV)/.built pyproject.toml
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[test]"
	@tests/need_redis.sh $(VENV)
	@touch $@

test: $(VENV)/.tested
	$(BIN)/pytest

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/stubs.py

# The unit suite against extensions with bounds checks and C asserts, built beside the tree.
debug-test: $(VENV)/.tested
	tests/debug.sh

bench: $(VENV)/.built
	$(BIN)/python benchmarks/ladder.py
	$(BIN)/python benchmarks/render.py

soak: $(VENV)/.tested
	$(BIN)/pytest -m soak

clean:
	rm -rf $(VENV) build *.egg-info llmgw/*.so llmgw/*.c llmgw/*/*.so llmgw/*/*.c
