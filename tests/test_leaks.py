"""Shared prompts: what is near, that all of it is found, that leaks are refused, allowed, cleaned, and kept from eval."""

from __future__ import annotations

import json
import random
import time
from types import SimpleNamespace

import pytest
from conftest import WORDS, run_recipe, stage_arguments, write_rows
from datasets import Dataset

from align.data.overlap import leaks, ngrams
from align.data.overlap.ngrams import similarity, words
from align.data.overlap.overlaps import find
from align.data.overlap.prompts import prompts_of, within
from align.evaluate import held_out
from align.run.errors import ConfigError, RunError

LONG = "write a letter to the mayor of our town that asks for more trees along the old market street"
# 19 words, "the" twice: 20 * 3 - 1 = 59 n-grams. Another word in it takes 6 from each side: 53 / 65.


def names(count: int, start: int = 0) -> str:
    return " ".join(f"w{number}" for number in range(start, start + count))


@pytest.mark.parametrize(
    "a, b, value",
    [
        # 6 words: 6 + 7 + 8 = 21 n-grams each; another last word takes 1 + 2 + 3 = 6 from each side: 15 / 27
        ("What is the capital of Peru?", "What is the capital of Spain?", 15 / 27),
        # 5 words: 18 n-grams, 6 differ: 12 / 24
        ("What is 17 plus 25?", "What is 17 plus 26?", 12 / 24),
        # 4 words and 5: 15 and 18 n-grams; the pads before and the first two words are broken up, 3 of 15: 12 / 21
        ("Tell me a joke", "Please tell me a joke", 12 / 21),
        # 1 word: (hi), ("" hi), (hi ""), ("" "" hi), ("" hi ""), (hi "" ""): nothing in common with another
        ("Hi!", "Hello!", 0.0),
        ("Hi!", "hi", 1.0),
        # 9 words, 2 more in front: 27 of 30 are left, 36 on the other side: 27 / 39
        ("Tell me the number of books on my desk.", "Could you tell me the number of books on my desk?", 27 / 39),
        ("", "", 0.0),
    ],
)  # fmt: skip
def test_similarity_by_hand(a, b, value):
    assert similarity(a, b) == similarity(b, a) == pytest.approx(value)


@pytest.mark.parametrize("count", [2, 5, 16, 17, 40])
def test_the_formulas_of_the_docstring(count):
    for at in {0, count // 2, count - 1}:
        changed = names(count).split()
        changed[at] = "other"
        assert similarity(names(count), " ".join(changed)) == pytest.approx((count - 1) / (count + 3))
        added = names(count).split()
        added.insert(at, "other")
        assert similarity(names(count), " ".join(added)) == pytest.approx(count / (count + 3))


@pytest.mark.parametrize(
    "a, b",
    [
        ("What is the  capital\nof Peru?", "what is the capital of peru"),
        ("“What’s up?”", '"Whats up"'),
        ("ＡＢＣ ﬁne", "abc fine"),
        ("Straße", "STRASSE"),
        ("Café", "Cafe\u0301"),
        ("well-known, isn't it", "well known; isnt it?"),
    ],
)
def test_what_makes_no_other_prompt(a, b):
    assert words(a) == words(b) and find({"a": [a], "b": [b]})[0].exact == 1


@pytest.mark.parametrize(
    "a, b",
    [
        ("2 + 2", "2 - 2"),
        ("3.5 times 2", "35 times 2"),
        ("learn C#", "learn C++"),
        ("किताब", "कीताब"),
        ("?", "!"),
        ("猫", "犬"),
    ],
)
def test_what_makes_another_prompt(a, b):
    assert words(a) and words(a) != words(b) and not find({"a": [a], "b": [b]})[0]


def test_scripts_without_spaces_have_words_too():
    assert words("猫が好き") == ["猫", "が", "好", "き"] and len(words("ฉันรักแมว")) > 3


def test_planted_leaks_are_found_and_others_are_not():
    train = ["What is the capital of Peru?", LONG, "Sing!", names(20), "", "tell me a joke"]
    asked = [
        "what is the CAPITAL of peru", LONG.replace("letter", "poem"), "Sing, sing!", names(20, 100), "",
        "What is the capital of Spain?", "tell me a story",
    ]  # fmt: skip
    (shared,) = find({"train": train, "asked": asked})
    assert (shared.exact, shared.near, shared.prompts) == (1, (1, 1), (5, 6))
    assert shared.rows[0].tolist() == [True, True, False, False, False, False]
    assert shared.rows[1].tolist() == [True, True, False, False, False, False, False]
    assert shared.share == pytest.approx(2 / 5)
    assert [e["similarity"] for e in shared.examples] == [1.0, round(53 / 65, 3)]
    assert shared.examples[1] == {"a": LONG, "b": asked[1], "similarity": round(53 / 65, 3)}


def test_a_prompt_is_counted_once_and_its_rows_all():
    (shared,) = find({"a": ["Hi", "hi!", "HI", "yes"], "b": ["hi", "no", "hi"]})
    assert shared.exact == 1 and shared.prompts == (2, 2) and shared.as_dict()["rows"] == [3, 2]
    assert shared.share == 0.5 and not any(shared.near)


def test_the_threshold_counts_itself():
    """17 words, one replaced: 16 / 20, exactly 0.8. 16 words: 15 / 19."""
    for count, threshold, found in ((17, 0.8, True), (17, 0.801, False), (16, 0.8, False), (16, 15 / 19, True)):
        changed = names(count).replace("w3 ", "other ")
        assert bool(find({"a": [names(count)], "b": [changed]}, threshold=threshold)[0]) is found


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 1.0])
def test_all_that_is_near_is_found(threshold):
    """Against every pair compared by the definition."""
    rng = random.Random(threshold)
    draw = [f"w{number}" for number in range(40)]
    a = [rng.choices(draw, k=rng.randint(1, 30)) for _ in range(120)]
    b = [rng.choices(draw, k=rng.randint(1, 30)) for _ in range(40)]
    for prompt in a[:80]:
        copy = list(prompt)
        for _ in range(rng.randint(0, 4)):
            copy[rng.randrange(len(copy))] = rng.choice(draw)
        b.append(copy)
    a, b = [" ".join(x) for x in a], [" ".join(x) for x in b]
    grams = [[ngrams.grams(x) for x in side] for side in (a, b)]
    table = [[len(x & y) / len(x | y) >= threshold for y in grams[1]] for x in grams[0]]
    (shared,) = find({"a": a, "b": b}, threshold=threshold)
    assert shared.rows[0].tolist() == [any(row) for row in table]
    assert shared.rows[1].tolist() == [any(column) for column in zip(*table, strict=True)]
    assert 0 < sum(shared.rows[0]) < len(a) or threshold == 0.2


