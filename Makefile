# make demo: from a clone to resolved questions.   make test: everything that must hold.
PYTHON ?= python3
# CI adds train and server; without them the tests that need torch or a model server are skipped and say so
EXTRAS ?= dev
PY := .venv/bin/python

.PHONY: help install demo test lint types contracts pytest coverage train-smoke bench clean

help:
	@echo "make demo         replay examples/group_chat.jsonl through the whole pipeline"
	@echo "make test         lint, types, import contracts, tests"
	@echo "make coverage     the tests again, and which lines none of them runs (slower)"
	@echo "make train-smoke  a small real training run (some minutes)"
	@echo "make bench        speed of the spine and of the gate"

install:
	@$(PYTHON) scripts/bootstrap.py

demo: install
	@rm -rf demo && mkdir -p demo
	@DOUJIE_STORAGE__URL=sqlite+aiosqlite:///demo/doujie.db $(PY) -m bots.replay examples/group_chat.jsonl --table --out demo/resolved.jsonl --json demo/summary.json

test:
	@$(PYTHON) scripts/bootstrap.py --extras $(EXTRAS)
	@$(MAKE) --no-print-directory lint types contracts pytest

lint:
	$(PY) -m ruff check .

types:
	$(PY) -m mypy

contracts:
	.venv/bin/lint-imports

pytest:
	$(PY) -m pytest -n 2 --dist loadfile --durations=10

coverage:
	$(PY) -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered

train-smoke:
	@$(PYTHON) scripts/bootstrap.py --extras $(EXTRAS)
	$(PY) -m pytest -m train tests/scripts

bench: install
	$(PY) -m scripts.bench

clean:
	rm -rf .venv demo runs .pytest_cache .mypy_cache .ruff_cache
