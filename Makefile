PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: help notebook setup setup-dev demo test test-browser test-hard check format docs dist audit sbom docker clean

help:  ## Say what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: .venv/.installed  ## Install the program into .venv

setup-dev: .venv/.installed-dev  ## Install what tests, checks and benchmarks need, too

# torch goes first, by its pinned version, so that no other package pulls a larger build.
.venv/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@echo "installing torch, then the rest: a few minutes the first time"
	$(PIP) -c constraints.txt "$$(grep ^torch== constraints.txt)"
	@touch $@

.venv/.installed: .venv/.torch pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e '.[serve]'
	@touch $@

.venv/.installed-dev: .venv/.torch pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@ .venv/.installed

demo: setup  ## Train both models on MovieLens-100K and write runs/quick/report.html
	$(BIN)/corellarec run --preset quick --resume

# Two processes of one thread each, so that they do not wait for each other's threads.
test: setup-dev  ## Run the tests and print their coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --cov

SEED = 1
test-hard: setup-dev  ## Try every attack on files, inputs, disks and servers, and what else is long: up to an hour; SEED=7 for others
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/attacks --hard --seed $(SEED) --numprocesses 2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/batch tests/cli tests/run --hard -m hard --numprocesses 2 --dist loadfile

test-browser: setup-dev  ## Run the explorer's tests in Chromium, which make test runs too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/serve/test_browser.py

check: setup-dev  ## Lint, check types, check that imports point down
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup-dev  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup-dev  ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebook: setup-dev  ## Execute the tutorial's notebook anew
	$(PIP) -c constraints.txt -e '.[notebook]'
	PYTHONWARNINGS=ignore $(BIN)/jupyter execute --inplace docs/tutorials/python.ipynb

dist: setup-dev  ## Build the sdist and the wheel into dist/
	rm -f dist/*.whl dist/*.tar.gz
	$(BIN)/python -m build --no-isolation

.venv-release/.installed:
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/pip install --disable-pip-version-check --quiet cyclonedx-bom==7.5.0 pip-audit==2.10.1
	@touch $@

audit: .venv-release/.installed  ## Look up the versions of constraints.txt in PyPI's list of vulnerabilities
	.venv-release/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

sbom: setup .venv-release/.installed  ## List what is installed in .venv in dist/corellarec.cdx.json (CycloneDX)
	mkdir -p dist
	.venv-release/bin/cyclonedx-py environment --pyproject pyproject.toml --output-file dist/corellarec.cdx.json $(BIN)/python

docker:  ## Build the image corellarec (CPU) from the wheel
	@docker info >/dev/null 2>&1 || { echo "make docker needs docker with its daemon running: docker info fails" >&2; exit 1; }
	$(MAKE) dist
	docker build --tag corellarec .

clean:  ## Remove .venv, .venv-release, dist/ and site/; runs/ and the cache stay
	rm -rf .venv .venv-release dist site
