"""Bad input ends in one clear sentence and a non-zero exit before a model is loaded, and nothing on disk is damaged."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT, conversations, launch, pairs, run_recipe, stage_arguments, write_rows


@pytest.fixture
def refuse(monkeypatch, capsys, tmp_path, world):
    """Run a recipe in this process and return the sentence that it ends with; loading a model would fail the test."""
    from align.models import checkpoints

    def no_model(*_, **__):
        raise AssertionError("a model was loaded before the input was judged")

    for name in ("load_policy", "load_reward_model", "load_trained"):
        monkeypatch.setattr(checkpoints, name, no_model)
    monkeypatch.chdir(ROOT)

    def run(stage: str, **changed: str) -> str:
        arguments = stage_arguments(stage, world)
        changed.setdefault("output_dir", str(tmp_path / "out"))
        for key, value in changed.items():
            if f"--{key}" in arguments:
                arguments[arguments.index(f"--{key}") + 1] = value
            else:
                arguments += [f"--{key}", value]
        monkeypatch.setattr(sys, "argv", [f"recipes/{stage}.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(f"recipes/{stage}.py", run_name="__main__")
        assert stop.value.code == 1
        noise, error, message = capsys.readouterr().err.rpartition("\nerror: ")
        assert error and "Traceback" not in message, noise
        return message

    return run


def test_missing_file(refuse):
    assert "nowhere.jsonl does not exist" in refuse("sft", dataset_name="nowhere.jsonl")


def test_missing_model(refuse):
    assert "runs/none does not exist" in refuse("sft", model_name_or_path="runs/none")


def test_empty_data_set(refuse, tmp_path):
    (tmp_path / "x.jsonl").write_text("")
    assert "the file is empty" in refuse("sft", dataset_name=str(tmp_path / "x.jsonl"))


def test_wrong_columns(refuse, tmp_path):
    path = write_rows(tmp_path / "x.jsonl", [{"foo": "a", "bar": "b"}])
    assert "has the columns foo, bar; this recipe needs prompt, chosen and rejected" in refuse(
        "dpo", dataset_name=str(path)
    )
    assert "there is no column baz" in refuse("sft", dataset_name=str(path), columns="baz=user")


def test_unknown_role(refuse, tmp_path):
    path = write_rows(tmp_path / "x.jsonl", [*conversations(2), {"messages": [{"role": "robot", "content": "x"}]}])
    assert "row 3.messages[0]: unknown role 'robot'; allowed: system, user, assistant" in refuse(
        "sft", dataset_name=str(path)
    )


def test_identical_chosen_and_rejected(refuse, tmp_path):
    row = {**pairs(1)[0], "rejected": pairs(1)[0]["chosen"]}
    path = write_rows(tmp_path / "x.jsonl", [row, *pairs(3)])
    for stage in ("reward", "dpo"):
        assert "1 with identical chosen and rejected" in refuse(stage, dataset_name=str(path))


@pytest.mark.parametrize("stage", ["sft", "dpo", "reward"])
def test_a_prompt_longer_than_the_limit(refuse, stage):
    message = refuse(stage, max_length="4")
    assert "longer than 4 tokens" in message and "raise --max_length" in message


def test_a_label_of_the_wrong_type(refuse, tmp_path):
    path = write_rows(tmp_path / "x.jsonl", [{**pairs(1)[0], "margin": "large"}])
    assert "margin: expected a number, got 'large'" in refuse("reward", dataset_name=str(path))
    path = write_rows(tmp_path / "y.jsonl", [{"prompt": "a", "completions": ["b", "c"], "ranking": [0.5, 1.5]}])
    assert "ranking: expected whole numbers" in refuse("dpo", dataset_name=str(path))


def test_a_checkpoint_without_a_tokenizer(refuse, world, tmp_path):
    (tmp_path / "m").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(world / "base" / name, tmp_path / "m" / name)
    assert "a model without a tokenizer" in refuse("sft", model_name_or_path=str(tmp_path / "m"))


def test_a_folder_without_a_model(refuse, tmp_path):
    assert "holds no model" in refuse("sft", model_name_or_path=str(tmp_path))


def test_a_reward_model_without_a_score_head(refuse, world):
    assert "has no score head" in refuse("ppo", reward_model_path=str(world / "base"))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("generation_config.json", None, "its generation_config.json holds no settings (a list)"),
        ("config.json", {"dtype": "nope"}, "its config.json has the dtype 'nope', which torch has not"),
        ("config.json", {"pad_token_id": 99999}, "cannot be trained like this: AssertionError: Padding_idx must be within"),
    ],
)  # fmt: skip
def test_a_checkpoint_whose_settings_are_none(refuse, world, tmp_path, name, change, words):
    shutil.copytree(world / "base", tmp_path / "m")
    file = tmp_path / "m" / name
    file.write_text("[]" if change is None else json.dumps(json.loads(file.read_text()) | change))
    assert words in refuse("sft", model_name_or_path=str(tmp_path / "m"))


def test_a_file_that_is_not_there_is_no_full_disk(refuse):
    """Only what a full or failing disk can bring is told as such."""
    message = refuse("sft", accelerator_config="nope.json")
    assert "nope.json: No such file or directory" in message and "free space" not in message


def test_an_interrupted_parent(refuse, world, tmp_path):
    shutil.copytree(world / "base", tmp_path / "m")
    (tmp_path / "m/run.json").write_text(json.dumps({"status": "interrupted", "command": "python recipes/sft.py"}))
    message = refuse("dpo", model_name_or_path=str(tmp_path / "m"))
    assert "did not finish (status: interrupted)" in message and "--resume_from_checkpoint last" in message


def test_another_finished_run_is_kept(refuse, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text(json.dumps({"status": "complete"}))
    (tmp_path / "out/model.safetensors").write_text("precious")
    assert "holds a finished run; name another folder, or give --overwrite" in refuse("sft")
    assert (tmp_path / "out/model.safetensors").read_text() == "precious"


def test_an_output_folder_that_cannot_be_written(refuse):
    assert "cannot be written" in refuse("sft", output_dir="/proc/align")


def test_a_broken_file(refuse, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"messages": [}\n')
    assert "x.jsonl, line 1: not JSON" in refuse("sft", dataset_name=str(tmp_path / "x.jsonl"))


@pytest.mark.slow
def test_a_loss_that_is_not_a_number(world, tmp_path):
    done = run_recipe("sft", *stage_arguments("sft", world), "--learning_rate", "1e30", "--max_grad_norm", "1e30",
                      "--max_steps", "20", "--output_dir", str(tmp_path / "x"), check=False)  # fmt: skip
    assert done.returncode == 1 and "at step" in done.stderr and "Lower --learning_rate" in done.stderr, done.stderr[
        -800:
    ]
    assert json.loads((tmp_path / "x/run.json").read_text())["status"] == "failed"
    assert not (tmp_path / "x/model.safetensors").exists()


@pytest.mark.slow
def test_a_disk_that_is_full(world, tmp_path):
    """Files may not grow beyond 48 KiB: training works, saving does not, and the error says so."""
    words = [sys.executable, "recipes/sft.py", *stage_arguments("sft", world), "--max_steps", "1", "--output_dir",
             str(tmp_path / "x")]  # fmt: skip
    done = launch(["bash", "-c", f"ulimit -f 48; exec {' '.join(map(str, words))}"], check=False)
    assert done.returncode == 1 and "could not be written" in done.stderr, done.stderr[-1500:]
    assert json.loads((tmp_path / "x/run.json").read_text())["status"] == "failed"
    assert not Path(tmp_path / "x/checkpoint-1/trainer_state.json").exists()


@pytest.mark.parametrize(
    ("stage", "row", "words"),
    [
        ("sft", {"system": "Be kind.", "messages": [{"role": "system", "content": "Be rude."}]}, "system prompts in system"),
        ("sft", {"question": "What?", "answer": 36}, "row 1.answer: expected text or messages, got int '36'"),
        ("sft", {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": " "}]}, "empty answer"),
        ("dpo", {"prompt": None, "chosen": "The sky is blue.", "rejected": "The sky is red."}, "nothing says what was asked"),
        ("reward", {"prompt": "What?", "chosen": "This.", "rejected": ""}, "1 with an empty answer"),
        ("ppo", {"messages": [{"role": "system", "content": "Be kind."}]}, "1 without a prompt"),
    ],
)  # fmt: skip
def test_rows_that_say_two_things_or_nothing(refuse, tmp_path, stage, row, words):
    path = write_rows(tmp_path / "x.jsonl", [row])
    assert words in refuse(stage, dataset_name=str(path))
