# make demo, make demo-train and make test work in a fresh clone with Python >= 3.10 and make.
PYTHON ?= python3
STAMP := .venv/.installed

.PHONY: help install demo demo-train notebooks test clean

help:
	@echo "make demo        install, then find tiny faces with the two stages that ship, before and after"
	@echo "make demo-train  install, then train all stages on the embedded sample (DATA=… PROPOSALS=… for your own)"
	@echo "make notebooks   install, then run the notebooks and leave them as pages in runs/notebooks (DATA=… PROPOSALS=…)"
	@echo "make test        install, then checks and tests"
	@echo "make install     a virtual environment in .venv with tinygan and its tools"
	@echo "make clean       remove .venv, runs/demo and runs/notebooks"

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "tinygan needs Python 3.10 or newer; give one with make PYTHON=python3.12 …" >&2; exit 2; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(STAMP)

demo: install
	.venv/bin/python -m experiments.demo.show --out runs/demo

demo-train: install
	.venv/bin/python -m experiments.demo.run --out runs/demo \
		$(if $(DATA),--data "$(DATA)") $(if $(PROPOSALS),--proposals "$(PROPOSALS)")

notebooks: install
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[notebooks]'
	DATA="$(DATA)" PROPOSALS="$(PROPOSALS)" .venv/bin/python -m experiments.notebooks.run --out runs/notebooks

test: install
	scripts/check
	scripts/test

clean:
	rm -rf .venv runs/demo runs/notebooks
