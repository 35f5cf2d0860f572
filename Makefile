# Each target does all the set-up that it needs. Asks for python3, g++, make and perl; see README.md.
PYTHON ?= python3
VENV ?= .venv
OUT ?= build
JOBS ?= 2

BIN := $(VENV)/bin
NOMUL := $(BIN)/nomul
TARGETS := --target ice40-hx8k --target ice40-up5k --target ecp5-25k

.DELETE_ON_ERROR:
.PHONY: help setup demo test test-full bench zoo lint clean

help:
	@echo 'make demo       train, build, prove, synthesize and report a first network'
	@echo 'make test       run the tests (make test-full: the long ones too)'
	@echo 'make bench      measure the tables in docs/'
	@echo 'make zoo        train the networks in examples/zoo again'
	@echo 'make lint       ruff and mypy'
	@echo 'make setup      only install, into $(VENV)'

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@sh .ci/check-tools $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --upgrade pip setuptools
	@echo 'Installing (about 2 GB with torch, the simulator and the synthesis tools) ...'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt 'torch==2.13.0'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@echo 'Preparing the WebAssembly tools, once ...'
	@for tool in yosys nextpnr-ice40 nextpnr-ecp5 icepack ecppack; do \
		$(BIN)/yowasp-$$tool --version >/dev/null 2>&1 || $(BIN)/yowasp-$$tool --help >/dev/null 2>&1 || true; done
	@touch $@

demo: setup
	$(NOMUL) train digits --method lutq --dictionary pow2 --bits 3 -o $(OUT)/digits.nomul
	$(NOMUL) info $(OUT)/digits.nomul
	$(NOMUL) build $(OUT)/digits.nomul $(TARGETS) -o $(OUT)/demo
	$(NOMUL) sim $(OUT)/demo
	$(NOMUL) synth $(OUT)/demo
	$(NOMUL) report $(OUT)/demo

test: setup
	$(BIN)/pytest -n $(JOBS) -m 'not full' $(TESTS)

test-full: setup
	$(BIN)/pytest -n $(JOBS) $(TESTS)

bench: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[peers]'
	$(BIN)/python -m nomul.lanes docs
	$(BIN)/python -m nomul.costs docs
	$(BIN)/python -m nomul.engines docs
	$(BIN)/python -m nomul.peers docs
	$(BIN)/python -m nomul.faults docs
	$(BIN)/python -m nomul.asic docs
	$(BIN)/python -m nomul.proofs docs
	$(BIN)/python -m nomul.boards_bench docs
	$(BIN)/python -m nomul.bench docs

zoo: setup
	$(BIN)/python examples/train_zoo.py examples/zoo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(OUT)
