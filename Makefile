# make audit   install into .venv and audit the bundled digits into audit-digits/
# make test    install what the tests need and run all of them
#
# Needs make and Python 3.11 or newer; for an interpreter of another name: make audit PYTHON=python3.12
# Versions are those of constraints.txt. A stamp file in .venv says that a step is done, so nothing installs twice.

PYTHON ?= python3
TORCH ?= 2.13.0
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The build backend comes from constraints.txt as well, hence no build isolation.
INSTALL := $(PIP) install --constraint constraints.txt --no-build-isolation --editable

.PHONY: help venv install audit test lint format docs studies benchmarks constraints browser clean

help:
	@echo "make audit        audit the bundled digits into audit-digits/"
	@echo "make test         run all tests; make test ARGS='-k masks' runs some"
	@echo "make install      make .venv with the command surplus"
	@echo "make lint         formatting, lint, types, order of the rooms"
	@echo "make docs         build the documentation into docs/_build/html"
	@echo "make studies      re-measure every study at laptop scale"
	@echo "make benchmarks   run benchmarks/, in an environment of its own"
	@echo "make constraints  choose the pinned versions anew"

# --- environments ----------------------------------------------------------------------------------------------------

# $(call new_venv,DIR): an empty environment, or a plain word on why there is none.
define new_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
		echo "surplus needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1 | head -n 1)" >&2; \
		echo "Name another interpreter: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(1)
endef

$(VENV)/.made:
	$(call new_venv,$(VENV))
	@touch $@

$(VENV)/.install: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt hatchling editables
	$(INSTALL) '.[report,structured]'
	@touch $@

$(VENV)/.test: $(VENV)/.install
	$(INSTALL) '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.install
	$(INSTALL) '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.install
	$(INSTALL) '.[docs]'
	@touch $@

venv: $(VENV)/.made

install: $(VENV)/.install

# The browser tests use Debian's Chromium and its driver.
browser:
	@if command -v chromium > /dev/null && command -v chromedriver > /dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends chromium chromium-driver > /dev/null; \
	else \
		echo "surplus: browser tests will be skipped; for them: sudo apt-get install chromium chromium-driver" >&2; \
	fi

# --- work ------------------------------------------------------------------------------------------------------------

audit: install
	$(BIN)/surplus audit --out audit-digits

test: $(VENV)/.test browser
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

studies: install
	set -e; for study in $$($(BIN)/python -c "from surplus.registry import methods; print(*(m.name for m in methods('study')))"); do \
		$(BIN)/surplus study run "$$study" --scale laptop; \
	done

# Peers that surplus is compared with are installed here only, never into .venv.
BENCHMARKS := build/benchmarks

$(BENCHMARKS)/.install: pyproject.toml constraints.txt $(wildcard benchmarks/requirements.txt)
	$(call new_venv,$(BENCHMARKS))
	$(BENCHMARKS)/bin/python -m pip install --constraint constraints.txt hatchling editables
	$(BENCHMARKS)/bin/python -m pip install --constraint constraints.txt --no-build-isolation \
		--editable '.[report,structured]' $(patsubst %,--requirement %,$(wildcard benchmarks/requirements.txt))
	@touch $@

benchmarks: $(BENCHMARKS)/.install
	set -e; for script in $(sort $(wildcard benchmarks/[a-z]*.py)); do \
		echo "== $$script"; $(BENCHMARKS)/bin/python "$$script"; \
	done

# Newest versions that work together with this torch, read off a fresh environment. The build of torch (a "+cpu", say)
# is left to the machine. Run it with the oldest Python that is supported, then run the tests.
constraints:
	rm -rf build/constraints
	$(call new_venv,build/constraints)
	build/constraints/bin/python -m pip install 'torch==$(TORCH)' hatchling editables
	build/constraints/bin/python -m pip install --no-build-isolation '.[report,structured,test,docs,dev]'
	{ echo "# Exact versions for the commands of the Makefile. Written by: make constraints"; \
	  build/constraints/bin/python -m pip freeze --all --exclude pip --exclude surplus | sed 's/+[A-Za-z0-9.]*$$//'; } > constraints.txt

clean:
	rm -rf $(VENV) build dist docs/_build docs/generated
