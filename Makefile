# Everything a developer runs. `make help` lists the targets; each works in a fresh clone.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

# The interpreter must answer, not merely be found: a version manager's shim may stand for a version that is not installed.
PYTHON := $(shell for candidate in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$candidate && break; done)

PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo run test test-long sim mutants oversell oracle crash failures powerloss attack autobahn fuzz check bench peers soak clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A short name for the stamp, so that `make .venv` does nothing when nothing changed.
.PHONY: .venv
.venv: $(STAMP) ## Make the virtual environment: the daemon, the reference client, the tools

$(STAMP): pyproject.toml clients/python/pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "error: no Python 3.11 or newer answers as python3.11 ... python3.14, python3 or python; install one (Debian, Ubuntu: apt install python3.11-venv), or name it: make .venv PYTHON=/path/to/python" >&2; exit 1; fi
	@echo "[1/4] virtual environment of $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV) || { \
		echo "error: $(PYTHON) cannot make a virtual environment; its venv module is missing (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "[2/4] pip"
	@$(PIP) install 'pip>=25.1'
	@echo "[3/4] syncd and its reference client (from this tree)"
	@PYTHONWARNINGS='ignore:Editable' $(PIP) install -e './clients/python[asyncio]'
	@PYTHONWARNINGS='ignore:Editable' $(PIP) install -e '.[demo]'
	@echo "[4/4] tools: tests, types, style, benchmarks"
	@$(PIP) install --group test --group bench
	@touch $@
	@echo "ready: $(BIN)/syncd, $(BIN)/syncd-device"

demo: $(STAMP) ## Six devices, an unreliable network and a crash of the daemon; ends with AGREED
	@$(BIN)/syncd demo $(ARGS)

run: $(STAMP) ## A daemon for development: throw-away key and store; prints a token and the URLs
	@$(BIN)/syncd run $(ARGS)

test: $(STAMP) ## The fast tests, on all cores
	@$(BIN)/python -m pytest -q -m 'not long' -n auto --dist worksteal $(ARGS)

test-long: $(STAMP) ## All tests, with those that take minutes
	@$(BIN)/python -m pytest -q --hypothesis-profile=long $(ARGS)

oversell: $(STAMP) ## A million takes by 50 phones with leases, partitions, crashes, clones and wrong clocks: never more than there is, and all of it
	@$(BIN)/python -m tests.oversell $(ARGS)

oracle: $(STAMP) ## 20,000 random offline histories through the merge core, and through the engine, against full version vectors
	@$(BIN)/python -m tests.oracle.run --histories 20000 $(ARGS)
	@$(BIN)/python -m tests.oracle.run --histories 20000 --engine $(ARGS)

crash: $(STAMP) ## kill -9 of the daemon, 50 times, and of devices, 30 times, under load of 20 devices
	@$(BIN)/python -m tests.crash $(ARGS)

failures: $(STAMP) ## The Nth call of every kind fails, once and for ever, for N = 1, 2, ...
	@$(BIN)/python -m tests.failures $(ARGS)

powerloss: $(STAMP) ## Every disk that a power cut may leave, some thousands of them: nothing acknowledged is lost
	@$(BIN)/python -m tests.powerloss $(ARGS)

SEEDS ?= 300
FIRST ?= 1

sim: SECONDS ?= 480
sim: $(STAMP) ## The whole system simulated: SEEDS=300 different runs from FIRST=1 on, SECONDS=480 at most
	@$(BIN)/python -m tests.sim --seeds $(FIRST)..$$(($(FIRST) + $(SEEDS) - 1)) --seconds $(SECONDS)

mutants: $(STAMP) ## Every bug planted in the simulator's copy of the product is caught, and by what; some three minutes
	@$(BIN)/python -m tests.sim.mutants $(ARGS)

attack: $(STAMP) ## Every attack of the table against the real daemon; what it answers, counts, and costs a bystander
	@$(BIN)/python -m tests.attack $(ARGS)

autobahn: $(STAMP) ## Autobahn's 517 WebSocket cases against our stack, compression included: an hour (needs a CPython 2.7; says so where there is none)
	@$(BIN)/python -m tests.conformance.autobahn $(ARGS)

openapi: $(STAMP) ## schemathesis: requests drawn from the OpenAPI file, at a running daemon
	@$(PIP) install --group conformance
	@$(BIN)/python -m pytest -q -m long tests/conformance/test_openapi.py $(ARGS)

fuzz: SECONDS ?= 300
fuzz: $(STAMP) ## Coverage-guided fuzzing of all that reads bytes: make fuzz SECONDS=600, shared among the targets
	@$(PIP) install --group fuzz || echo "atheris could not be installed: plain mutations run instead" >&2
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

check: $(STAMP) ## Style, types, import rules, tidiness
	@echo "ruff"; $(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "mypy"; $(BIN)/mypy
	@cd clients/python && ../../$(BIN)/mypy syncd_client
	@echo "imports"; $(BIN)/lint-imports --no-cache
	@echo "tidy"; $(BIN)/python -m pytest -q tests/test_tidy.py

bench: $(STAMP) ## Measure; prints a table and writes bench/results/latest.json
	@$(BIN)/python -m bench $(ARGS)

PEERS := nginx libnginx-mod-nchan nats-server mosquitto

peers: $(STAMP) ## Fan-out beside nchan, NATS and Mosquitto; installs their Debian packages if it may, and stops what that starts
	@missing=$$(for package in $(PEERS); do dpkg -s $$package >/dev/null 2>&1 || echo $$package; done); \
	if [ -n "$$missing" ] && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
		for service in nginx nats-server mosquitto; do \
			case " $$missing " in *$$service*) service $$service stop >/dev/null 2>&1 || true ;; esac; done; \
	elif [ -n "$$missing" ]; then echo "not installed, and only root on Debian may: apt install" $$missing >&2; fi
	@$(BIN)/python -m bench peers $(ARGS)

soak: SECONDS ?= 3600
soak: $(STAMP) ## A daemon under a steady mixed load for SECONDS=3600: does its memory grow? ARGS=--gentle beside other work
	@$(BIN)/python -m bench.soak --seconds $(SECONDS) $(ARGS)

clean: ## Remove the virtual environment and all caches
	@rm -rf $(VENV) build dist bench/results .hypothesis
	@find . -name .git -prune -o -type d \( -name __pycache__ -o -name '*.egg-info' -o -name .mypy_cache -o -name .pytest_cache \
		-o -name .ruff_cache -o -name .import_linter_cache \) -prune -exec rm -rf {} +
