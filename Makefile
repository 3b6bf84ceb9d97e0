# The interpreter that the environments are made from.
PYTHON ?= python3
# Most tests wait for a server, so more workers than cores pay off.
WORKERS ?= 4
# More words for pytest, such as PYTEST_ARGS="-k teardown".
PYTEST_ARGS ?=
# Which test suites of other projects, such as SUITES="flask-sqlalchemy ihatemoney", and
# another checkout to take the guard from. Without either: all of them, this checkout.
SUITES ?=
GUARD_CHECKOUT ?=

VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-pyproject
# The demo needs little, so that a newcomer need not wait for all that development needs.
DEMO := $(if $(wildcard $(STAMP)),$(VENV),.venv-demo)
DEMO_STAMP := $(DEMO)/.made-from-pyproject
LOWEST_STAMP := $(LOWEST)/.made-from-pyproject

# On the oldest releases what these look at is the same: the tests' own tools, pictures,
# the live page and the example app's faults beside it, the load that `tune` makes, how
# commands, workers and servers get on, what is found, and what README, demo
# and docs show.
NOT_ON_LOWEST := support_* benchmark* tune_* cli_tune cli_recycle cli_sessions cli_doctor \
  cli_status cli_advise cli_check web_page example_faults report_* findings_* \
  first_screen readme demo
IGNORED := $(NOT_ON_LOWEST:%=--ignore-glob='*/test_%.py') --ignore=tests/docs

# Who is done takes over what another has not begun, so that none is left alone at the end.
# CPython 3.11 can fail in the AST module while pytest draws a failure in its own style.
PYTEST := -m pytest -n $(WORKERS) --dist worksteal -ra --tb=native
# Tests start many processes; without their compiled modules each compiles them anew.
test test-all test-lowest coverage: export PYTHONDONTWRITEBYTECODE =

# Those that start processes take most of the time; one for each command is quick.
QUICK := -m "not soak and (not process or quick)"
ALL := -m "not soak"

.PHONY: help venv test test-all coverage test-soak test-lowest test-suites lint format types imports docs readme picture demo bench bench-compare clean
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | \
	  awk -F ':.*## ' '{ printf "  make %-13s %s\n", $$1, $$2 }'

venv: $(STAMP) ## Make .venv with everything that development needs

# --group needs pip 25.1, newer than the one that Python 3.11 brings.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

.venv-demo/.made-from-pyproject: pyproject.toml
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install --quiet --editable \
	  ".[mysql,postgresql,flask-sqlalchemy]" gunicorn
	touch $@

$(LOWEST_STAMP): pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(LOWEST)/bin/python -m pip install --quiet --editable . --group lowest
	touch $@

test: $(STAMP) ## Run what needs no processes, and one test for each command
	tools/ensure-servers
	$(BIN)/python $(PYTEST) $(QUICK) $(PYTEST_ARGS)

# On the oldest releases a test runs on one product, unless that is its subject.
test-all: $(STAMP) $(LOWEST_STAMP) ## Run all tests, on all products, newest and oldest releases
	tools/ensure-servers
	tools/add-mysqlclient $(BIN)/python
	$(BIN)/python -m tests.support.mysql9
	$(BIN)/python $(PYTEST) $(ALL) --all-products $(PYTEST_ARGS)
	$(LOWEST)/bin/python $(PYTEST) $(ALL) $(IGNORED) $(PYTEST_ARGS)

# Half as slow again: every command that a test runs is looked into as well.
coverage: $(STAMP) ## Run the tests and say which lines none of them reached
	tools/ensure-servers
	$(BIN)/python $(PYTEST) $(ALL) --all-products --cov --cov-report=term $(PYTEST_ARGS)

test-soak: $(STAMP) ## Run the tests that take minutes
	tools/ensure-servers
	$(BIN)/python -m pytest -m soak -ra $(PYTEST_ARGS)

test-lowest: $(LOWEST_STAMP) ## Run the tests on the oldest supported releases
	tools/ensure-servers
	$(LOWEST)/bin/python $(PYTEST) $(ALL) $(IGNORED) $(PYTEST_ARGS)

# All of them take hours; tests/suites/projects.py lists them.
test-suites: $(STAMP) ## Run test suites of other projects with a guard (SUITES="ihatemoney")
	GUARD_CHECKOUT="$(GUARD_CHECKOUT)" $(BIN)/python -m tests.suites $(SUITES)

lint: $(STAMP) ## Check the code's style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## Rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## Check the types
	$(BIN)/mypy

imports: $(STAMP) ## Check that imports go one way
	$(BIN)/lint-imports

docs: $(STAMP) ## Build the documentation, warnings are errors
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

readme: $(STAMP) ## Write the commands' output of now into README.md
	$(BIN)/python tools/readme_output.py

picture: $(STAMP) ## Draw the live page for the documentation (needs Chromium)
	PYTHONPATH=. $(BIN)/python tools/web_picture.py

demo: $(DEMO_STAMP) ## Show the guard at work (KEEP=1: stay up; DATABASE_URL=…: on your server)
	@$(DEMO)/bin/python tools/demo.py $(if $(KEEP),--keep)

bench: $(STAMP) ## Measure what the guard costs (BENCH="checkout delay", say)
	tools/ensure-servers
	$(BIN)/python -m benchmarks $(BENCH)

bench-compare: $(STAMP) ## Measure what changed since a commit (BASE=main BENCH="requests timeouts", say)
	@test -n "$(BASE)" || { echo "Say which commit to compare with, such as BASE=main"; exit 2; }
	tools/ensure-servers
	$(BIN)/python -m benchmarks.compare "$(BASE)" $(BENCH)

clean: ## Remove everything that make made
	rm -rf $(VENV) $(LOWEST) .venv-demo .nox dist build docs/_build htmlcov
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -f .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
