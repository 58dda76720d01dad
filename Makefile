# `make demo` and `make test` are the whole set-up: each makes .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin
RUN := PYTHONUNBUFFERED=1
# `make demo OUT=DIR` writes elsewhere.
OUT ?= outputs/demo

.PHONY: venv demo demo-seeds demo-appearance test test-shared test-demo test-dist test-slurm lint clean

venv: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,cluster]'
	touch $@

# Train, evaluate and dance on the built-in corpus, about ten minutes on two cores.
demo: venv
	$(RUN) $(BIN)/macedance demo --out $(OUT)

# The demo's numbers over three training seeds (half an hour).
demo-seeds: venv
	$(RUN) $(BIN)/macedance demo --out $(OUT) --seeds 3

# A small Appearance Expert from nothing to a video, in all of its stages (about twenty minutes on two cores).
demo-appearance: venv
	$(RUN) $(BIN)/macedance demo appearance --out outputs/demo-appearance

test: venv
	$(RUN) $(BIN)/python -m pytest -n 2 -m "not gpu and not demo and not dist and not slurm" tests

# Only the tests on real data; fails where the data is absent.
test-shared: venv
	$(RUN) MACEDANCE_REQUIRE_SHARED=1 $(BIN)/python -m pytest -n 2 -m "shared and not gpu and not demo and not dist and not slurm" tests

# Several ranks: killed, resumed, resharded, signalled (up to 20 minutes on two cores).
test-dist: venv
	$(RUN) $(BIN)/python -m pytest -n 2 --dist loadfile -m "dist and not gpu" tests/dist

# A real SLURM of two nodes on this machine; MACEDANCE_INSTALL_SLURM=1 installs Debian's packages (as root).
test-slurm: venv
	$(RUN) $(BIN)/python -m pytest -m slurm tests/slurm

# What the trained demo model must show; after `make demo`.
test-demo: venv
	$(RUN) MACEDANCE_DEMO=$(OUT) $(BIN)/python -m pytest -m demo tests

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