def test_a_changed_copy_is_found_among_many_of_its_template():
    """500 prompts that share 60 of 80 words, nearly near: (60 words kept) 60 * 3 + 1 of 305 n-grams: 0.6."""
    rng = random.Random(0)
    head = names(60)
    made = [f"{head} {' '.join(f'x{rng.randrange(10**6)}' for _ in range(20))}" for _ in range(1000)]
    a, b = made[:500], made[500:]
    b[250] = a[100].replace("w30 ", "other ")
    (shared,) = find({"a": a, "b": b})
    assert shared.near == (1, 1) and shared.rows[0][100] and shared.rows[1][250]


def test_prompts_of_every_schema():
    def of(*rows):
        return prompts_of(Dataset.from_list(list(rows)), "here")

    user, told = {"role": "user", "content": "why"}, {"role": "assistant", "content": "so"}
    system, more = {"role": "system", "content": "be kind"}, {"role": "user", "content": "really"}
    assert of({"messages": [system, user, told, more, told]}).texts == ["why", "why\nreally"]
    assert of({"messages": [user, told]}, {"messages": [user, told, more, told]}).of_row.tolist() == [0, 1, 1]
    assert of({"prompt": [user, told, more]}).texts == ["why\nreally"]
    ultra = {
        "prompt": "why",
        "messages": [user, told, more, told],
    }  # ultrachat's columns; ultrafeedback has pairs besides
    assert of(ultra).texts == ["why", "why\nreally"]
    assert of({**ultra, "chosen": [user, told], "rejected": [user, {**told, "content": "no"}]}).texts == ["why"]
    for nothing in (None, []):
        assert of({**ultra, "messages": nothing}, ultra).texts == ["why", "why", "why\nreally"]
    assert of({"prompt": "\n\nHuman: why\n\nAssistant:", "chosen": " so", "rejected": " no"}).texts == ["why"]
    assert of({"prompt": "why", "completion": "so"}).texts == ["why"]
    assert of({"prompt": [user], "completions": [[told], [told]], "ranking": [1, 2]}).texts == ["why"]
    assert of({"chosen": [user, told], "rejected": [user, {**told, "content": "no"}]}).texts == ["why"]
    assert of({"question": "why", "answer": "so"}).texts == ["why"]
    hh = {"chosen": "\n\nHuman: why\n\nAssistant: so", "rejected": "\n\nHuman: why\n\nAssistant: no"}
    assert of(hh).texts == ["why"]
    assert prompts_of(Dataset.from_list([{"asked": "why"}]), "here", ["asked=prompt", "not=there"]).texts == ["why"]
    with pytest.raises(ConfigError, match="here, row 1: has the columns text and no prompt"):
        of({"text": "why"})


