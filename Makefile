# Each target does its own set-up, once; afterwards it works offline.
PYTHON_BIN := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help serve wheel test lint unit test-compiled test-bed test-browser test-vllm soak bench-policy bench-balancer docs docs-site man audit install-service uninstall-service clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

serve: ## serve examples/quickstart.toml: a make-believe cloud on this machine, no GPU needed
	@scripts/setup serve
	@exec .venv/bin/hedgeserve serve examples/quickstart.toml

wheel: ## dist/hedgeserve-*.whl with its data path compiled, for the machine that serves (needs gcc)
	@scripts/setup test
	HEDGESERVE_COMPILE=1 $(PYTHON_BIN) -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .
	@ls dist/*.whl

test: ## lint, types, layers, and the tests (under 10 minutes on 2 cores)
	@scripts/setup test
	@$(MAKE) --no-print-directory lint unit

lint: # (set-up is `make test`'s)
	.venv/bin/ruff check hedgeserve tests examples benchmarks docs setup.py
	.venv/bin/ruff format --check hedgeserve tests examples benchmarks docs setup.py
	.venv/bin/mypy --strict hedgeserve
	.venv/bin/lint-imports

unit:
	$(PYTHON_BIN) -m pytest -q -n 2 --dist worksteal

test-compiled: ## the same tests on the compiled data path (needs gcc)
	@scripts/setup test
	@scripts/compile
	cd build/compiled && PYTHONPATH=. $(PYTHON_BIN) -m pytest -q -n 2 --dist worksteal

test-bed: ## the whole path on VMs in miniature, for each cloud, and kill -9 at every step (minutes); ARGS="-k azure"
	@scripts/setup test-bed
	$(PYTHON_BIN) -m tests.testbed $(ARGS)

test-browser: ## the dashboard in a real Chromium, without a window
	@scripts/setup test-browser
	$(PYTHON_BIN) -m pytest -q -m browser $(ARGS)

test-vllm: ## the tests against a real vLLM; HEDGESERVE_VLLM_PYTHON names its interpreter
	@scripts/setup test
	$(PYTHON_BIN) -m pytest -q -m vllm --timeout 900

soak: ## 15 minutes of load with a preemption every few seconds, answers compared; MINUTES=n, or STREAMS=n of them
	@scripts/setup test
	$(PYTHON_BIN) -m tests.soak --minutes $(or $(MINUTES),15) $(if $(STREAMS),--streams $(STREAMS)) $(ARGS)

bench-policy: ## measure the policies on recorded capacity (minutes) and write docs/benchmarks.md; ARGS="--only speed"
	@scripts/setup test
	$(PYTHON_BIN) -m benchmarks.policy $(ARGS)

bench-balancer: ## measure a core of the balancer beside nginx and others (minutes) and write docs/benchmarks-balancer.md; ARGS="--only paced512"
	@scripts/setup test
	@scripts/compile
	$(PYTHON_BIN) -m benchmarks.balancer $(ARGS)

docs-site: ## the documentation as a site in build/site; every warning is an error
	@scripts/setup docs
	$(PYTHON_BIN) -m sphinx -q -W -n --keep-going -b html -d build/doctrees docs build/site
	@echo build/site/index.html

man: ## man pages of the command line and of model.toml in build/man
	@scripts/setup docs
	$(PYTHON_BIN) -m sphinx -q -W -n --keep-going -b man -d build/doctrees docs build/man
	@ls build/man/*.[15]

docs: ## write docs/configuration.md and the JSON Schema anew from hedgeserve/spec.py
	@scripts/setup serve
	$(PYTHON_BIN) -m hedgeserve.modelfile.reference

audit: ## known vulnerabilities in what HedgeServe needs (asks pypi.org: needs the network), and secrets in this repository
	@scripts/setup test
	@scripts/audit

install-service: ## (root) as a systemd service: units, /opt/hedgeserve, /etc/hedgeserve/model.toml; DESTDIR=dir only lays them out
	@DESTDIR="$(DESTDIR)" scripts/service install

uninstall-service: ## (root) take it away again; model.toml, keys and the journal stay
	@DESTDIR="$(DESTDIR)" scripts/service uninstall

clean: ## remove what the other targets made
	rm -rf .venv .bench build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
