# The same few commands everywhere; CI calls only these.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A demo and a real validator never share a log.
DEMO_DIR := .ptn-demo
DATA_DIR ?= $(if $(VALIDATOR_DIR),.ptn,$(DEMO_DIR))
SERVER := $(VENV)/.server
STAMP := $(VENV)/.installed
NGINX := $(VENV)/.nginx

.PHONY: help setup serve test lint docs descriptions bench soak fuzz clean

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

# Serving needs less than developing, and is what a newcomer waits for first.
$(SERVER): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; say which with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[server]'
	@touch $(SERVER)

$(STAMP): $(SERVER)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[server,dev]'
	@touch $(STAMP)

setup: $(STAMP)  ## make the virtual environment

# The one system package: its tests run it for real. Tried once; RUNLEVEL=1 keeps it from being started.
$(NGINX): | $(STAMP)
	@PATH="$$PATH:/usr/sbin"; command -v nginx >/dev/null \
		|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing nginx for the tests" \
			&& timeout 120 apt-get -qq update \
			&& RUNLEVEL=1 timeout 120 apt-get -qq install --yes --no-install-recommends nginx >/dev/null; } \
		|| echo "nginx is missing and cannot be installed from here; its tests will be skipped (apt-get install nginx)"
	@touch $(NGINX)

serve: $(SERVER)  ## run the API; a simulated validator unless VALIDATOR_DIR is given
ifdef VALIDATOR_DIR
	@$(BIN)/ptn serve --validator-dir '$(VALIDATOR_DIR)' --data-dir '$(DATA_DIR)' $(ARGS)
else
	@$(BIN)/ptn serve --demo --data-dir '$(DATA_DIR)' $(ARGS)
endif

test: $(STAMP) $(NGINX)  ## run every test
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)  ## build the documentation into site/, strictly
	@test -x $(BIN)/zensical || { echo "The documentation tool needs Python 3.11 or newer."; exit 1; }
	$(BIN)/zensical build --strict --clean

descriptions: $(STAMP)  ## write the OpenAPI and AsyncAPI documents and pages that the server hands out
	$(BIN)/python -m descriptions

bench: $(STAMP)  ## measure; ratios side by side, some 15 minutes; ARGS="--help"
	@$(BIN)/python -c 'import flask, waitress' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m benchmarks $(ARGS)

soak: $(STAMP)  ## everything that can go wrong, at random; MINUTES=10
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),10) $(ARGS)

fuzz: $(STAMP)  ## hostile input, longer than the tests; MINUTES=10
	$(BIN)/python -m tests.hostile --minutes $(or $(MINUTES),10) $(ARGS)

clean:  ## remove the virtual environment, the demo's data and caches
	rm -rf $(VENV) $(DEMO_DIR) .mypy_cache .pytest_cache .ruff_cache .hypothesis .cache site