def test_splits_of_one_set():
    train = Dataset.from_list([{"prompt": "hi"}, {"prompt": LONG}])
    test = Dataset.from_list([{"prompt": p} for p in ("Hi!", "hi", LONG.replace("old", "new"), "other")])
    found = within(train, test, "here")
    assert {k: found[k] for k in ("prompts", "exact", "near", "rows", "of_rows")} == {
        "prompts": 3, "exact": 1, "near": 1, "rows": 3, "of_rows": 4,
    }  # fmt: skip
    assert found["line"].startswith("2 of the 3 prompts of the test split are in the train split too")
    assert within(train, test.select([3]), "here")["line"] == "no prompt of the test split is in the train split"


# --------------------------------------------------------------------------------------------------- recipes/leaks.py


@pytest.fixture
def sets(tmp_path):
    """Demonstrations and rankings share one prompt, demonstrations and evaluation another, nearly."""
    user = lambda text: [{"role": "user", "content": text}]  # noqa: E731
    told = [{"role": "assistant", "content": "yes"}]
    chats = [{"messages": user(text) + told} for text in ("Sing a song", LONG, "Go away")]
    write_rows(tmp_path / "chats/train.jsonl", chats)
    write_rows(tmp_path / "chats/test.jsonl", chats[2:])
    rank = [{"prompt": user(text), "completions": [told, told], "ranking": [1, 2]} for text in ("sing a song!", "Run")]
    write_rows(tmp_path / "rank.jsonl", rank)
    write_rows(tmp_path / "prompts/train.jsonl", [{"prompt": user("Jump")}])
    write_rows(tmp_path / "prompts/test.jsonl", [{"prompt": user(LONG.replace("old", "new"))}])
    return [f"chats={tmp_path}/chats", f"rank={tmp_path}/rank.jsonl", f"asked={tmp_path}/prompts:test"]


def test_leaks_are_refused_with_ways_on(sets):
    args = leaks.LeaksConfig(sets=sets, output_dir="x")
    found, result, _ = leaks.check(args)
    assert result["leaks"] == 2 and [p["exact"] for p in result["pairs"]] == [1, 0, 0]
    assert [p["near"] for p in result["pairs"]] == [[0, 0], [1, 1], [0, 0]]
    with pytest.raises(RunError) as error:
        leaks.refuse(found, args)
    said = str(error.value)
    assert "chats and rank share 1 prompts exactly and 0 nearly (50.0% of the smaller set)" in said
    assert "'Sing a song'" in said and "--allow chats-rank chats-asked" in said and "--write_clean" in said
    assert LONG in said and LONG.replace("old", "new") in said
    leaks.refuse(found, leaks.LeaksConfig(sets=sets, allow=["rank-chats", "chats-asked"]))
    with pytest.raises(RunError, match="chats and asked") as error:
        leaks.refuse(found, leaks.LeaksConfig(sets=sets, allow=["chats-rank"]))
    assert "chats and rank" not in str(error.value)


def test_evaluation_keeps_its_prompts_and_training_loses_them(sets):
    for order in (sets, sets[::-1]):
        _, _, found = leaks.check(leaks.LeaksConfig(sets=order))
        assert found["kept"]["asked"].all()
        lost = [found["kept"]["chats"].tolist(), found["kept"]["rank"].tolist()]
        first = order is sets  # of two training sets the one named first keeps a prompt
        assert lost == ([[True, False, True], [False, True]] if first else [[False, False, True], [True, True]])


