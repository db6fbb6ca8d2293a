# Set-up, demo, and tests; everything lands in .venv/ and build/.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-all lint clean

setup: $(READY)

# torch first and by exact version: an open range may pull a much larger GPU build
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -e .[test]
	# the official EfficientViT code, an oracle of the tests; its own dependencies are not needed for the classes used
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps visaion5efficientvit==0.2.1
	touch $@

demo: $(READY)
	$(BIN)/vitsmith doctor
	$(BIN)/vitsmith demo

# two test processes share two cores: threads of PyTorch's own would wait for each other
test test-all: export OMP_NUM_THREADS = 1

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(READY)
	$(BIN)/python -m pytest -n 2

lint: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	find build -mindepth 1 -not -name README.md -delete
