.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo run test truth dav chaos fuzz fuzz-reader check gen lock bench wheel audit release-check clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-13s %s\n", $$1, $$2}'

$(VENV)/.ready: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=…" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing what requirements-dev.lock names into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(VENV)/.ready ## Play the main job in the terminal, against a real CalDAV server
	@$(BIN)/python deploy/demo.py

run: $(VENV)/.ready ## Serve on this machine and print how to call it
	@$(BIN)/python deploy/run.py

# One more at once than there are processors: many tests wait. What is compiled is kept: tests start a hundred processes.
AT_ONCE ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')
test: $(VENV)/.ready ## Run every test, quick ones first (AT_ONCE=… files at once)
	@PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(CURDIR)/$(VENV)/pycache \
		$(BIN)/python -m pytest -n $(AT_ONCE) --dist loadfile --no-loadscope-reorder \
		tests/unit tests/usecases tests/contract_store tests/contract tests/e2e tests/chaos

truth: $(VENV)/.ready ## Play long random histories against what answers promise (TIMES=20, SEED=any number)
	@seed=$(or $(SEED),$$RANDOM); echo "seed $$seed"; CALENDAR_TRUTH=$(or $(TIMES),20) CALENDAR_TRUTH_SEED=$$seed \
		$(BIN)/python -m pytest tests/contract/test_mirror_truth.py --timeout 0

dav: $(VENV)/.ready ## Hold a CalDAV server of your own against what is expected of one (docs/caldav.md)
	@: $${DAV_URL:?see docs/caldav.md} $${DAV_HOME:?see docs/caldav.md} $${DAV_LOGIN:?see docs/caldav.md}
	@$(BIN)/python -m pytest tests/contract -k own_server --timeout 0

chaos: $(VENV)/.ready ## Kill, cut, stop and fill, for long; prints its seed, CALENDAR_CHAOS_SEED repeats it
	@CALENDAR_CHAOS=long $(BIN)/python -m pytest -s tests/chaos

fuzz: $(VENV)/.ready ## Make 20000 calls with fields at their limits, 5000 odd HTTP requests (FUZZ_CALLS=… SIDECAR_FUZZ=…)
	@FUZZ_CALLS=$${FUZZ_CALLS:-20000} SIDECAR_FUZZ=$${SIDECAR_FUZZ:-5000} \
		$(BIN)/python -m pytest tests/e2e/test_fuzz.py tests/e2e/test_sidecar_fuzz.py

fuzz-reader: $(VENV)/.ready ## Break calendar texts in every way for 180 seconds (FUZZ_SECONDS=…), prints its seed (FUZZ_SEED=…)
	@seed=$(or $(FUZZ_SEED),$$RANDOM); echo "seed $$seed"; FUZZ_SECONDS=$${FUZZ_SECONDS:-180} FUZZ_SEED=$$seed \
		$(BIN)/python -m pytest -s tests/unit/test_reader_fuzz.py --timeout 0

check: $(VENV)/.ready ## Check stubs, protos, reference, style and types
	$(BIN)/python protos/generate.py --check
	$(BIN)/python protos/document.py --check
	$(BIN)/python clients/generate_aio.py --check
	$(BIN)/python protos/workspace.py lint
	cd protos && ../$(BIN)/buf format --diff --exit-code
	$(BIN)/python protos/breaking.py
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=server:clients:gen $(BIN)/mypy server/calendar_server clients/calendar_client

gen: $(VENV)/.ready ## Generate the stubs in gen/ and the reference in docs/ from protos/
	$(BIN)/python protos/generate.py
	$(BIN)/python protos/document.py
	$(BIN)/python clients/generate_aio.py

lock: $(VENV)/.ready ## Resolve the lock files again
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements-dev.lock
	echo hatchling | $(BIN)/uv pip compile - --constraint requirements-dev.lock --no-annotate --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements-build.lock

bench: $(VENV)/.ready ## Measure, and print ratios (PARTS="busy cold" for some of them)
	@$(BIN)/python -m bench $(PARTS)

wheel: $(VENV)/.ready ## Build the wheel into dist/
	@$(BIN)/python -m hatchling build -t wheel -d dist

audit: $(VENV)/.ready ## Check the lock files, and ask for known vulnerabilities
	@$(BIN)/python deploy/audit.py

release-check: $(VENV)/.ready ## Build wheel, sdist and image steps, install them elsewhere and call
	@$(BIN)/python deploy/release_check.py
	@$(BIN)/python deploy/replay.py

clean: ## Remove the environment and what tools leave behind
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
