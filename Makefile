# Everything runs in .venv, made from one pinned list (constraints.txt). TORCH_INDEX=… says where torch comes from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
export HF_HUB_DISABLE_TELEMETRY := 1

# Of the tools' own packages: what a newest release of could break us
CORE := transformers trl peft accelerate datasets deepspeed tokenizers huggingface_hub safetensors
PARITY := .venv-parity
NEWEST := .venv-newest

.PHONY: setup browser demo compare real real-compare assistant seeds lint check format slow test matrix anchors parity newest checkpoints clean

setup: $(VENV)/.done

$(VENV)/.done: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,clean,eval,label,real]'
	touch $@

browser: ## Chromium (Debian, Ubuntu), in which the tests open the reports; without one those tests are skipped
	command -v chromium || command -v chromium-browser || command -v google-chrome || \
		{ apt-get update -q && apt-get install -qy --no-install-recommends chromium; }

compare: setup ## PPO against DPO on the demo's models: 4 strengths x 3 seeds of each, and best-of-n
	HF_HUB_OFFLINE=1 $(BIN)/python recipes/compare.py

demo: setup ## the whole road on a laptop's CPU: raw text, cleaned, pretraining, SFT, rankings, reward model, DPO, PPO
	HF_HUB_OFFLINE=1 $(BIN)/python recipes/pipeline.py $(if $(UNTIL),--until $(UNTIL))

real: setup ## SmolLM2-135M with LoRA on film reviews: from download to PPO, DPO and a report, on a laptop's CPU
	$(BIN)/python recipes/pipeline.py --config recipes/smollm2-135m/pipeline.yaml $(if $(UNTIL),--until $(UNTIL))

real-compare: setup ## PPO against DPO on that model: strengths x seeds of each, against the judge itself, and best-of-n
	$(BIN)/python recipes/compare.py --config recipes/smollm2-135m/compare.yaml

assistant: setup ## the same checkpoint on people's judgements of harmlessness; pipeline.yaml says what must lie in data/
	$(BIN)/python recipes/pipeline.py --config recipes/smollm2-135m/pipeline.yaml --until base
	$(BIN)/python recipes/pipeline.py --config recipes/assistant/pipeline.yaml $(if $(UNTIL),--until $(UNTIL))

seeds: setup ## the demo for seeds 0, 1 and 2, and the mean
	HF_HUB_OFFLINE=1 $(BIN)/python -m align.nano.seeds

lint: setup ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint ## and the fast tests
	$(PYTEST) -m "not slow and not matrix and not anchor"

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

slow: setup ## the slow tests: recipes really launched, runs killed and resumed, several processes
	$(PYTEST) -m "slow and not matrix"

test: check slow ## every test but the whole sharding matrix

matrix: setup ## every trainer, full and LoRA, under every way to shard, with two real processes
	$(BIN)/python -m pytest -m matrix

anchors: setup ## what holds us honest on SmolLM2-135M: PIQA, losses, KL by brute force, adapters; minutes each
	$(BIN)/python -m pytest -m anchor -s

parity: $(PARITY)/.done ## the fast tests with TRL 1.12, its PPO against ours among them
	$(PARITY)/bin/python -m pytest -n 2 --dist loadfile -m "parity or not (slow or matrix or anchor)"

$(PARITY)/.done: constraints.txt benchmarks/parity.txt pyproject.toml
	$(PYTHON) -m venv $(PARITY)
	grep -vE '^(trl|transformers)==' constraints.txt | cat - benchmarks/parity.txt > $(PARITY)/constraints.txt
	$(PARITY)/bin/python -m pip install --quiet --upgrade pip
	$(PARITY)/bin/python -m pip install --quiet --constraint $(PARITY)/constraints.txt torch
	$(PARITY)/bin/python -m pip install --quiet --constraint $(PARITY)/constraints.txt --editable '.[dev,clean,eval,label,real]'
	touch $@

TORCH ?= $(shell grep '^torch==' constraints.txt)
newest: ## what the newest releases would break: the fast tests with them (torch as pinned; TORCH=torch for its newest)
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade pip
	$(NEWEST)/bin/python -m pip install --quiet '$(TORCH)' --editable '.[dev,clean,eval,label,real]'
	$(NEWEST)/bin/python -m pip install --quiet --upgrade '$(TORCH)' $(CORE)
	@echo "other than in constraints.txt:"
	@$(NEWEST)/bin/python -m pip freeze --exclude-editable | grep -vxFf constraints.txt || echo "  nothing"
	ALIGN_ANY_VERSIONS=1 $(NEWEST)/bin/python -m pytest -n 2 --dist loadfile -m "not slow and not matrix and not anchor"

checkpoints: setup ## twins of open checkpoints through every recipe: writes the tables of docs/checkpoints.md
	FAMILIES_WRITE=1 $(BIN)/python -m pytest -n 0 tests/test_families.py

clean:
	rm -rf $(VENV) $(PARITY) $(NEWEST) runs .pytest_cache .ruff_cache .mypy_cache *.egg-info
