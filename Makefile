# Everything on a machine that has Python (3.11, 3.12 or 3.13) and make.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
DEMO ?= runs/demo
SERVE_DEMO ?= runs/serve_demo
SMOKE ?= runs/smoke
FLAGS ?=
BENCH ?=
PYTEST ?=
DIAGNOSIS ?= runs/diagnosis
TORTURE ?= --output torture/results.md
FUZZ_CASES ?= 20000

.PHONY: help install demo diagnose-demo serve-demo test test-all pytest lint wheel-check \
	reproduce-smoke report notebooks bench torture fuzz clean

help:
	@echo "make demo      train, evaluate, draw and export an IWAE on 5,000 MNIST digits"
	@echo "make diagnose-demo  a report on whether a trained model's numbers can be believed"
	@echo "make serve-demo  serve it on this machine and score 1,000 digits through HTTP"
	@echo "make docs      the documentation as a site, in build/docs"
	@echo "make test      the tests that fit into some minutes"
	@echo "make test-all  all tests at full size"
	@echo "make lint      formatting, lint and types"
	@echo "make wheel-check  build the wheel, install it aside and train with it"
	@echo "make reproduce-smoke  each study of the papers' tables at toy size"
	@echo "make report    the reports in results/ from the numbers there"
	@echo "make notebooks  makes the notebooks from the scripts in examples/notebooks"
	@echo "make bench     speed against a product of matrices and plain Keras and PyTorch"
	@echo "make torture   kills, stops and damages training runs: what is lost?"
	@echo "make fuzz      20,000 random inputs and damaged files"

# The stamp is newer than what it was installed from.
$(VENV)/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "make needs Python 3.11, 3.12 or 3.13, for which there is TensorFlow, not %d.%d: make PYTHON=python3.13" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --no-compile --editable '.[demo,docs,test]'
	$(RUN) -m compileall -qq -j 0 $(VENV)/lib || true  # pip would use one core
	touch $@

install: $(VENV)/installed

$(VENV)/installed-notebooks: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable '.[notebooks]'
	touch $@

demo: install
	$(RUN) -m iwae_tf.train --config=mnist5k_iwae --workdir=$(DEMO) $(FLAGS)

diagnose-demo: install
	$(RUN) -m iwae_tf.diagnose --saved_model=saved_models/mnist5k_iwae \
		--num_images=50 --num_samples=1000 --output=$(DIAGNOSIS) $(FLAGS)

serve-demo: install
	$(RUN) -m examples.serve_demo --output=$(SERVE_DEMO) $(FLAGS)

# Without a network; a warning is an error. The sources are a folder of that name.
.PHONY: docs
docs: install
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict
	@echo "build/docs/index.html"

# Lint beside the tests.
test: install
	$(MAKE) -j 2 lint pytest PYTEST="-m 'not slow'"

test-all: install
	$(MAKE) -j 2 lint pytest PYTEST=--xla

pytest: install
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

lint: install
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

wheel-check: install
	.ci/wheel-check $(RUN)

# Every study with tiny networks: one cell of each, two where one starts from the other.
reproduce-smoke: install
	for cells in 'headline *_1l*' 'burda_table1 iwae_k5_2l' 'burda_swap vae*' \
	    'rainforth_table1 ciwae_0.5' 'rainforth_grid miwae_8_8' 'estimators piwae_dreg' \
	    'samples *' 'rainforth_snr *'; do \
	  set -- $$cells; \
	  $(RUN) -m iwae_tf.reproduce --budget=smoke --study=$$1 --cells="$$2" \
	    --workdir=$(SMOKE)/$$1 || exit; \
	done

# From the committed numbers alone.
report: install
	$(RUN) -m iwae_tf.reproduce --report_only --workdir=results

# Runs them at full size; Fashion-MNIST is downloaded where it is not there.
notebooks: $(VENV)/installed-notebooks
	$(RUN) -m jupytext --quiet --set-kernel python3 --to ipynb --execute examples/notebooks/*.py

bench: install
	$(RUN) -m benchmarks $(BENCH)

torture: install
	$(RUN) -m torture $(TORTURE)

fuzz: install
	FUZZ_CASES=$(FUZZ_CASES) $(RUN) -m pytest -n 2 --dist load tests/test_fuzz.py

clean:
	rm -rf $(VENV) build *.egg-info
