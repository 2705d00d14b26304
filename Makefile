# Every target does its own set-up. VENV and PYTHON may be given: make test PYTHON=python3.8
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FACEZOO_SHARED ?= $(abspath $(wildcard ../shared))
export FACEZOO_SHARED
ATT ?= $(FACEZOO_SHARED)/assets/att_faces
PHOTOS ?= $(FACEZOO_SHARED)/assets/photos
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Other readers of our tables, an object store, and a second type checker: only tests need them.
READERS := basedpyright duckdb fsspec pandas polars "moto[server]"
TESTS := $(BIN)/python -m pytest -n auto --dist worksteal
QUICK := not torch and not scale and not slow and not long
# Where it is set, every process that a test starts compiles the whole package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo train-demo pipnet-demo test coverage test-all test-long test-cpu test-oldest test-newest check bench docs site recipes clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# The three environments are one folder with more and more in it.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip

$(VENV)/.demo: $(BIN)/python pyproject.toml setup.py
	$(PIP) -e ".[plot]"
	$(BIN)/facezoo shims install
	touch $@

$(VENV)/.scale: $(VENV)/.demo
	$(PIP) -e ".[plot,scale]"
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) -e ".[openvino,plot,dev]"
	# BSD-3-Clause; only its messages are used, and what it requires has other versions than onnx.
	$(PIP) --no-deps tritonclient || echo "no tritonclient: the test that needs it is skipped"
	touch $@

$(VENV)/.torch: $(VENV)/.dev
	$(PIP) -e ".[openvino,plot,dev,torch,scale,docs]" $(READERS)
	touch $@

$(VENV)/.train: $(VENV)/.demo
	$(PIP) -e ".[plot,torch]"
	touch $@

# The packages that we are measured against have an environment of their own.
$(VENV)-peers/.done:
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install --quiet insightface==2.1 uniface==4.2.1 onnxruntime
	touch $@

demo: $(VENV)/.demo  ## weights to boxed photos, fp32, fp16 and int8, in minutes
	$(BIN)/facezoo demo --to .demo

train-demo: $(VENV)/.train  ## MagFace on 25 people, three seeds; ATT=folder of the AT&T faces
	$(BIN)/python face_recognition/magface/source_code/train_demo.py \
		--att_dir $(ATT) --save_dir .train-demo

PIPNET := face_alignment/pipnet/source_code
pipnet-demo: $(VENV)/.train  ## a small PIPNet taught by PFLD in minutes; ATT=folder of photos
	$(BIN)/facezoo download scrfd_500m_bnkps pfld_ghostone
	$(BIN)/python $(PIPNET)/pseudo_labels.py --photos $(ATT) --detector scrfd_500m_bnkps \
		--teacher pfld_ghostone --save_dir .pipnet-demo/taught --crops 4
	$(BIN)/python $(PIPNET)/fit.py --data_dir .pipnet-demo/taught --save_dir .pipnet-demo/trained \
		--backbone mobilenet_v2 --input_size 128 --epoch_crops 1024 --epochs 6 --batch_size 32 \
		--learning_rate 1e-3 --patience 6

test: $(VENV)/.dev  ## everything that needs no torch
	$(TESTS) -m "$(QUICK)"

coverage: $(VENV)/.dev  ## make test, and which lines of the package it reaches
	$(TESTS) -m "$(QUICK)" --cov --cov-report=term:skip-covered

test-all: test $(VENV)/.torch  ## make test, then what is slow or needs torch, Ray or many photos
	$(TESTS) -m "(torch or slow) and not scale and not long"
	$(TESTS) -n 1 -m "scale and not long"

test-long: $(VENV)/.torch  ## the runs that take minutes each; recorded in tests/long
	$(BIN)/python tests/long/run

test-cpu: $(VENV)/.dev  ## what depends on the CPU, under emulated ones; needs qemu-user
	$(BIN)/python tests/cpu/run

test-oldest:  ## with the oldest versions that are allowed, on Python 3.8; RECORD=--record
	$(PYTHON) tests/versions/run oldest $(RECORD)

test-newest:  ## with the newest versions of all packages, without pins
	$(PYTHON) tests/versions/run newest $(RECORD)

check: $(VENV)/.dev  ## format, lint, types, rendered files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/facezoo render --check
	$(BIN)/facezoo docs --check

bench: $(VENV)/.dev $(VENV)-peers/.done  ## speed against peers and baselines, as ratios
	FACEZOO_PEERS=$(abspath $(VENV))-peers/bin/python $(BIN)/python -m tests.benchmarks

docs: $(VENV)/.dev  ## render the tables in the READMEs
	$(BIN)/facezoo docs

site: $(VENV)/.torch  ## the documentation as a site in build/site; Python 3.11 or newer
	$(BIN)/python docs/build.py --people $(ATT) --photos $(PHOTOS)

recipes: $(VENV)/.demo  ## render vdsp JSONs and build YAMLs from the cards
	$(BIN)/facezoo render

clean:  ## remove the environment and the demo's output
	rm -rf $(VENV) .venv-* .demo .train-demo .pipnet-demo build
