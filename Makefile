# Everything a newcomer runs. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LAB := $(BIN)/python -m lab
export LAB_NAME LAB_DEBIAN LAB_LOAD LAB_DISK
# Nothing on the machine may turn a lab run to other hosts.
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
TEST_LAB ?= test
LAUNCHER = apps/job_launcher/backend

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

.PHONY: setup
setup: $(VENV)/.complete ## Install what is missing and make .venv from the locked requirements

$(VENV)/.complete: requirements/dev.txt
	@echo "Setting up .venv (once, about half a minute) ..."
	@command -v ssh >/dev/null && $(PYTHON) -c 'import ensurepip' 2>/dev/null || lab/install-tools
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Even Keel needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	touch $@

.PHONY: lock
lock: setup ## Pin what is needed to develop, and what the launcher needs, with hashes
	$(BIN)/uv pip compile --quiet --python-platform linux --python-version 3.11 --generate-hashes --no-annotate \
	    --custom-compile-command "make lock" requirements/dev.in -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --python-platform linux --python-version 3.13 --generate-hashes --no-annotate \
	    --custom-compile-command "make lock" $(LAUNCHER)/requirements.in -o $(LAUNCHER)/requirements.txt

.PHONY: demo
demo: lab-up ## Two hosts, the seeds' estate, a look, site.yml over SSH, and a page on before and after
	$(BIN)/ansible-playbook playbooks/throttling.yml -e report_window=5 -e report_name=$${LAB_NAME:-demo}/before
	$(BIN)/ansible-playbook site.yml -e report_before=reports/$${LAB_NAME:-demo}/before/throttling.json
	@echo; cat reports/$${LAB_NAME:-demo}/throttling.txt
	@echo; echo "The page: $(CURDIR)/reports/$${LAB_NAME:-demo}/report.html"
	@echo "Files: reports/$${LAB_NAME:-demo}/   Log in: ssh -F .lab/$${LAB_NAME:-demo}/ssh_config kvm4.$${LAB_NAME:-demo}   Remove it all: make lab-down"

.PHONY: launcher
launcher: setup ## Run the job launcher alone on this machine until Ctrl-C; prints URL and first login (needs Node.js for the page)
	@$(BIN)/python -m lab.launcher alone

.PHONY: launcher-image
launcher-image: ## Build the job launcher's image (LAUNCHER_TAG=job-launcher); needs docker and a registry with python and node
	docker build --tag $${LAUNCHER_TAG:-job-launcher} apps/job_launcher

.PHONY: lab-launcher
lab-launcher: setup ## Build that image without such a registry and put it on the hosts of the lab
	$(BIN)/python -m lab.launcher up

.PHONY: lab-up
lab-up: setup ## Bring the lab up (LAB_NAME=demo LAB_DEBIAN=trixie LAB_LOAD=0.01)
	$(LAB) up

.PHONY: lab-down
lab-down: setup ## Remove the lab and nothing else
	$(LAB) down

.PHONY: test
test: setup ## All tests: lint, unit, real cgroups, the pages in Chromium, the launcher, the lab, molecule (make test-unit: only what needs no lab)
	tests/run

.PHONY: test-movers
test-movers: setup ## Each mover by itself, with kills and full disks, and whole moves, on a lab of its own; not part of make test
	LAB_NAME=movers $(BIN)/python -m lab up
	trap 'LAB_NAME=movers $(BIN)/python -m lab down' EXIT; LAB_NAME=movers $(BIN)/pytest tests/integration -m movers

.PHONY: test-faults
test-faults: setup ## Moves under faults, every cell of the matrix: days, goes on where it was broken off (FAULTS="--set core")
	$(BIN)/python -m tests.faults $(FAULTS)

.PHONY: test-vm
test-vm: setup ## Real-cgroup tests and Docker in a virtual machine with cgroup v2 (LAB_DEBIAN=trixie or bookworm)
	tests/vm/run

.PHONY: vm-up
vm-up: setup ## Boot that virtual machine and leave it up
	$(BIN)/python -m lab.vm up

.PHONY: vm-down
vm-down: setup ## Stop it; its disk stays for the next time
	$(BIN)/python -m lab.vm down

.PHONY: test-unit
test-unit: setup ## Unit tests
	$(BIN)/pytest tests/unit

.PHONY: test-browser
test-browser: setup ## The report's page and the launcher's in Chromium; screenshots in tests/artifacts
	tests/browser/install-chromium
	tests/launcher_browser/install-node
	$(BIN)/pytest tests/browser tests/launcher_browser -m "not soak"

.PHONY: test-launcher
test-launcher: setup ## The job launcher's server with real workers, kills and full disks
	$(BIN)/pytest $(LAUNCHER)/tests -m "not soak"

.PHONY: test-soak
test-soak: setup ## The launcher for long: its server alone and on a lab of its own, crashed again and again; half a minute without a wire; not part of make test
	$(BIN)/pytest $(LAUNCHER)/tests -m soak
	tests/browser/install-chromium
	tests/launcher_browser/install-node
	$(BIN)/pytest tests/launcher_browser -m soak
	LAB_NAME=soak LAB_LOAD=0 $(BIN)/python -m lab up
	trap 'LAB_NAME=soak $(BIN)/python -m lab down' EXIT; LAB_NAME=soak $(BIN)/pytest tests/integration -m soak

.PHONY: lint
lint: setup ## ansible-lint (production), yamllint, ruff, mypy, changelog fragments
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/yamllint --strict .
	$(BIN)/ansible-lint --offline
	$(BIN)/antsibull-changelog lint

.PHONY: bench
bench: setup ## Side-by-side measurements; results in benchmarks/results
	$(BIN)/python -m benchmarks

.PHONY: ee
ee: setup ## Build the execution environment for AWX and ansible-runner (EE_TAG=evenkeel-ee); needs docker and a registry with Debian
	$(BIN)/ansible-galaxy collection build --force --output-path .cache/ee
	$(BIN)/ansible-builder build --container-runtime docker --context .cache/ee/context --tag $${EE_TAG:-evenkeel-ee}

.PHONY: clean
clean: setup ## Remove all labs, their images, .venv and every cache
	$(LAB) clean
	rm -rf $(LAUNCHER)/../frontend/node_modules $(LAUNCHER)/../frontend/dist
	rm -rf $(VENV) .ansible .pytest_cache .mypy_cache .ruff_cache .hypothesis
