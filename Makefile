# SPDX-License-Identifier: Apache-2.0
# `make` alone lists the targets. ARGS="..." goes on to the command of a target; GPU=0 or GPU=1 overrides what nvidia-smi says.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

ifndef GPU
GPU := $(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU')
endif
KIND := $(if $(filter 0,$(GPU)),cpu,gpu)
STAMP := .venv/.setup-$(KIND)-$(shell cat constraints/* pyproject.toml | sha256sum | cut -c1-12)
BIN := .venv/bin

CORPUS ?= digits
ifeq ($(KIND) $(CORPUS),cpu digits)
# The embedded world and the small base; `make demo` and recipe/base/tiny.yaml use the same folders.
DATA ?= runs/demo/data
BASE ?= runs/demo/base
PREPARED := $(BASE)/config.json
NOTICE := no GPU here, so this is the embedded world: the digits in $(DATA) and the small base in $(BASE)
else
DATA ?= runs/data
PREPARED := $(DATA)/manifest.json
NOTICE := $(CORPUS) in $(DATA); the base is the recipe's, which training loads
endif

RUN ?= runs/demo
MODEL ?= $(RUN)/trained
OUT ?= runs/eval
CONTROL ?= $(wildcard runs/demo-control/metrics.json)
ARGS ?=

# One process more than cores, because some tests wait for others' processes; the end-to-end tests take all cores by themselves.
UNIT_TESTS = $(BIN)/python -m pytest -n $(shell expr $$(nproc) + 1) --dist worksteal $(wildcard tests/test_*.py) $(ARGS)

.PHONY: help
help: ## list the targets (the default)
	@awk -F ': .*## ' '/^[a-z][a-z0-9 -]*:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(STAMP) ## install what is pinned in constraints/ into .venv; nothing to do when nothing changed
$(STAMP):
	@constraints/install.sh $(KIND) $@

.PHONY: demo
demo: $(STAMP) ## the whole path on the embedded digits: prepare, measure, train, measure again, report (runs/demo)
	$(BIN)/python examples/digits/demo.py --out runs/demo $(if $(CONTROL),--control $(CONTROL)) $(ARGS)

.PHONY: demo-control
demo-control: $(STAMP) ## the same training with random labels, from the base of `make demo` (runs/demo-control)
	$(BIN)/python examples/digits/demo.py --out runs/demo-control --random-labels --base-from runs/demo $(ARGS)

.PHONY: prep prep-notice
prep: prep-notice $(PREPARED) ## prepare data: CORPUS="NAME[:PATH] ...", else the embedded digits (without a GPU the small base too)
prep-notice:
	@echo "prep: $(NOTICE)"
$(DATA)/manifest.json: $(wildcard data_prep/*.py data_prep/corpora/*.py critic_r1_verl/prompts/*.txt) | prep-notice $(STAMP)
	$(BIN)/python -m data_prep build $(addprefix --corpus ,$(CORPUS)) --out $(DATA) $(ARGS)
$(BASE)/config.json: $(DATA)/manifest.json critic_r1_verl/tiny.py
	$(BIN)/critic-r1 tiny --data $(DATA) --out $(BASE)

.PHONY: train-r1 train-r1-plus
train-r1: $(STAMP) ## train LLaVA-Critic-R1 on what `make prep` made, after critic-r1 doctor; ARGS are Hydra overrides
	$(BIN)/critic-r1 train --recipe critic_r1 $(ARGS)
train-r1-plus: $(STAMP) ## the same over the stronger base of R1+
	$(BIN)/critic-r1 train --recipe critic_r1_plus $(ARGS)

.PHONY: eval self-critique
eval self-critique: $(STAMP) ## judge, answer and self-critique with MODEL=folder on DATA=folder, into OUT=folder
	$(BIN)/critic-r1 measure --model $(MODEL) --data $(DATA) --out $(OUT) $(ARGS)

.PHONY: report
report: $(STAMP) ## RUN's numbers as one HTML page, beside the control's if there are any
	$(BIN)/critic-r1 report $(RUN) $(if $(CONTROL),--control $(CONTROL)) $(ARGS)

.PHONY: test test-unit
test: $(STAMP) ## all tests: the unit tests, then the end-to-end ones on the real stack
	$(UNIT_TESTS)
	$(BIN)/python -m pytest tests/e2e $(ARGS)
test-unit: $(STAMP) ## the unit tests alone
	$(UNIT_TESTS)

.PHONY: check
check: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# In an environment of its own, which sees the packages of .venv.
LMMS_EVAL := .venv/lmms-eval
$(LMMS_EVAL)/.installed: constraints/lmms-eval.txt $(STAMP)
	rm -rf $(LMMS_EVAL)
	$(BIN)/python -m venv $(LMMS_EVAL)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(echo $(LMMS_EVAL)/lib/python*/site-packages)/stack.pth"
	$(LMMS_EVAL)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r constraints/lmms-eval.txt
	touch $@

.PHONY: bench
bench: $(STAMP) $(LMMS_EVAL)/.installed ## the benchmarks of tests/bench, ratios within one run
	for bench in tests/bench/bench_{data,reward,step}.py; do $(BIN)/python $$bench; done
	$(BIN)/python tests/bench/bench_judge.py --lmms-eval $(LMMS_EVAL)/bin/python

.PHONY: clean
clean: ## remove .venv, caches and build output; runs/ and checkpoints/ stay
	rm -rf .venv dist build .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find critic_r1_verl hydra_plugins data_prep examples tests -name __pycache__ -prune -exec rm -rf {} +