@pytest.mark.parametrize(
    "bad, said",
    [
        ({"sets": ["a=nowhere/x.jsonl"] * 2}, "does not exist"), ({"sets": ["a", "b=c/d"]}, "'a' is not name=path"),
        ({"sets": ["a=b/c", "a=c/d"]}, "a name of its own"), ({"sets": ["a=b/c"]}, "give two or more"),
        ({"sets": ["a=b/c", "b=c/d"], "allow": ["a-c"]}, "there is no pair a-c; the pairs are a-b"),
        ({"sets": ["a=b/c", "b=c/d"], "threshold": 80.0}, "above 0 and at most 1"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(bad, said):
    with pytest.raises(ValueError, match=said):
        leaks.LeaksConfig(**bad)


def test_a_split_that_is_not_there_is_named(sets):
    args = leaks.LeaksConfig(sets=[sets[0], sets[2].replace(":test", ":validation")])
    with pytest.raises(ConfigError, match="has no split 'validation'"):
        leaks.check(args)


@pytest.mark.slow
def test_the_recipe_refuses_allows_and_cleans(sets, tmp_path):
    out = tmp_path / "out"
    command = ["leaks", "--sets", *sets, "--output_dir", out]
    done = run_recipe(*command, check=False)
    assert done.returncode == 1 and "prompts leak between the sets" in done.stderr and "Traceback" not in done.stderr
    assert "LEAK" in done.stdout
    run = json.loads((out / "run.json").read_text())
    assert run["status"] == "failed" and run["metrics"]["leaks"] == 2
    clean = tmp_path / "clean"
    done = run_recipe(*command, "--write_clean", clean)
    run = json.loads((out / "run.json").read_text())
    assert run["status"] == "complete" and run["clean"]["chats"]["left_out"] == 1 and "asked" not in run["clean"]
    assert len((clean / "chats/test.jsonl").read_text().splitlines()) == 1
    kept = [
        json.loads(line)["messages"][0]["content"] for line in (clean / "chats/train.jsonl").read_text().splitlines()
    ]
    assert kept == ["Sing a song", "Go away"]
    again = [f"chats={clean}/chats", f"rank={clean}/rank", sets[2]]
    done = run_recipe("leaks", "--sets", *again, "--output_dir", tmp_path / "again")
    assert "LEAK" not in done.stdout and json.loads((tmp_path / "again/run.json").read_text())["metrics"]["leaks"] == 0
    done = run_recipe(*command, "--overwrite", "--allow", "chats-rank", "chats-asked")
    assert done.stdout.count("allowed") == 2


# --------------------------------------------------------------------------------------------------------- evaluation


def make_run(folder, recipe, parents, **config):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(
        json.dumps({"recipe": recipe, "status": "complete", "seed": 0, "config": config,
                    "parents": {role: {"path": str(path), "hash": None} for role, path in parents.items()}})
    )  # fmt: skip
    return folder


@pytest.fixture
def chain(tmp_path):
    """pretrain -> sft -> ppo with a reward model from the same sft."""
    for name in ("chats", "rank", "prompts"):
        write_rows(tmp_path / f"{name}/train.jsonl", [{"prompt": f"{name} one"}, {"prompt": f"{name} {LONG}"}])
        write_rows(tmp_path / f"{name}/test.jsonl", [{"prompt": f"{name} held out"}])
    write_rows(tmp_path / "texts/train.jsonl", [{"text": "the pretraining text"}])
    base = make_run(tmp_path / "base", "pretrain", {"data": "texts"}, dataset_name=str(tmp_path / "texts"))
    sft = make_run(tmp_path / "sft", "sft", {"model": base}, dataset_name=str(tmp_path / "chats"))
    reward = make_run(tmp_path / "rm", "reward", {"model": sft}, dataset_name=str(tmp_path / "rank"))
    roles = {"model": sft, "reference": sft, "reward_model": reward, "data": tmp_path / "prompts"}
    return make_run(tmp_path / "ppo", "ppo", roles, dataset_name=str(tmp_path / "prompts"))


def judged(prompts, models, **given):
    args = SimpleNamespace(**{"accept_leaks": False, "leave_out_leaks": False, **given})
    return held_out.check([{"prompt": prompt} for prompt in prompts], [str(model) for model in models], args)


def test_every_ancestor_is_asked(chain):
    new = ["something new", "the pretraining text", "chats held out", "rank held out"]
    assert judged(new, [chain])[0] == [{"prompt": prompt} for prompt in new]
    for name, by in (("chats", "sft"), ("rank", "rm"), ("prompts", "ppo")):
        with pytest.raises(RunError, match="1 of 5 held-out prompts were trained on") as error:
            judged([*new, f"{name.upper()} one!"], [chain])
        said = str(error.value)
        assert f"{chain.parent / name} (train), which {chain.parent / by} was trained on" in said
        assert f"{name.upper()} one!" in said
    with pytest.raises(RunError, match=r"0 exactly, 1 nearly.*\(0.82\)"):
        judged([*new, f"rank {LONG.replace('old', 'new')}"], [chain])
    with pytest.raises(RunError, match="1 of 2"):  # a checkpoint of a run is its run
        (chain / "checkpoint-3").mkdir()
        judged(["prompts one", "new"], [chain / "checkpoint-3"])
    assert len(judged(["prompts one", "new"], [chain.parent / "sft"])[0]) == 2


def test_a_model_is_named_once_under_whatever_spelling(chain, monkeypatch):
    monkeypatch.chdir(chain.parent)
    with pytest.raises(RunError) as error:
        judged(["chats one", "new"], ["sft", "sft/", chain.parent / "sft", chain])
    assert "(train), which sft was trained on" in str(error.value)


def test_leaks_can_be_left_out_or_accepted_and_the_report_says_so(chain):
    kept, notes = judged(["rank one", "a", "b"], [chain], leave_out_leaks=True)
    assert kept == [{"prompt": "a"}, {"prompt": "b"}] and "1 of 3 held-out prompts were trained on" in notes[0]
    kept, notes = judged(["rank one", "a"], [chain], accept_leaks=True)
    assert len(kept) == 2 and "are measured all the same" in notes[0]
    with pytest.raises(RunError, match="too few would be left"):
        judged(["rank one", "chats one", "a"], [chain], leave_out_leaks=True)


def test_what_cannot_be_checked_is_said_once(chain, capsys):
    (chain.parent / "chats/train.jsonl").unlink()
    (chain.parent / "base/run.json").unlink()
    kept, notes = judged(["a"], [chain, chain, "someone/hub-model"])
    said = capsys.readouterr().out
    assert len(kept) == 1 and len(notes) == 3 and said.count("not checked for leaks") == 3
    assert "someone/hub-model has no record of a run here" in said and f"{chain.parent / 'base'} has no record" in said
    assert f"{chain.parent / 'chats'} (train), which {chain.parent / 'sft'} was trained on, cannot be read" in said
    with pytest.raises(RunError):
        judged(["a", "rank one"], [chain])


@pytest.mark.slow
def test_evaluation_refuses_prompts_of_the_models_own_training(world, tmp_path):
    """A model is trained for one step; its own questions are refused, others are measured, accepted ones are noted."""
    run_recipe("sft", *stage_arguments("sft", world), "--max_steps", "1", "--output_dir", tmp_path / "sft")
    mine = json.loads((world / "chats/train.jsonl").read_text().splitlines()[0])["messages"][:1]
    new = [{"prompt": [{"role": "user", "content": f"where is {word}"}]} for word in WORDS[:3]]
    write_rows(tmp_path / "asked.jsonl", [*new, {"prompt": mine}])
    command = ["eval", "--model_name_or_path", tmp_path / "sft", "--dataset_name", tmp_path / "asked.jsonl",
               "--max_new_tokens", "4"]  # fmt: skip
    done = run_recipe(*command, "--output_dir", tmp_path / "eval", check=False)
    assert done.returncode == 1 and "1 of 4 held-out prompts were trained on" in done.stderr
    assert f"{world / 'chats'} (train), which {tmp_path / 'sft'} was trained on" in done.stderr
    assert not (tmp_path / "eval").exists()
    done = run_recipe(*command, "--output_dir", tmp_path / "eval", "--leave_out_leaks", "true")
    results = json.loads((tmp_path / "eval/results.json").read_text())
    assert results["setup"]["prompts"] == 3 and any("are left out" in note for note in results["notes"])
    run = json.loads((tmp_path / "eval/run.json").read_text())
    assert "are left out" in run["leaks"][-1]


@pytest.mark.slow
def test_a_hundred_thousand_against_a_hundred_thousand():
    """Time bounded by that of splitting the prompts into words, which nothing can do without."""
    rng = random.Random(0)
    draw = [f"w{min(int(rng.paretovariate(0.7)), 40000)}" for _ in range(200_000)]
    made = [" ".join(rng.choices(draw, k=rng.randint(5, 30))) for _ in range(200_000)]
    templates = "please tell me a long story about {} in the style of {} with a happy end and a clear moral"
    made[::4] = [templates.format(f"x{rng.randrange(3000)}", f"y{rng.randrange(3000)}") for _ in made[::4]]
    a, b = made[:100_000], made[100_000:]
    planted = []
    for at in range(1, 100_000, 100):
        changed = a[at].split()
        changed[len(changed) // 2] = "planted"
        b[at] = " ".join(changed)
        planted += [at] if similarity(a[at], b[at]) >= 0.8 else []
    begin = time.process_time()
    for prompt in made:
        words(prompt)
    least = time.process_time() - begin
    begin = time.process_time()
    (shared,) = find({"a": a, "b": b})
    took = time.process_time() - begin
    assert all(shared.rows[1][at] for at in planted) and len(planted) > 300
    print(f"{took:.1f} s, words alone {least:.1f} s")
    assert took < 40 * least, (took, least)
