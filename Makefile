# make demo, make demo-train and make test work in a fresh clone with Python >= 3.10 and make.
PYTHON ?= python3
STAMP := .venv/.installed

SAMPLE := runs/report

.PHONY: help install demo demo-train report notebooks test integrations test-integrations docs clean

help:
	@echo "make demo        install, then find tiny faces with the two stages that ship, before and after"
	@echo "make demo-train  install, then train all stages on the embedded sample (DATA=… PROPOSALS=… for your own)"
	@echo "make report      install, then re-score a detector's boxes in drawn crowds, and show on one page what changed"
	@echo "make notebooks   install, then run the notebooks and leave them as pages in runs/notebooks (DATA=… PROPOSALS=…)"
	@echo "make test        install, then checks and tests"
	@echo "make test-integrations  the tests that need other people's packages, and installs these"
	@echo "make docs        the documentation, into build/docs"
	@echo "make install     a virtual environment in .venv with tinygan and its tools"
	@echo "make clean       remove .venv, build and what the others wrote into runs"

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

report: install
	test -d $(SAMPLE)/data || .venv/bin/python -m experiments.demo.crowd --out $(SAMPLE) --train-images 1
	.venv/bin/tinygan-rescore --proposals $(SAMPLE)/proposals/val --images $(SAMPLE)/data/WIDER_val/images \
		--out $(SAMPLE)/rescored --overwrite
	.venv/bin/tinygan-report $(SAMPLE)/rescored --images $(SAMPLE)/data/WIDER_val/images --overwrite \
		--ground-truth $(SAMPLE)/data/wider_face_split/wider_face_val_bbx_gt.txt --out $(SAMPLE)/report.html

notebooks: install
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[notebooks]'
	DATA="$(DATA)" PROPOSALS="$(PROPOSALS)" .venv/bin/python -m experiments.notebooks.run --out runs/notebooks

test: install
	scripts/check
	scripts/test

# Without the packages that these would bring along and no test needs; mtcnn's asks for an old PyTorch. Ultralytics is under
# the AGPL and only here.
integrations: install
	.venv/bin/python -m pip install --quiet --disable-pip-version-check sahi supervision transformers requests
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		facenet-pytorch insightface ultralytics ultralytics-thop

test-integrations: integrations
	scripts/test tests/integrations tests/proposals/adapters -m integration

docs: install
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	.venv/bin/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

clean:
	rm -rf .venv build docs/generated runs/demo runs/report runs/notebooks
