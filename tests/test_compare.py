"""`recipes/compare.py` and `recipes/eval.py`, really launched on models and rows made here."""

from __future__ import annotations

import json

import pytest
import yaml
from conftest import WORDS, make_checkpoint, pairs, run_recipe, write_rows
from test_judge import answer, prefers_good

pytestmark = pytest.mark.slow
QUICK = {"global_batch_size": 8, "per_device_train_batch_size": 4, "max_steps": 2, "save_strategy": "no",
         "disable_tqdm": True}  # fmt: skip


@pytest.fixture(scope="module")
def ground(world, tmp_path_factory):
    """Prompts whose test split is new, a gold grader, and the arms' configurations."""
    folder = tmp_path_factory.mktemp("compare")
    said = [{"prompt": row["prompt"]} for row in pairs(32)]
    write_rows(folder / "prompts/train.jsonl", said)
    held_out = [{"prompt": [{"role": "user", "content": f"where is {word}"}]} for word in WORDS]
    write_rows(folder / "prompts/test.jsonl", held_out)
    (folder / "gold.py").write_text(
        "def gold(prompts, completions, stopped, **_):\n"
        "    return [float(len(set(c[-1]['content']))) for c in completions]\n"
        "def rates(prompts, completions, stopped, **_):\n    return [{'stopped': bool(s)} for s in stopped]\n"
    )
    ppo = {**QUICK, "num_mini_batches": 1, "learning_rate": 1e-4}
    (folder / "ppo.yaml").write_text(yaml.safe_dump(ppo))
    (folder / "dpo.yaml").write_text(yaml.safe_dump({**QUICK, "max_length": 64}))
    (folder / "compare.yaml").write_text(
        yaml.safe_dump({
            "model_name_or_path": str(world / "base"), "reward_model_path": str(world / "rm"),
            "rankings": str(world / "pairs"), "dataset_name": str(folder / "prompts"),
            "ppo_config": str(folder / "ppo.yaml"), "dpo_config": str(folder / "dpo.yaml"),
            "kl_coefs": [0.05, 0.2], "betas": [0.1], "seeds": [0, 1], "best_of_n": 2, "max_new_tokens": 6,
            "gold_func": f"{folder}/gold.py:gold", "samples": 1,
        })
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def compared(ground):
    done = run_recipe("compare", "--config", ground / "compare.yaml", "--output_dir", ground / "out", "--jobs", "2")
    return ground / "out", done.stdout


def test_a_comparison_end_to_end(compared):
    folder, said = compared
    found = json.loads((folder / "results.json").read_text())
    assert [entry["label"] for entry in found["settings"]] == ["PPO, kl_coef 0.05", "PPO, kl_coef 0.2", "DPO, beta 0.1"]
    for entry in found["settings"]:
        assert [run["seed"] for run in entry["runs"]] == [0, 1]
        for run in entry["runs"]:
            assert run["status"] == "complete" and run["seconds"] > 0 and run["tokens"] > 0 and run["kl"] >= 0
            record = json.loads((folder / "arms" / run["path"].split("/")[-1] / "run.json").read_text())
            assert record["seed"] == run["seed"] and record["parents"]["model"]["hash"]
        assert entry["gold"]["low"] <= entry["gold"]["value"] <= entry["gold"]["high"] and entry["win_rate"]["gold"]
    assert [point["n"] for point in found["best_of_n"]] == [1, 2] and found["failed"] == []
    assert found["verdict"]["headline"] in said and "the report: " in said
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert found["verdict"]["headline"] in page and found["verdict"]["headline"] in text
    assert {gate["run"] for gate in found["gates"]} >= {"DPO, beta 0.1"} and found["setup"]["prompts"] == len(WORDS)


def test_the_same_command_runs_nothing_twice_and_a_new_strength_alone(compared, ground):
    folder, _ = compared
    first = json.loads((folder / "results.json").read_text())
    times = {arm: (arm / "run.json").stat().st_mtime for arm in (folder / "arms").glob("*/")}
    again = run_recipe("compare", "--config", ground / "compare.yaml", "--output_dir", folder, "--betas", "0.1", "0.5")
    assert "8 arms to compare, 6 finished before" in again.stdout
    assert times == {arm: (arm / "run.json").stat().st_mtime for arm in times}
    second = json.loads((folder / "results.json").read_text())
    assert second["settings"][:3] == first["settings"] and second["settings"][3]["label"] == "DPO, beta 0.5"


def test_a_failed_arm_is_reported_and_the_rest_is_compared(compared, ground):
    folder, _ = compared
    settings = yaml.safe_load((ground / "compare.yaml").read_text())
    settings |= {"dpo": {"learning_rate": 1e30}, "seeds": [0], "kl_coefs": [0.05], "betas": [0.1, 0.5]}
    settings |= {"output_dir": str(ground / "bad")}
    (ground / "bad.yaml").write_text(yaml.safe_dump(settings))
    done = run_recipe("compare", "--config", ground / "bad.yaml")
    found = json.loads((ground / "bad/results.json").read_text())
    assert len(found["failed"]) == 2 and "DPO, beta 0.1, seed 0: " in found["failed"][0]
    assert found["verdict"]["headline"] == "There is nothing to compare."
    assert "failed" in done.stdout and found["failed"][0] in (ground / "bad/report.html").read_text()
    assert (ground / "bad/arms/dpo-beta-0.1-seed-0.log").read_text()


def test_finished_runs_are_taken_and_strangers_refused(compared, ground, world):
    folder, _ = compared
    arms = [str(folder / "arms" / name) for name in ("ppo-kl_coef-0.05-seed-0", "dpo-beta-0.1-seed-0")]
    done = run_recipe("compare", "--config", ground / "compare.yaml", "--output_dir", ground / "taken", "--take", *arms)
    assert "0 arms to compare" in done.stdout and (ground / "taken/report.html").is_file()
    done = run_recipe("compare", "--config", ground / "compare.yaml", "--output_dir", ground / "no", "--take", *arms,
                      "--reward_model_path", ground / "out/arms/ppo-kl_coef-0.05-seed-0", check=False)  # fmt: skip
    assert done.returncode == 1 and "has no score head" in done.stderr
    done = run_recipe("compare", "--config", ground / "compare.yaml", "--output_dir", ground / "no", "--take", *arms,
                      "--max_new_tokens", "9", check=False)  # fmt: skip
    assert done.returncode == 1 and "trained on answers of 6 tokens, measured on 9" in done.stderr
    assert not (ground / "no").exists()


def test_models_are_evaluated_with_everything_at_once(compared, ground, world, serve):  # noqa: F811
    folder, _ = compared
    dpo = folder / "arms/dpo-beta-0.1-seed-0"
    write_rows(ground / "safety.jsonl", [
        {"prompt": f"{what} the {word}", "label": label, "pair": word}
        for word in WORDS[:4] for what, label in (("help", "safe"), ("hurt", "unsafe"))
    ])  # fmt: skip
    write_rows(ground / "skill.jsonl", [{"prompt": "what is the cat", "answer": "a dog", "match": "contains"}] * 1)
    sheet = {"question": "Is {topic} fine? Rate 1 to 5 as {persona}.", "scale": [1, 5], "topics": ["cat", "dog"],
             "personas": ["a bird", "a tree"], "samples": 2}  # fmt: skip
    (ground / "sheet.yaml").write_text(yaml.safe_dump(sheet))
    server = serve(lambda text: answer("Decision: complies") if "<answer>" in text else prefers_good(text))
    command = [
        "eval", "--models", f"sft={world / 'base'}", f"dpo={dpo}",
        f"other={make_checkpoint(ground / 'other', seed=5)}", "--dataset_name", ground / "prompts",
        "--reward_model_path", world / "rm", "--gold_func", f"{ground}/gold.py:gold",
        "--rates_func", f"{ground}/gold.py:rates", "--pairs", world / "pairs", "--texts", world / "texts",
        "--suites", f"safety={ground}/safety.jsonl", f"skill={ground}/skill.jsonl", "--personas", ground / "sheet.yaml",
        "--max_new_tokens", "6", "--output_dir", ground / "eval", "--judge_url", server.url, "--judge_model", "fake",
    ]  # fmt: skip
    run_recipe(*command)
    asked = len(server.seen)
    first = json.loads((ground / "eval/results.json").read_text())
    run_recipe(*command)  # finished: everything is kept, nobody is asked again
    assert len(server.seen) == asked > 0
    second = json.loads((ground / "eval/results.json").read_text())
    assert first["models"] == second["models"]
    found = first["models"]["other"]
    assert set(found["win_rate"]) >= {"judge", "gold", "reward"} and found["sampled"]["kl"]["value"] > 0
    assert found["suites"]["safety"]["kind"] == "pairs" and found["suites"]["skill"]["kind"] == "skill"
    assert found["suites"]["safety"]["judge"] == "fake" and found["suites"]["safety"]["shipped"]["judge"]
    assert first["refusal_judge"]["agreement"]["n"] == 1350
    assert found["personas"]["measurable"] is False and found["tax"]["perplexity"]["value"] > 1
    assert found["preference_accuracy"]["n"] == 16 and first["models"]["sft"]["preference_accuracy"] is None
    assert first["reward_model"]["accuracy"]["n"] == 16
    assert json.loads((dpo / "gate.json").read_text())["checks"][0]["name"] == "gold score gained, low end"
    assert "Not measurable" in (ground / "eval/report.html").read_text()
