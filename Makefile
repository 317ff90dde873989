# Two commands do all the set-up: `make demo` and `make test`. They need python3 >= 3.11 and pip.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test docs lint bench mutate clean
.DELETE_ON_ERROR:

# A stamp per set of packages, so that the second call installs nothing.
$(VENV)/demo.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e '.[plot]'
	touch $@

$(VENV)/test.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e '.[all]' pytest pytest-benchmark hypothesis scikit-learn scipy pandas polars \
		"nvidia-cuda-nvrtc; sys_platform == 'linux'"
	touch $@

$(VENV)/docs.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e '.[docs]'
	touch $@

$(VENV)/lint.stamp: $(VENV)/test.stamp
	$(BIN)/python -m pip install -q ruff mypy
	touch $@

demo: $(VENV)/demo.stamp
	$(BIN)/minivae gradcheck | tail -n 1
	$(BIN)/minivae train digits --out runs/demo --overwrite

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest

# The pages, the book and the public names as a site that asks no other host: build/site/index.html, which opens from there.
docs: $(VENV)/docs.stamp
	$(BIN)/python docs/site/finish.py

bench: $(VENV)/test.stamp
	$(BIN)/python benchmarks/textbook_step.py

# Break the library on purpose, in ways picked and generated, and see each one caught: an hour, not part of `test`.
mutate: $(VENV)/test.stamp
	$(BIN)/python tests/mutate.py

lint: $(VENV)/lint.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
