# Set-up, demo, and tests; everything lands in .venv/ and build/.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# PyTorch's threads sleep, rather than spin, while they wait for each other: on a busy machine, spinning starves them
export OMP_WAIT_POLICY = passive

.PHONY: setup demo b1 quantized test test-all lint clean

setup: $(READY)

# torch first and by exact version: an open range may pull a much larger GPU build
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -e .[test]
	# the official EfficientViT code, an oracle of the tests; its own dependencies are not needed for the classes used
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps visaion5efficientvit==0.2.1
	# timm, the same for DeiT and Swin: without dependencies, as torchvision would ask for another PyTorch
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps timm==1.0.31 torchvision==0.28.0 pyyaml
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

# EfficientViT-B1 at 224 pixels with random weights: one whole frame in RTL, every layer boundary compared
b1: $(READY)
	$(BIN)/vitsmith quantize random:b1 --size 224 --images 16 --bundle build/b1
	$(BIN)/vitsmith generate --bundle build/b1
	$(BIN)/vitsmith compile --bundle build/b1
	$(BIN)/vitsmith simulate --frames 1 --boundaries 1 --stall 0 --bundle build/b1
	$(BIN)/vitsmith compile --batch 8 --bundle build/b1
	$(BIN)/vitsmith simulate --frames 8 --boundaries 0 --stall 0 --bundle build/b1

# one quantized network in RTL: its name, and the arguments of `vitsmith quantize`
define in_rtl
	$(BIN)/vitsmith quantize $(2) --bundle build/quantized/$(1)
	$(BIN)/vitsmith generate --bundle build/quantized/$(1)
	$(BIN)/vitsmith compile --bundle build/quantized/$(1)
	$(BIN)/vitsmith simulate --frames 20 --boundaries 4 --bundle build/quantized/$(1)
endef

# what the quantizer makes beside the demo's network, in RTL: outlier channels, 4 bits, layers of 8 and 4 bits
quantized: $(READY)
	$(call in_rtl,stress,stress:quant/checkpoints/b0-cifar10-96.safetensors)
	$(call in_rtl,w4a8,--set weight_bits=4 --images 1024 --reconstruct)
	$(call in_rtl,w4a4,--set weight_bits=4 --set act_bits=4 --images 1024 --reconstruct)
	$(call in_rtl,mixed,--weight-budget 5 --activation-budget 6)

test-all: $(READY)
	$(BIN)/python -m pytest -n 2

lint: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	find build -mindepth 1 -not -name README.md -delete
