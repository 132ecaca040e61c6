# Everything runs in .venv, made from one pinned list (constraints.txt).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: setup browser demo compare seeds lint check format test matrix checkpoints clean

setup: $(VENV)/.done

$(VENV)/.done: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,clean,eval,label]'
	touch $@

browser: ## Chromium (Debian, Ubuntu), in which the tests open the reports; without one those tests are skipped
	command -v chromium || command -v chromium-browser || command -v google-chrome || \
		{ apt-get update -q && apt-get install -qy --no-install-recommends chromium; }

compare: setup ## PPO against DPO on the demo's models: 4 strengths x 3 seeds of each, and best-of-n
	HF_HUB_OFFLINE=1 $(BIN)/python recipes/compare.py

demo: setup ## the whole road on a laptop's CPU: raw text, cleaned, pretraining, SFT, rankings, reward model, DPO, PPO
	HF_HUB_OFFLINE=1 $(BIN)/python recipes/pipeline.py $(if $(UNTIL),--until $(UNTIL))

seeds: setup ## the demo for seeds 0, 1 and 2, and the mean
	HF_HUB_OFFLINE=1 $(BIN)/python -m align.nano.seeds

lint: setup ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint ## and the fast tests
	$(PYTEST) -m "not slow and not matrix"

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: setup ## every test but the whole sharding matrix
	$(PYTEST) -m "not matrix"

matrix: setup ## every trainer, full and LoRA, under every way to shard, with two real processes
	$(BIN)/python -m pytest -m matrix

checkpoints: setup ## twins of open checkpoints through every recipe: writes the tables of docs/checkpoints.md
	FAMILIES_WRITE=1 $(BIN)/python -m pytest -n 0 tests/test_families.py

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .mypy_cache *.egg-info
