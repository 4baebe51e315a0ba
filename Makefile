# Everything that a fresh machine with Python 3.11, pip and make needs: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint format ui clean

demo: $(VENV)/.installed  ## The main job on synthetic notes, ending with a served prediction
	$(BIN)/medcode demo

# First what fills one core each, two files at a time, in their order: pytest-xdist would leave the files of few tests to
# the end, and among them are the longest. Then whole runs of `medcode`, which fill the machine.
test: $(VENV)/.installed $(VENV)/llama.cpp  ## All tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/assets tests/serving tests/browser/test_page*.py -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest tests/e2e tests/browser/test_dagster_ui.py

lint: $(VENV)/.installed  ## ruff, mypy, and the one-way rule between the packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: $(VENV)/.installed  ## The Dagster UI
	$(BIN)/medcode ui

# torch first and by pip: with exactly this version installed, nothing else pulls another build of it. uv takes a quarter
# of pip's time for the rest; pip does it where the package index is one that only pip's settings name.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0 uv -c constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -e '.[dev]' -c constraints.txt \
		|| $(BIN)/pip install --quiet -e '.[dev]' -c constraints.txt
	touch $@

# llama.cpp's own converter, which tests hold our GGUF files against. No package ships it; this source distribution does.
$(VENV)/llama.cpp: | $(VENV)/.installed
	rm -rf $@.part && mkdir -p $@.part
	$(BIN)/pip download --quiet --no-deps --no-binary llama-cpp-python --dest $@.part llama-cpp-python==0.3.36
	tar -xzf $@.part/*.tar.gz -C $@.part --strip-components=3 --wildcards '*/vendor/llama.cpp/LICENSE' \
		'*/vendor/llama.cpp/convert_*.py' '*/vendor/llama.cpp/conversion/*' '*/vendor/llama.cpp/gguf-py/gguf/*'
	rm $@.part/*.tar.gz && mv $@.part $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
