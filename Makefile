# `make help` lists what can be made. Needs make and Python >= 3.11; everything else is installed into $(VENV).
VENV ?= .venv
# The first Python that is new enough; choose another with `make book PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v "$$p" && break; done)
# Jobs that the tests run at once; each runs whole files, so that a notebook stays in one kernel.
JOBS ?= 2
# What `make refresh` runs.
LESSONS ?= $(sort $(wildcard notebooks/*.ipynb))

BIN := $(VENV)/bin
READY := $(VENV)/.ready
FIRST_RUN := test -e $(READY) || echo "First: a virtual environment in $(VENV). PyTorch makes that a download of several GB: about 5 minutes on a fast line."

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help book test load lab refresh slides lint site clean say-book say-test

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{ printf "  make %-9s %s\n", $$1, $$2 }'

book: say-book $(READY) ## build the book; open _build/html/index.html
	@$(BIN)/jupyter-book build . -W -n --keep-going --all
	@echo "The book is ready. Open _build/html/index.html"

say-book:
	@echo "make book: builds the book from the notebooks as they are stored, without running them: well under a minute, about 10 seconds on 2 cores."
	@$(FIRST_RUN)

test: say-test $(READY) ## unit tests, doctests, browser tests, and every notebook run again and compared
	@$(BIN)/python -m pytest --nbval -n $(JOBS) --dist loadfile

say-test:
	@echo "make test: unit tests, a book built and opened in a browser, and every notebook run again and compared: about 16 minutes on 2 cores."
	@$(FIRST_RUN)

load: $(READY) ## the service under load for two minutes, on an otherwise quiet machine
	@$(BIN)/python -m pytest -n 0 -m load tests/test_serving_load.py -s

lab: $(READY) ## open the lessons in JupyterLab
	$(BIN)/jupyter lab notebooks

refresh: export TQDM_DISABLE := 1
refresh: $(READY) ## run every notebook and store its new outputs in place
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
		--ClearMetadataPreprocessor.enabled=True --ClearMetadataPreprocessor.clear_cell_metadata=False \
		--ClearMetadataPreprocessor.preserve_nb_metadata_mask='{"kernelspec", ("language_info", "name")}' $(LESSONS)

slides: $(READY) ## make slides of the lessons; open _build/slides/index.html
	@$(BIN)/python book/_slides/build.py

lint: $(READY) ## check the style and the formatting of code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

site: test book ## the book, but only if every test passes

clean: ## remove what was built; the virtual environment stays
	rm -rf _build .pytest_cache .ruff_cache

$(READY): pyproject.toml
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, and $(or $(PYTHON),no python on the PATH) is not that. Install one, or name it: make book PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --disable-pip-version-check --editable ".[all]"
	@touch "$@"
