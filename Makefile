# Every target sets up what it needs; the second time only what changed is done again.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

BENCHED := $(VENV)/.benched
RESULTS := benchmarks/results

.PHONY: demo test lint types check bench bench-all clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[all,dev]"
	touch $(INSTALLED)

demo: $(INSTALLED)  ## index real text into Qdrant and Milvus, and ask it questions
	$(BIN)/m3connect demo

test: $(INSTALLED)  ## the whole test suite, offline
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(INSTALLED)
	$(BIN)/mypy

check: lint types test

$(BENCHED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
	touch $(BENCHED)

bench: $(BENCHED)  ## what fits ten minutes, against FlagEmbedding and others; writes docs/performance.md
	$(BIN)/python benchmarks/encode.py --only query --json $(RESULTS)/encode_query.json
	$(BIN)/python benchmarks/encode.py --only memory --json $(RESULTS)/encode_memory.json
	$(BIN)/python benchmarks/sparse.py --json $(RESULTS)/sparse.json
	$(BIN)/python benchmarks/rerank.py --json $(RESULTS)/rerank.json
	$(BIN)/python benchmarks/concurrency.py --json $(RESULTS)/concurrency.json
	$(BIN)/python benchmarks/search.py --json $(RESULTS)/search.json
	$(BIN)/python benchmarks/page.py

bench-all: bench  ## an hour or more; what needs data of its own (mcls.py, distillation.py) is left out
	$(BIN)/python benchmarks/encode.py --json $(RESULTS)/encode.json
	$(BIN)/python benchmarks/frameworks.py --json $(RESULTS)/frameworks.json
	$(BIN)/python benchmarks/stores.py --json $(RESULTS)/stores.json
	$(BIN)/python benchmarks/training_memory.py --json $(RESULTS)/training_memory.json
	$(BIN)/python benchmarks/page.py

clean:
	rm -rf $(VENV) build dist
