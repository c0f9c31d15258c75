# Everything on a machine that has Python (3.11 or newer) and make.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
DEMO ?= runs/demo
SMOKE ?= runs/smoke
FLAGS ?=
BENCH ?=

.PHONY: help install demo test test-all lint reproduce-smoke bench clean

help:
	@echo "make demo      train, evaluate, draw and export an IWAE on 5,000 MNIST digits"
	@echo "make test      the tests that fit into some minutes"
	@echo "make test-all  all tests at full size"
	@echo "make lint      formatting and lint"
	@echo "make reproduce-smoke  each study of the papers' tables at toy size"
	@echo "make bench     speed against a product of matrices and plain Keras and PyTorch"

# The stamp is newer than what it was installed from.
$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("make needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[demo,test]'
	touch $@

install: $(VENV)/installed

demo: install
	$(RUN) -m iwae_tf.train --config=mnist5k_iwae --workdir=$(DEMO) $(FLAGS)

test: install lint
	$(RUN) -m pytest -n 2 --dist loadfile -m 'not slow'

test-all: install lint
	$(RUN) -m pytest -n 2 --dist loadfile

lint: install
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

# Every study with tiny networks: one cell of each, two where one starts from the other.
reproduce-smoke: install
	for cells in 'headline *_1l' 'burda_table1 iwae_k5_2l' 'burda_swap vae*' \
	    'rainforth_table1 ciwae_0.5' 'rainforth_grid miwae_8_8' 'estimators piwae_dreg'; do \
	  set -- $$cells; \
	  $(RUN) -m iwae_tf.reproduce --budget=smoke --study=$$1 --cells="$$2" \
	    --workdir=$(SMOKE)/$$1 || exit; \
	done

bench: install
	$(RUN) -m benchmarks $(BENCH)

clean:
	rm -rf $(VENV) build *.egg-info
