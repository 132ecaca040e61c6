"""Model cards: what the record knows and no more, nothing of strangers as markup, and what is pushed, when, and what not."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest
import yaml
from conftest import run_recipe, stage_arguments

from align.evaluate import program, results
from align.report import card_parts, model_card
from align.run import gates
from align.run.checks import hub
from align.run.errors import RunError
from align.run.received import ancestry
from align.run.received.ancestry import Ancestor
from align.stats import Estimate

EVIL = "x](http://evil.example) <script>alert(1)</script> | \x1b[2J \u202e![](http://evil.example/a.png)\n# head"


def record(recipe: str = "sft", **more) -> dict:
    """What a finished run wrote down."""
    config = {"output_dir": "runs/mine/sft", "use_peft": False, "learning_rate": 3e-4, "max_length": 512, "seed": 7}
    return {
        "recipe": recipe, "status": "complete", "command": "recipes/sft.py --learning_rate 3e-4", "seed": 7,
        "started": "2026-11-28T02:47:29+00:00", "config": config, "given": ["learning_rate", "output_dir"],
        "git": {"commit": "c6ca830e842f54a7", "dirty": False}, "versions": {"torch": "2.13.0", "align-recipes": "0.1.0"},
        "parents": {"model": {"path": "runs/mine/base"}, "data": {"path": "chats.jsonl"}},
        "data": {
            "train": {"source": "chats.jsonl (train)", "rows_in": 1010, "rows_out": 1000, "dropped": {"too long": 10},
                      "fingerprint": "abcdef0123456789"},
            "test": {"source": "chats.jsonl (test)", "rows_in": 64, "rows_out": 64, "dropped": {}, "fingerprint": "9" * 64},
            "shared_prompts": {"prompts": 64},
        },
        "parameters": 1_000_000, "trainable": 1_000_000, "world_size": 1, "tokens": 82_418,
        "metrics": {"loss_before": 4.39, "eval_loss": 3.54, "stops": 0.75, "stops_prompts": 64},
    } | more  # fmt: skip


BASE = Ancestor("runs/mine/base", "fetch", "2107faffc803ef58", {"of": "HuggingFaceTB/SmolLM2-135M", "from": "the hub"}, "Apache-2.0")  # fmt: skip
GATE = {"passed": False, "checks": [gates.at_least("stops", 0.75, 0.9, "why")], "not_measured": {"loss": "no rows"}}


def front(text: str) -> dict:
    head, _, _ = text.removeprefix("---\n").partition("\n---\n")
    return yaml.safe_load(head)


def test_a_card_says_what_the_record_knows():
    text = model_card.card(record(), [BASE], {"data": ancestry.of("chats.jsonl")}, GATE)
    assert front(text) == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["align-recipes", "sft"],
        "base_model": "HuggingFaceTB/SmolLM2-135M", "base_model_relation": "finetune", "license": "apache-2.0",
    }  # fmt: skip
    body = text.partition("\n---\n")[2]
    assert body.startswith(
        "\n# sft\n\nThis is a language model, fine-tuned on demonstrations (SFT). 1\u202f000\u202f000 weights."
    )
    assert "Licence, from what it was made of: Apache-2.0." in body
    assert "on 2026-11-28" in body and "82\u202f418 tokens, seed 7" in body and "Commit c6ca830e842f." in body
    assert "```bash\nrecipes/sft.py --learning_rate 3e-4\n```" in body
    assert "| comes from | runs/mine/base | fetch: HuggingFaceTB/SmolLM2-135M from the hub | 2107faffc803 |" in body
    assert "| train | chats.jsonl (train) | 1\u202f000 | 10 | abcdef012345 | not stated |" in body
    assert "Rows were dropped for: too long." in body and "10 rows were not trained on" in body
    settings = body.partition("## Settings")[2].partition("\n## ")[0]
    assert [line for line in settings.splitlines() if line.startswith("| ")] == [
        "| setting | value |",
        "| learning\\_rate | 0.0003 |",
    ]
    assert "| stops | 0.750 | &gt;= 0.9 | FAILED |" in body and "- Not measured: loss (no rows)" in body
    assert "**Its gate failed.**" in body
    # 48 of 64 stop: Wilson's interval is (0.75 + 0.0300) / 1.0600 ± 1.96 sqrt(0.75 * 0.25 / 64 + 0.000235) / 1.06,
    # which is 0.736 ± 0.104
    assert "| greedy answers that end by themselves | 75.0\u202f% \\[63.2, 84.0\\] | 64 |" in body
    assert "| and after | 3.54 | — |" in body
    assert "from transformers import AutoModelForCausalLM" in body and "max_length" not in settings


def test_a_card_of_a_reward_model_under_lora():
    made = record("reward", metrics={"accuracy": 0.75, "accuracy_low": 0.724, "accuracy_high": 0.778, "n": 1282})
    made["config"]["use_peft"] = True
    text = model_card.card(made, [BASE], {}, None)
    head = front(text)
    assert head["library_name"] == "peft" and head["pipeline_tag"] == "text-classification"
    assert head["base_model_relation"] == "adapter" and head["tags"] == [
        "align-recipes",
        "reward",
        "reward-model",
        "lora",
    ]
    assert "| held-out pairs in the right order | 75.0\u202f% \\[72.4, 77.8\\] | 1\u202f282 |" in text
    assert "from peft import AutoPeftModelForSequenceClassification" in text and "num_labels=1" in text
    assert "No gate was measured for this run." in text and "align merge-adapter" in text


def test_no_path_of_this_machine_and_no_name_that_the_hub_cannot_know(tmp_path):
    made = record(command=f"recipes/sft.py --model_name_or_path {tmp_path}/base --output_dir {tmp_path}/sft")
    made["data"] = {"train": {"source": f"{tmp_path}/chats.jsonl (train)", "rows_in": 1, "rows_out": 1, "dropped": {}}}
    text = model_card.card(made, [Ancestor(f"{tmp_path}/base", None, None, {}, None)], {}, None)
    assert str(tmp_path) not in text and "base_model" not in front(text) and "datasets" not in front(text)
    assert f"…/{tmp_path.name}/base" in text and "license" not in front(text)
    assert "No licence is known" in text and "No rows were held out" in text


def test_names_on_the_hub_are_named():
    made = record()
    made["data"]["train"]["source"] = "HuggingFaceH4/ultrachat_200k (train)"
    text = model_card.card(made, [Ancestor("Qwen/Qwen3-0.6B", None, "c0ffee", {}, None)], {}, None)
    assert front(text)["base_model"] == "Qwen/Qwen3-0.6B" and front(text)["datasets"] == [
        "HuggingFaceH4/ultrachat_200k"
    ]


def test_a_model_from_random_weights_has_no_base():
    made = record("pretrain")
    made["config"]["model_config"] = {"model_type": "llama"}
    text = model_card.card(made, [Ancestor("openai/gpt", None, None, {}, "mit")], {}, None)
    assert "base_model" not in front(text) and "license" not in front(text)
    assert "It was begun from random weights." in text and "| its tokenizer | openai/gpt |" in text


def test_what_strangers_wrote_is_no_markup():
    made = record()
    made["data"]["train"] |= {"source": f"{EVIL} (train)", "dropped": {EVIL: 1}}
    made["config"]["learning_rate"] = EVIL
    evil = Ancestor(f"runs/{EVIL}", EVIL, EVIL, {"of": EVIL, "from": EVIL}, EVIL)
    gate = {
        "passed": True,
        "checks": [{"name": EVIL, "value": 1.0, "bound": EVIL, "passed": True}],
        "not_measured": {EVIL: EVIL},
    }
    text = model_card.card(made, [evil], {f"reward_{EVIL}": evil}, gate)
    body = text.partition("\n---\n")[2]
    marks = ("<script", "](http://", "![", "\x1b", "\u202e", "\n# head", "://evil")
    assert not [mark for mark in marks if mark in body]
    assert set(front(text)) <= {"library_name", "pipeline_tag", "tags", "license"}
    assert "base_model" not in front(text)


def write_run(folder: Path, recipe: str, **more) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"recipe": recipe, "status": "complete", "hash": "0" * 64} | more))
    return folder


def test_lineage_goes_up_to_what_was_there_first_and_ends_where_it_goes_round(tmp_path):
    base = write_run(tmp_path / "base", "fetch", origin={"of": "a/b", "from": "the hub", "licence": "mit"})
    sft = write_run(tmp_path / "sft", "sft", parents={"model": {"path": str(base)}})
    dpo = write_run(tmp_path / "dpo", "dpo", parents={"model": {"path": str(sft)}})
    found = ancestry.line(str(dpo))
    assert [one.recipe for one in found] == ["dpo", "sft", "fetch"] and ancestry.licence(found) == "mit"
    write_run(tmp_path / "round", "sft", parents={"model": {"path": str(tmp_path / "round")}})
    assert len(ancestry.line(str(tmp_path / "round"))) == 1
    assert ancestry.line("Qwen/Qwen3-0.6B") == [Ancestor("Qwen/Qwen3-0.6B", None, None, {}, None)]


def test_a_licence_is_read_off_a_folders_card(tmp_path):
    for number, (head, found) in enumerate([
        ("---\nlanguage: en\nlicense: cc-by-4.0\n---\n", "cc-by-4.0"), ("---\nlicense: 'mit'\n---\n", "mit"),
        ("---\ntags: []\n---\nlicense: mit\n", None), ("license: mit\n", None), ("---\nlicense: <b>\n---\n", None),
    ]):  # fmt: skip
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "README.md").write_text(head)
        assert ancestry.of_card(folder) == found, head
    assert ancestry.of_card(tmp_path) is None
    (tmp_path / "README.md").symlink_to(tmp_path / "0/README.md")
    assert ancestry.of_card(tmp_path) is None, "a link may lead to the reader's own files"


def test_rows_carry_the_licence_of_where_they_come_from(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    found = card_parts.rows(
        "train", {"source": f"{tmp_path} (train)", "rows_out": 2}, {"data": ancestry.of(str(tmp_path))}
    )
    assert found.licence == "cc0-1.0"
    other = card_parts.rows(
        "train", {"source": "elsewhere (train)", "rows_out": 2}, {"data": ancestry.of(str(tmp_path))}
    )
    assert other.licence is None


def test_a_card_that_was_changed_is_known(tmp_path):
    folder = write_run(tmp_path / "sft", "sft")
    assert not model_card.untouched(folder)  # there is none
    text = model_card.write(folder, record())
    assert model_card.untouched(folder) and (folder / "README.md").read_text().startswith(text)
    (folder / "README.md").write_text((folder / "README.md").read_text().replace("# sft", "# My model"))
    assert not model_card.untouched(folder)


def found_of(paths: dict[str, Path]) -> results.EvaluationResults:
    """What an evaluation of some runs found."""
    reward = Estimate(1.25, 1.0, 1.5, 64)
    models = {
        name: results.ModelResult(path=str(path), recipe="sft", hash="0" * 64, sampled=results.Sampled(reward=reward, n=64),
                                  rates={"harmless": Estimate(0.75, 0.5, 0.9, 16)})
        for name, path in paths.items()
    }  # fmt: skip
    return results.EvaluationResults(models=models, made="2026-11-28", reference="before")


def test_an_evaluation_is_put_onto_the_cards_of_its_models(tmp_path, capsys):
    """With intervals, of that model alone; a later one takes its place; a card that was changed is left as it is."""
    mine, theirs = (write_run(tmp_path / name, **record()) for name in ("mine", "theirs"))
    for folder in (mine, theirs):
        model_card.write(folder, record())
    (theirs / "README.md").write_text("# By hand\n")
    for _ in range(2):
        program._on_cards(
            found_of({"mine": mine, "theirs": theirs, "hub": tmp_path / "no-run"}), tmp_path / "e/report.md"
        )
    text = (mine / "README.md").read_text().replace("\u202f", " ").replace("\xa0", " ")
    assert text.count("### Measured by an evaluation") == 1 and "no evaluation was made" not in text
    assert r"| harmless | 75.0 % \[50.0, 90.0\] |" in text and "| measure | mine |" in text and "theirs" not in text
    assert str(tmp_path) not in text and "the whole is in …/e/report.md" in text and model_card.untouched(mine)
    assert (theirs / "README.md").read_text() == "# By hand\n"
    assert "was changed after it was written" in capsys.readouterr().out


def test_a_card_of_an_adapter_made_whole():
    """It says what its parent was: a reward model scores."""
    given = record("merge-adapter", seed=None, config={"output_dir": "runs/mine/whole"}, data={}, metrics={})
    parent = Ancestor("runs/mine/reward", "reward", "0" * 64, {}, None)
    text = model_card.card(given, [parent, BASE], {}, None)
    assert "an adapter (LoRA) and its base as one checkpoint" in text and "seed" not in text
    assert "AutoModelForSequenceClassification" in text and "was trained to order answers" in text
    assert "AutoModelForCausalLM" in model_card.card(given, [parent._replace(recipe="dpo"), BASE], {}, None)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "pretrain", "reward", "dpo", "ppo", "rloo"])
def test_every_training_leaves_a_card_in_its_folder(stage, world, tmp_path):
    extra = ["--use_peft"] if stage in ("dpo", "ppo") else []
    more = [] if stage == "rloo" else ["--max_steps", "2"]
    run_recipe(stage, *stage_arguments(stage, world), *extra, *more, "--output_dir", str(tmp_path / stage))
    text = (tmp_path / stage / "README.md").read_text()
    assert front(text)["tags"][:2] == ["align-recipes", stage] and f"# {stage}\n" in text
    assert str(tmp_path) not in text and str(world) not in text
    assert "Model Card for" not in text and "## Data" in text and "| train |" in text
    told = json.loads((tmp_path / stage / "run.json").read_text())
    assert "global_batch_size" in told["given"] and "seed" not in told["given"]
    assert "| global\\_batch\\_size | 8 |" in text


# ------------------------------------------------------------------------------------------------------------- pushing


class Hub:
    """A stand-in for `HfApi`: what was asked of it."""

    calls: list[tuple]
    down: Exception | None = None

    def whoami(self):
        self.calls.append(("whoami",))
        if self.down:
            raise self.down
        return {"name": "me"}

    def create_repo(self, name, **more):
        self.calls.append(("create_repo", name, more))
        return type("Url", (), {"repo_id": f"me/{name}" if "/" not in name else name})

    def create_branch(self, name, **more):
        self.calls.append(("create_branch", name, more))

    def upload_folder(self, **more):
        if self.down:
            raise self.down
        self.calls.append(("upload_folder", more))


@pytest.fixture
def api(monkeypatch):
    import huggingface_hub

    made = Hub()
    made.calls = []
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return made


PUSH = {"push_to_hub": True}


def test_whether_it_can_be_pushed_is_asked_before_training(api, monkeypatch):
    assert hub.problems(PUSH, PUSH) == [] and api.calls == [("whoami",)]
    api.down = httpx2.ConnectError("Name or service not known")
    assert "the hub does not answer (ConnectError: Name or service not known)" in hub.problems(PUSH, PUSH)[0]
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in hub.problems(PUSH, PUSH)[0]
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert hub.problems(PUSH, PUSH) == [hub.LOGIN]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"hub_model_id": "me/x"}, "hub_model_id: nothing reads this without --push_to_hub"),
        (PUSH | {"hub_strategy": "checkpoint"}, "hub_strategy=checkpoint: the finished run is pushed"),
        (PUSH | {"hub_always_push": True}, "no checkpoint on the way; leave it out"),
    ],
)
def test_what_nothing_would_read_is_refused(api, given, said):
    assert said in hub.problems(given, given)[0] and not api.calls


def test_an_adapter_of_a_folder_here_is_not_pushed(api, tmp_path):
    values = PUSH | {"use_peft": True, "model_name_or_path": str(tmp_path)}
    assert "is of no use to others" in hub.problems(PUSH, values)[0] and not api.calls
    assert hub.problems(PUSH, values | {"model_name_or_path": "Qwen/Qwen3-0.6B"}) == []


def test_model_and_card_are_pushed_and_nothing_else(api, tmp_path):
    from huggingface_hub.utils import filter_repo_objects

    config = {"hub_model_id": "me/sft", "hub_private_repo": True, "hub_revision": "v1"}
    assert hub.push(tmp_path, config) == "https://huggingface.co/me/sft"
    assert api.calls[0] == ("create_repo", "me/sft", {"private": True, "exist_ok": True})
    assert api.calls[1] == ("create_branch", "me/sft", {"branch": "v1", "exist_ok": True})
    asked = api.calls[2][1]
    assert asked["repo_id"] == "me/sft" and asked["revision"] == "v1" and asked["folder_path"] == str(tmp_path)
    there = ["README.md", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
             "config.json", "tokenizer.json", "chat_template.jinja", "adapter_config.json", "run.json", "metrics.jsonl",
             "training_args.bin", "checkpoint-9/optimizer.pt", "gate.json", "base/run.json", "base/model.safetensors",
             "checkpoint-9/adapter_model.safetensors"]  # fmt: skip
    sent = filter_repo_objects(there, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"])
    assert set(sent) == set(there[:8])


def test_a_push_that_fails_undoes_nothing(api, tmp_path):
    from align.run import record as records

    api.down = httpx2.ConnectError("gone")
    with pytest.raises(RunError, match=r"is finished, but could not be pushed to me/x: ConnectError: gone. Try again: hf upload"), records.start("sft", str(tmp_path / "x"), {"seed": 0, "hub_model_id": "x"}) as run:  # fmt: skip
        run.finish("complete", metrics={})
        hub.push(run.folder, run.record["config"])
    assert json.loads((tmp_path / "x/run.json").read_text())["status"] == "complete"


@pytest.mark.slow
def test_a_recipe_pushes_once_and_its_trainer_never(world, tmp_path):
    """In a process of its own, in which the hub is a stand-in that writes down what it was asked."""
    stand_in = tmp_path / "sitecustomize.py"
    stand_in.write_text(
        "import huggingface_hub, huggingface_hub.constants, json\n"
        f"def note(*told): open({str(tmp_path / 'asked')!r}, 'a').write(json.dumps(told) + '\\n')\n"
        "class Api(huggingface_hub.HfApi):\n"
        "    def whoami(self): note('whoami')\n"
        "    def create_repo(self, name, **more): note('create', name); return type('U', (), {'repo_id': 'me/' + name})\n"
        "    def upload_folder(self, **more): note('upload', more['repo_id'], more['folder_path'])\n"
        "huggingface_hub.HfApi = Api\n"
        "huggingface_hub.get_token = lambda *a, **k: 'hf_x'\n"
        "huggingface_hub.constants.HF_HUB_OFFLINE = False\n"
    )
    out = tmp_path / "mine"
    done = run_recipe(
        "sft", *stage_arguments("sft", world), "--max_steps", "2", "--save_steps", "1", "--push_to_hub",
        "--output_dir", str(out), env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parent.parent}", "HF_HUB_OFFLINE": "0"},
    )  # fmt: skip
    asked = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    assert asked == [["whoami"], ["create", "mine"], ["upload", "me/mine", str(out)]]
    assert "pushed to https://huggingface.co/me/mine" in done.stdout
    assert json.loads((out / "run.json").read_text())["config"]["push_to_hub"] is True
