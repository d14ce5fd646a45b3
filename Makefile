# `make demo` and `make test` do all set-up themselves, in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint qgis-plugin clean

# A worker a core, each with one thread; idle workers take tests from busy ones.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal
C_CODE := $(wildcard geoseg/native/*.c geoseg/native/*.h)

demo: .venv/demo.stamp
	$(BIN)/geoseg demo

test: lint
	$(BIN)/pytest $(PARALLEL)

lint: .venv/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

qgis-plugin: .venv/dev.stamp
	$(BIN)/python qgis/make_plugin.py dist

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: .venv/bin/python pyproject.toml constraints.txt $(C_CODE)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

.venv/dev.stamp: .venv/bin/python pyproject.toml constraints.txt $(C_CODE)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,export]'
	touch $@

clean:
	rm -rf .venv build dist geoseg.egg-info geoseg/native/_compiled*
