# Two commands do all the set-up: `make demo` and `make test`. They need python3 >= 3.11 and pip.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test docs lint dist bench mutate clean
.DELETE_ON_ERROR:

# A stamp per set of packages, so that the second call installs nothing.
$(VENV)/demo.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e '.[plot]'
	touch $@

# pip reads the dependency groups of pyproject.toml since 25.1.
$(VENV)/test.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q 'pip>=25.1'
	$(BIN)/python -m pip install -q -e '.[all]' --group test
	touch $@

$(VENV)/docs.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e '.[docs]'
	touch $@

$(VENV)/lint.stamp: $(VENV)/test.stamp
	$(BIN)/python -m pip install -q --group lint
	touch $@

demo: $(VENV)/demo.stamp
	$(BIN)/minivae gradcheck | tail -n 1
	$(BIN)/minivae train digits --out runs/demo --overwrite

# On all processors, up to eight: some 7 minutes on two.
test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

# The pages, the book and the public names as a site that asks no other host: build/site/index.html, which opens from there.
docs: $(VENV)/docs.stamp
	$(BIN)/python docs/site/finish.py

bench: $(VENV)/test.stamp
	$(BIN)/python benchmarks/textbook_step.py

# Break the library on purpose, in ways picked and generated, and see each one caught: an hour, not part of `test`.
mutate: $(VENV)/test.stamp
	$(BIN)/python tests/mutate.py

# Of the types, what a user's own mypy says too, who has the package installed and neither its sources nor its settings.
lint: $(VENV)/lint.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy
	cd $(VENV) && $(abspath $(BIN))/mypy --strict --config-file= $(CURDIR)/tests/typing_user.py
	$(BIN)/repo-review . --show err
	$(BIN)/zizmor --offline -q .github
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.citation-file-format CITATION.cff

# What a release uploads, in dist/: built, then installed in an empty environment far from here, and used.
dist: $(VENV)/lint.stamp
	rm -rf dist
	$(BIN)/python -m build -q
	$(BIN)/python tests/release.py dist

clean:
	rm -rf $(VENV) build dist *.egg-info
