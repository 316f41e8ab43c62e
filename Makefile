# SPDX-License-Identifier: Apache-2.0
# `make` alone lists the targets. ARGS="..." goes on to the command of a target; GPU=0 or GPU=1 overrides what nvidia-smi says.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules
# Tests and trainings start many Python processes; without bytecode files, each would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

ifndef GPU
GPU := $(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU')
endif
KIND := $(if $(filter 0,$(GPU)),cpu,gpu)
STAMP := .venv/.setup-$(KIND)-$(shell cat constraints/* pyproject.toml | sha256sum | cut -c1-12)
BIN := .venv/bin
DEMO := $(BIN)/python examples/digits/demo.py
LMMS_EVAL := .venv/lmms-eval

# Without a GPU the embedded world stands in for a corpus, and its small base for the 7B one, in the folders of `make demo`; a base that small
# says all that it has to say in 64 tokens.
ifeq ($(KIND)$(CORPUS),cpu)
DATA ?= runs/demo/data
MODEL ?= runs/demo/trained
TOKENS ?= --max-tokens 64
else
CORPUS ?= llava_critic_grpo
DATA ?= runs/data
MODEL ?= runs/trained
TOKENS ?=
endif

OUT ?= runs/eval
NAME = critic_r1
SEEDS = 1
STUDIES ?= runs/studies
AGAINST ?=
TASKS ?= mmmu_val mmstar mathvision_test mathvista_testmini_format mathverse_testmini
BASE_URL ?=
JUDGE_URL ?=
CONTROL ?= $(wildcard runs/demo-control/eval/trained)
ARGS ?=

# The unit tests run in five processes at once. Each collects its own files alone; with pytest-xdist each would collect all of them and report
# every test, which takes 14 CPU seconds. Files that import torch or compose the recipe share a process, and those that mostly wait have one
# of their own, as have those that talk to servers. A new file is among the others.
# With ARGS, such as -k, there is one process.
UNIT_PARTS := others torch hydra waits servers
torch := build contamination corpora image_store images inspection layouts readme rows sources validate vocabulary
hydra := card cli doctor explain patches plan recipe report score self_improve study verl_plugin
waits := children hub launch stall supervise
servers := critic_reward gateway openai_client policy_benchmarks pool select selecting
others := $(filter-out $(torch) $(hydra) $(waits) $(servers),$(patsubst tests/test_%.py,%,$(wildcard tests/test_*.py)))
UNIT_TESTS = $(if $(ARGS),$(BIN)/python -m pytest tests/test_*.py $(ARGS),\
	$(MAKE) --no-print-directory --keep-going --jobs $(words $(UNIT_PARTS)) --output-sync=target $(UNIT_PARTS:%=unit-%))

.PHONY: help
help: ## list the targets (the default)
	@awk -F ': .*## ' '/^[a-z][a-z0-9 -]*:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(STAMP) ## install what is pinned in constraints/ into .venv; nothing to do when nothing changed
$(STAMP):
	@constraints/install.sh $(KIND) $@

.PHONY: demo
demo: $(STAMP) ## the whole path on the embedded digits: data, small base, measure, train, measure again, report (runs/demo)
	$(DEMO) --out runs/demo $(if $(CONTROL),--control $(CONTROL)) $(ARGS)

.PHONY: demo-control
demo-control: $(STAMP) ## the same training with random labels, from the base of `make demo` (runs/demo-control)
	$(DEMO) --out runs/demo-control --random-labels --base-from runs/demo $(ARGS)

.PHONY: prep
prep: $(STAMP) ## prepare data: CORPUS="NAME[:PATH] ..." (default: the paper's; without a GPU the embedded digits and their small base)
ifdef CORPUS
	$(BIN)/critic-r1 data build $(addprefix --corpus ,$(CORPUS)) --out $(DATA) $(ARGS)
else
	@echo "prep: no GPU here, so this is the embedded world: the digits in $(DATA) and their small base in runs/demo/base"
	$(DEMO) --out runs/demo --until teach $(ARGS)
endif

.PHONY: train-r1 train-r1-plus
train-r1: $(STAMP) ## train LLaVA-Critic-R1 on what `make prep` made, after critic-r1 doctor; ARGS are Hydra overrides
	$(BIN)/critic-r1 train --recipe critic_r1 $(ARGS)
train-r1-plus: $(STAMP) ## the same over the stronger base of R1+
	$(BIN)/critic-r1 train --recipe critic_r1_plus $(ARGS)

.PHONY: export
export: $(STAMP) ## CHECKPOINT=folder (of an experiment, or one step of it) as a Hugging Face folder, MODEL
	$(BIN)/critic-r1 export $(CHECKPOINT) --out $(MODEL) $(ARGS)

.PHONY: study study-report
study: $(STAMP) ## train, export and measure the studies NAME (several with commas, or all) with each of SEEDS, into STUDIES; run it again to resume
	$(BIN)/critic-r1 study run $(NAME) --seeds $(SEEDS) --out $(STUDIES) $(ARGS)
study-report: $(STAMP) ## tabulate all studies in STUDIES that have run, beside critic_r1
	$(BIN)/critic-r1 study report $(STUDIES) $(ARGS)

.PHONY: eval self-critique
eval: $(STAMP) ## MODEL judges the test pairs of DATA and answers its test questions, into OUT
	$(BIN)/critic-r1 eval --model $(MODEL) --data $(DATA) --out $(OUT) $(TOKENS) $(ARGS)
self-critique: $(STAMP) ## MODEL answers each test question several times and picks among its answers, into OUT
	$(BIN)/critic-r1 select --model $(MODEL) --data $(DATA) --out $(OUT) $(TOKENS) $(ARGS)

# A server is asked for its only model, unless the command line names one.
SERVED = $(if $(BASE_URL),--base-url $(BASE_URL) $(if $(filter command,$(firstword $(origin MODEL))),--model $(MODEL)),--model $(MODEL))
.PHONY: eval-policy
eval-policy: $(STAMP) $(LMMS_EVAL)/.installed ## MODEL, or the server at BASE_URL, answers TASKS of lmms-eval, into OUT; some want JUDGE_URL, JUDGE_MODEL
	$(BIN)/critic-r1 eval-policy $(SERVED) --task $(TASKS) --out $(OUT) \
		$(if $(JUDGE_URL),--judge-url $(JUDGE_URL) --judge-model $(JUDGE_MODEL)) $(TOKENS) $(ARGS)

.PHONY: report
report: $(STAMP) ## the numbers of OUT as one HTML page, beside those of AGAINST=folder if it is given
	$(BIN)/critic-r1 report $(OUT) $(if $(AGAINST),--against $(AGAINST)) $(ARGS)

.PHONY: test test-unit
test: $(STAMP) ## all tests: the unit tests, then the end-to-end ones on the real stack
	$(UNIT_TESTS)
	$(BIN)/python -m pytest tests/e2e $(ARGS)
test-unit: $(STAMP) ## the unit tests alone
	$(UNIT_TESTS)
.PHONY: $(UNIT_PARTS:%=unit-%)
$(UNIT_PARTS:%=unit-%): unit-%: $(STAMP)
	$(BIN)/python -m pytest $(patsubst %,tests/test_%.py,$($*))

.PHONY: test-nightly
test-nightly: $(STAMP) $(LMMS_EVAL)/.installed ## end-to-end tests that `make test` leaves out, because they take minutes
	$(BIN)/python -m pytest tests/e2e -m nightly $(ARGS)

.PHONY: rehearse
rehearse: $(STAMP) ## the 7B recipe on two CPU cores, with a small random base: two ranks, tensor parallel 2, killed, resumed, exported
	$(BIN)/python -m pytest tests/e2e/test_rehearsal.py $(ARGS)

.PHONY: check
check: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# In an environment of its own, which sees the packages of .venv.
$(LMMS_EVAL)/.installed: constraints/lmms-eval.txt $(STAMP)
	rm -rf $(LMMS_EVAL)
	$(BIN)/python -m venv $(LMMS_EVAL)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(echo $(LMMS_EVAL)/lib/python*/site-packages)/stack.pth"
	$(LMMS_EVAL)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r constraints/lmms-eval.txt
	touch $@

.PHONY: bench
bench: $(STAMP) $(LMMS_EVAL)/.installed ## the benchmarks of tests/bench, ratios within one run
	for bench in tests/bench/bench_{data,reward,step,select,gateway}.py; do $(BIN)/python $$bench; done
	$(BIN)/python tests/bench/bench_judge.py --lmms-eval $(LMMS_EVAL)/bin/python

.PHONY: clean
clean: ## remove .venv, caches and build output; runs/ and checkpoints/ stay
	rm -rf .venv dist build .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find critic_r1_verl data_prep hydra_plugins examples tests -name __pycache__ -prune -exec rm -rf {} +
