# Every target does the set-up it needs in .venv; only Python 3.11-3.13 with a shared libpython, make and a package index are assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Extra arguments for the benchmarks: DATA=<folder of measured tables>, FULL=1 for the whole grid.
export DATA FULL SLACK ROW

.PHONY: demo demo-finetune test test-external test-faults lint bench-backend bench-clockd bench-search bench-live bench-plan bench-execute bench-corun fit-virtual clean

demo: models
	$(BIN)/python -m benchmarks.demo

# Serving, tuning, a shift of the data, fine-tuning in the gaps, publishing: the whole on one screen.
demo-finetune: models
	$(BIN)/python -m benchmarks.demo_finetune

test: models lint
	$(BIN)/python -m pytest tests/unit tests/test_layers.py -m "not external and not device" -q -n 2 --dist loadfile
	$(BIN)/python -m pytest tests/process -m "not external and not device" -q

test-external: models
	$(BIN)/python -m pytest -m "external" -q

# ROW=14 runs one row; rows that passed are not run again until the product or the suite changes. Needs root and strace.
test-faults: $(READY)
	$(BIN)/python -m tests.faults

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench-backend: models
	$(BIN)/python -m benchmarks.backend

# What clockd costs and what deaths leave behind; FULL=1 kills at every system call. Needs root and strace.
bench-clockd: $(READY)
	$(BIN)/python -m benchmarks.clockd

# Searches replayed on measured tables: DATA=<folder>; FULL=1 gives the slow peers every seed. Resumable.
bench-search: $(READY)
	$(BIN)/python -m benchmarks.search

# Live tunings of real models on a virtual board against the best point there is; FULL=1 adds bert_base.
bench-live: models
	$(BIN)/python -m benchmarks.live

# Training-step planners on POET's graphs: DATA=<folder>; FULL=1 adds every platform and all rows of POET's program. Resumable.
bench-plan: $(READY)
	$(BIN)/python -m benchmarks.plan

# Planned training steps against eager torch and its ways to save memory: time, peak, exactness, time to yield.
bench-execute: $(READY)
	$(BIN)/python -m benchmarks.execute

# Inference beside fine-tuning: none, naive, nice, idle class, iteration by iteration, ours. FULL=1 takes every cell. Resumable.
bench-corun: models
	$(BIN)/python -m benchmarks.corun

fit-virtual: $(READY)
	$(BIN)/python -m benchmarks.fit_virtual_board

.PHONY: models
models: $(READY)
	$(BIN)/teg models build --if-missing

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "torch==2.13.*"
	$(BIN)/python -m pip install --quiet --editable ".[server,solver,sealed,jtop,dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) out build ./*.egg-info
