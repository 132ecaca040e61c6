"""Rankings out of the store into runs that recipes train on, with their card; and other programs' exports in."""

from __future__ import annotations

import gzip
import json

import pytest
import yaml
from conftest import run_recipe, stage_arguments, write_rows
from datasets import Dataset

from align.data import load, pairs, prepare
from align.label import agreement, opinions
from align.label.config import LabelArguments
from align.label.exchange import cards, export, imports
from align.label.store import source
from align.label.store.rows import take_in
from align.label.store.store import Store
from align.run.arguments import DataArguments
from align.run.errors import ConfigError, DataError, RunError


def chat(text, role="assistant"):
    return [{"role": role, "content": text}]


def items(n, split="train"):
    return [
        {"prompt": chat(f"what is {split} {i}", "user"), "completions": [chat(f"cat {i}"), chat(f"a dog runs {i}"), chat("no")],
         "category": "animals", "kind": "what", "sources": ["m1", "m2", "m3"]}
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture
def labels(tmp_path):
    """A store with ten items that Ann ranked and Bob ranked otherwise, a judge's rankings, a skip and a better answer."""
    folder = tmp_path / "label"
    folder.mkdir()
    (folder / "guidelines.md").write_text("# Rank what helps\n\nBe honest.\n")
    with Store(folder / "labels.sqlite") as store:
        store.add(items(10), shared_by=2)
        store.add(items(4, "test"), split="test", shared_by=2)
        for name, kind in (("Ann Alder", "person"), ("Bob Birch", "person"), ("judge-7b", "model")):
            who = store.annotator(name, kind)
            number = 0
            while task := store.next(who):
                ranks = {0: 1, 1: 2, 2: 3 if name != "Bob Birch" or number % 2 else 2}
                given = {"ranking": [ranks[place] for place in task.order]}
                if name == "Ann Alder" and number == 0:
                    given = {"skip": True}
                if name == "Bob Birch" and number == 1:
                    given = {"all_bad": True, "better": "a cat sits on the mat"}
                store.answer(task.id, who, **given, seconds=2.0)
                number += 1
    return folder


def rows_of(folder, split="train"):
    return [json.loads(line) for line in (folder / "data" / f"{split}.jsonl").read_text().split("\n") if line]


def test_export_is_a_run_with_rows_and_a_card(labels, tmp_path, capsys):
    out = tmp_path / "people"
    export.main(["--source", str(labels), "--output_dir", str(out), "--kinds", "person", "model"])
    assert f"by 2 people and 1 model; train with --dataset_name {out}\n" in capsys.readouterr().out
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "complete" and record["recipe"] == "rankings" and len(record["hash"]) == 64
    rows = rows_of(out)
    assert len(rows) + len(rows_of(out, "test")) == 3 * 14
    assert all("test" in row["prompt"][0]["content"] for row in rows_of(out, "test")), "items keep their split"
    assert {row["annotator"] for row in rows} == {"annotator-1", "annotator-2", "judge-7b"}
    assert {row["kind"] for row in rows} == {"person", "model"} and {row["meta_kind"] for row in rows} == {"what"}
    card = json.loads((out / "card.json").read_text())
    assert card["splits"]["train"]["prompts"] == 10 and card["prompts_in_both_splits"] == 0
    assert card["agreement"]["people"]["tau_b"]["value"] == record["metrics"]["tau_b"]["value"]
    text = (out / "README.md").read_text()
    assert "Alder" not in text and "Birch" not in text and "> # Rank what helps" in text
    front = yaml.safe_load(text.split("---")[1])
    assert front["configs"][0]["data_files"] == [
        {"split": "train", "path": "data/train.jsonl"}, {"split": "test", "path": "data/test.jsonl"}
    ]  # fmt: skip
    assert "| `shown` |" in text and "Kendall's tau-b" in text


def test_names_can_be_kept_and_annotators_chosen(labels, tmp_path):
    export.main(["--source", str(labels), "--output_dir", str(tmp_path / "a"), "--keep_names", "--kinds", "person"])
    assert {row["annotator"] for row in rows_of(tmp_path / "a")} == {"Ann Alder", "Bob Birch"}
    export.main(
        ["--source", str(labels / "labels.sqlite"), "--output_dir", str(tmp_path / "b"), "--annotators", "judge-7b"]
    )
    assert {row["annotator"] for row in rows_of(tmp_path / "b")} == {"judge-7b"}
    assert {row["annotator"] for row in source.read(str(labels), annotators=["ann ALDER"])} == {"Ann Alder"}
    with pytest.raises(DataError, match="nobody called Eve ranked here; there are .*Ann Alder"):
        export.main(["--source", str(labels), "--output_dir", str(tmp_path / "c"), "--annotators", "Eve"])
    assert not (tmp_path / "c").exists()


def test_models_are_left_out_where_people_have_ranked_and_it_is_said(labels, tmp_path, capsys):
    export.main(["--source", str(labels), "--output_dir", str(tmp_path / "a")])
    assert {row["kind"] for row in rows_of(tmp_path / "a")} == {"person"}
    out = capsys.readouterr().out
    assert "20 rows to train (" in out and " 8 rows to test (8 ranked), by 2 people; train with" in out
    assert "1 all bad, 1 skipped)" in out
    assert "left out: 14 rows by 1 model; --kinds person model takes them too\n" in out
    card = json.loads((tmp_path / "a/card.json").read_text())  # how far the model agrees is told all the same
    assert card["left_out"] == ["judge-7b"] and card["agreement"]["models"]["judge-7b"]["items"]
    assert "Their rankings are not among the rows: judge-7b." in (tmp_path / "a/README.md").read_text()
    rows = [row for row in source.read(str(labels)) if row["kind"] == "model" or row["verdict"] == "skip"]
    assert export.without_models(rows) == (rows, []), "a model alone is what there is"


def test_text_and_messages_in_one_file_are_all_messages(tmp_path):
    with Store(tmp_path / "labels.sqlite") as store:
        store.add([{"prompt": f"{i}+1?", "completions": [f"{i + 1}", '"quoted"']} for i in range(3)])
        plain = len(list(store.items()))
        store.add(items(3))
        ann = store.annotator("Ann")
        while task := store.next(ann):
            store.answer(task.id, ann, ranking=list(range(1, len(task.completions) + 1)))
    export.main(["--source", str(tmp_path), "--output_dir", str(tmp_path / "x")])
    read = list(load.load(DataArguments(dataset_name=str(tmp_path / "x")), "train", seed=0))
    texts = {str(row["prompt"][0]["content"]): [c[0]["content"] for c in row["completions"]] for row in read}
    assert len(texts) == plain + 3 and texts["1+1?"] == ["2", '"quoted"']
    assert all(row["prompt"][0]["role"] == "user" and row["completions"][0][0]["role"] == "assistant" for row in read)
    rows = [{"prompt": "p", "completions": ["a", "b"]}]
    assert export.alike(rows) is rows


def test_rows_that_rank_nothing_are_no_rows_to_train_on(tmp_path, capsys):
    with Store(tmp_path / "labels.sqlite") as store:
        store.add(items(3))
        ann = store.annotator("Ann")
        for given in ({"skip": True}, {"skip": True}, {"all_bad": True}):
            store.answer(store.next(ann).id, ann, **given)
    export.main(["--source", str(tmp_path), "--output_dir", str(tmp_path / "x")])
    assert capsys.readouterr().out == (
        f"{tmp_path / 'x'}: 3 rows to train (1 all bad, 2 skipped), by 1 person; no row to train ranks anything, so "
        "there is nothing to train on yet\n"
    )
    export.main(["--source", str(tmp_path), "--output_dir", str(tmp_path / "m"), "--aggregate", "majority"])
    assert "m: no rows, by 1 person; no row to train ranks anything" in capsys.readouterr().out


def test_an_export_is_ranked_again_without_what_its_own_round_said(tmp_path):
    """The better answer of the first round is one of four completions now: it counts, and so does a new better one."""
    with Store(tmp_path / "a.sqlite") as first, Store(tmp_path / "b.sqlite") as second:
        first.add(items(2))
        ann = first.annotator("Ann")
        while task := first.next(ann):
            first.answer(task.id, ann, ranking=[1, 2, 3], better="Ann's own")
        export.write(first, tmp_path / "a")
        assert all(row["written"] for row in rows_of(tmp_path / "a"))
        second.add([{**row, "votes": [1, 0, 0]} for row in rows_of(tmp_path / "a")], shared_by=2)
        for name in ("Bob", "Cyd"):
            who = second.annotator(name)
            while task := second.next(who):
                own = task.completions.index(chat("Ann's own"))
                ranking = [1 if (place == own) == (name == "Bob") else 2 for place in range(4)]
                second.answer(task.id, who, ranking=ranking, better=f"{name}'s own")
        rows = list(second.rankings())
        assert not any(row["written"] for row in rows) and "votes" not in rows[0] and rows[0]["meta_votes"] == [1, 0, 0]
        assert all(len(opinions.ranks_of(row)) == 4 for row in rows)
        assert agreement.summary(rows).people.raw.value == 0.5, "3 of 6 pairs are ties to both"
        export.write(second, tmp_path / "b")
    assert {row["completions"][-1][0]["content"] for row in rows_of(tmp_path / "b")} == {"Bob's own", "Cyd's own"}


def test_a_written_answer_after_nine_others_is_left_out_when_they_are_ranked_again(tmp_path):
    with Store(tmp_path / "a.sqlite") as first:
        first.add([{"prompt": "p", "completions": list("abcdefghi"), "sources": list("abcdefghi")}])
        ann = first.annotator("Ann")
        first.answer(first.next(ann).id, ann, ranking=list(range(1, 10)), better="own")
        export.write(first, tmp_path / "x" / "data")
        item = next(first.items())["item"]
    with Store(tmp_path / "b.sqlite") as second:
        told = take_in(second, str(tmp_path / "x" / "data" / "data"), LabelArguments())
        assert told.endswith(
            "1 prompts in " + str(tmp_path / "x/data/data") + ": 1 new; left out: 1 written answers after 9 others"
        )
        assert next(second.items())["item"] == item, "the item that it was"
        ten = {"prompt": "p", "completions": list("abcdefghij")}
        with pytest.raises(DataError, match="10 of them; ranking takes 2 to 9: leave some out"):
            second.add([ten])


def test_a_better_answer_becomes_the_best_completion():
    ranked = {"prompt": "p", "completions": ["a", "b"], "ranking": [2, 1], "better": "c", "sources": ["x", "y"]}
    found = export.with_written(ranked)
    assert (found["completions"], found["ranking"], found["written"]) == (["a", "b", "c"], [3, 2, 1], True)
    assert found["sources"] == ["x", "y", "annotator"] and "better" not in found
    bad = export.with_written({**ranked, "ranking": None, "verdict": "all_bad", "completions": [chat("a"), chat("b")]})
    assert bad["ranking"] == [2, 2, 1] and bad["completions"][2] == chat("c")
    made, _ = pairs.of_rankings([bad], "x")
    assert [(p["chosen"], p["rejected"]) for p in made] == [(chat("c"), chat("a")), (chat("c"), chat("b"))]
    assert export.with_written({**ranked, "verdict": "skip", "ranking": None})["ranking"] is None
    assert export.with_written(found) == found, "exported twice is exported once"


def test_majority_of_the_annotators(labels, tmp_path):
    """Ann and the judge put "no" last; Bob ties it with the dog half of the time: two to one against the tie."""
    given = ["--source", str(labels), "--output_dir", str(tmp_path / "m"), "--kinds", "person", "model"]
    export.main([*given, "--aggregate", "majority"])
    rows = rows_of(tmp_path / "m")
    assert all(len(row["completions"]) == 2 and len(row["votes"]) == 3 for row in rows)
    made, _ = pairs.of_rankings(rows, "x")
    assert all(pair["rejected"] != chat("a cat sits on the mat") for pair in made)
    assert sum(pair["chosen"] == chat("no") for pair in made) == 0


def test_test_split_size_holds_prompts_out(labels, tmp_path):
    with Store(tmp_path / "one.sqlite") as store:
        store.add(items(20))
        who = store.annotator("Ann")
        while task := store.next(who):
            store.answer(task.id, who, ranking=list(range(1, len(task.completions) + 1)))
    export.main(
        ["--source", str(tmp_path / "one.sqlite"), "--output_dir", str(tmp_path / "s"), "--test_split_size", "0.25"]
    )
    sides = [{str(row["prompt"]) for row in rows_of(tmp_path / "s", split)} for split in ("train", "test")]
    assert [len(side) for side in sides] == [15, 5] and not sides[0] & sides[1]


def test_a_name_is_known_however_its_accents_are_composed(tmp_path):
    rows = [{"prompt": "p", "completions": ["a", "b"], "ranking": [1, 2], "annotator": "Jos\u00e9", "kind": "human"}]
    write_rows(tmp_path / "rankings/train.jsonl", rows)
    assert len(source.read(str(tmp_path / "rankings"), annotators=["jose\u0301"])) == 1
    assert cards._annotators(rows) == "1 human"  # a kind of somebody else's


def test_nothing_ranked_yet(tmp_path):
    with Store(tmp_path / "labels.sqlite") as store:
        store.add(items(2))
    with pytest.raises(DataError, match="nothing has been ranked yet"):
        export.main(["--source", str(tmp_path), "--output_dir", str(tmp_path / "x")])


def test_write_takes_a_store_inside_another_run(labels, tmp_path):
    with Store(labels / "labels.sqlite") as store:
        metrics = export.write(store, tmp_path / "rank", title="Nano")
    assert metrics["annotators"] == 3 and metrics["train_prompts"] == 10 and metrics["tau_b"]["n"] > 0
    assert (
        load.load(DataArguments(dataset_name=str(tmp_path / "rank/data")), "train", seed=0).num_rows
        == metrics["train_rows"]
    )


class Hub:
    """A stand-in for huggingface_hub.HfApi that remembers what it was asked."""

    calls: list[tuple[str, dict]] = []
    fails: Exception | None = None

    def create_repo(self, name, **given):
        if Hub.fails:
            raise Hub.fails
        Hub.calls.append((name, given))

    def upload_folder(self, **given):
        Hub.calls.append((given.pop("repo_id"), given))


def test_push_is_one_flag_and_a_failure_loses_nothing(labels, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", [])
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "of a test")
    out = tmp_path / "people"
    arguments = ["--source", str(labels), "--output_dir", str(out), "--push_to_hub", "me/people", "--private"]
    export.main(arguments)
    (made, how), (name, what) = Hub.calls
    assert made == name == "me/people" and how["private"] and how["repo_type"] == what["repo_type"] == "dataset"
    assert what["folder_path"] == str(out) and "run.json" not in what["allow_patterns"]
    assert "https://huggingface.co/datasets/me/people" in capsys.readouterr().out
    monkeypatch.setattr(Hub, "fails", OSError("no network"))
    with pytest.raises(RunError, match="could not be pushed to me/people: no network.*hf upload me/people"):
        export.main([*arguments, "--overwrite"])
    assert json.loads((out / "run.json").read_text())["status"] == "complete"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_recipes_train_on_an_export_directly(stage, labels, world, tmp_path):
    export.main(["--source", str(labels), "--output_dir", str(tmp_path / "people")])
    arguments = stage_arguments(stage, world)
    arguments[arguments.index("--dataset_name") + 1] = str(tmp_path / "people")
    run_recipe(stage, *arguments, "--max_steps", "2", "--aggregate", "majority", "--output_dir", str(tmp_path / "run"))
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "complete" and record["parents"]["data"]["recipe"] == "rankings"
    assert record["data"]["train"]["rankings"]["skipped"] == 1


# ------------------------------------------------------------------------------------------------------------ imports


def converted(rows, **options):
    return imports.convert(rows, "x.json", imports.ImportConfig(**options))


def test_trl_rows():
    """TRL, "Dataset formats": preference with an explicit prompt, conversational, and implicit."""
    explicit = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
    talk = {
        "prompt": chat("What color is the sky?", "user"),
        "chosen": chat("It is blue."),
        "rejected": chat("It is green."),
    }
    implicit = {"chosen": [*talk["prompt"], *talk["chosen"]], "rejected": [*talk["prompt"], *talk["rejected"]]}
    (a,), _ = converted([explicit])
    assert (a["prompt"], a["completions"], a["ranking"]) == ("The sky is", [" blue.", " green."], [1, 2])
    (b, c), counts = converted([talk, implicit])
    assert b["completions"] == c["completions"] == [talk["chosen"], talk["rejected"]] and b["prompt"] == c["prompt"]
    assert counts == {"rows": 2, "rankings": 2}
    same = {**explicit, "rejected": " blue."}
    assert converted([explicit, same])[1]["with identical chosen and rejected"] == 1
    with pytest.raises(DataError, match=r"x.json, row 2.rejected: expected text or messages, got null"):
        converted([explicit, {**explicit, "rejected": None}])


def test_rankings_by_nobody_known_stay_so(tmp_path):
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    path = tmp_path / "x.json"
    path.write_text(json.dumps([row, row, {**row, "prompt": "q"}]))
    imports.main(["--source", str(path), "--output_dir", str(tmp_path / "out"), "--kind", "model"])
    rows = rows_of(tmp_path / "out")
    assert [(r["annotator"], r["kind"]) for r in rows] == [(None, "model")] * 3
    assert pairs.of_rankings(rows, "x")[1] == {"rankings": 3, "pairs": 3}, "two people may have said the same"
    assert "| unknown | model | 3 |" in (tmp_path / "out/README.md").read_text()


def test_hh_transcripts():
    talk = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: what is a cat\n\nAssistant:"
    (row,), _ = converted([{"chosen": f"{talk} an animal", "rejected": f"{talk} no"}])
    assert [m["role"] for m in row["prompt"]] == ["user", "assistant", "user"]
    assert row["completions"] == [chat("an animal"), chat("no")]
    assert imports.detect({"chosen": talk, "rejected": talk}) == "hh"


FIELDS = {"prompt": "what is a cat", "reply-1": "a dog", "reply-2": "an animal", "reply-3": "no"}
V1 = [{"rank": 1, "value": "reply-2"}, {"rank": 2, "value": "reply-1"}, {"rank": 2, "value": "reply-3"}]
ARGILLA = {
    "1.x record": {
        "fields": FIELDS, "metadata": {}, "external_id": None, "suggestions": [],
        "responses": [
            {"user_id": "u1", "status": "submitted", "values": {"preference": {"value": V1}, "why": {"value": "it is"}}},
            {"user_id": "u2", "status": "discarded", "values": {"preference": {"value": V1}}},
        ],
    },
    "1.x datasets, list": {
        **FIELDS, "preference": [{"user_id": "u1", "value": V1, "status": "submitted"},
                                 {"user_id": "u2", "value": V1, "status": "draft"}], "metadata": "{}",
    },
    "1.x datasets, columns": {
        **FIELDS, "preference": {"user_id": ["u1"], "status": ["submitted"],
                                 "value": [{"rank": [1, 2, 2], "value": ["reply-2", "reply-1", "reply-3"]}]},
    },
    "2.x record": {
        "id": "1", "fields": FIELDS, "metadata": {}, "suggestions": {}, "status": "completed",
        "responses": {"preference": [{"value": ["reply-2", "reply-1", "reply-3"], "user_id": "u1"}],
                      "why": [{"value": "it is", "user_id": "u1"}]},
    },
    "2.x flattened": {
        "id": "1", "status": "completed", "_server_id": None, **FIELDS,
        "preference.responses": [["reply-2", "reply-1", "reply-3"], ["reply-1", "reply-2", "reply-3"]],
        "preference.responses.users": ["u1", "u2"], "preference.responses.status": ["submitted", "draft"],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ARGILLA)
def test_argilla_in_every_layout(name):
    """The reference's own ranking answer: reply-2 first, then reply-1 and reply-3 (1.x: tied; 2.x has no ties)."""
    assert imports.detect(ARGILLA[name]) == "argilla"
    (row,), counts = converted([ARGILLA[name]])
    assert row["prompt"] == FIELDS["prompt"] and row["annotator"] == "u1"
    assert row["completions"] == ["a dog", "an animal", "no"]
    assert row["ranking"] == ([2, 1, 2] if name.startswith("1") else [2, 1, 3])
    assert counts == {"rows": 1, "rankings": 1}


def test_argilla_through_datasets_and_its_dictionaries(tmp_path):
    flat = ARGILLA["2.x flattened"]
    Dataset.from_list([flat, flat]).to_parquet(tmp_path / "x.parquet")
    assert len(converted(imports.read(str(tmp_path / "x.parquet")))[0]) == 2
    record = ARGILLA["2.x record"]
    for name, told in (
        ("index", {"a": record, "b": record}),
        ("names", {key: [value, value] for key, value in record.items()}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(told))
        assert len(converted(imports.read(str(tmp_path / f"{name}.json")))[0]) == 2


def test_argilla_what_is_not_answered_is_counted_and_what_is_malformed_is_named():
    good = ARGILLA["1.x record"]
    pending = {**good, "responses": []}
    assert converted([good, pending])[1]["records without a submitted ranking"] == 1
    other = {**good, "fields": {k: v for k, v in FIELDS.items() if k != "reply-3"}}
    with pytest.raises(DataError, match="x.json, row 2, response 1: ranks 'reply-3', which is no field"):
        converted([good, other])
    broken = json.loads(json.dumps(good).replace('"rank": 1', '"rank": "first"'))
    with pytest.raises(DataError, match=r"row 1, response 1.value\[0\]: expected \{rank: whole number.*'first'"):
        converted([broken])
    two = {**ARGILLA["2.x record"], "responses": {n: [{"value": ["reply-2", "reply-1"], "user_id": "u"}] for n in "ab"}}
    with pytest.raises(DataError, match=r"several questions may be the ranking: \['a', 'b'\]; name it with --question"):
        converted([two])
    assert converted([two], question="a")[0][0]["ranking"] == [2, 1]
    with pytest.raises(DataError, match="no field with the prompt among.*--prompt_field"):
        converted([{**good, "fields": {k if k != "prompt" else "asked": v for k, v in FIELDS.items()}}])


TASK = {  # Label Studio's template "LLM Ranker", its data and its result
    "id": 1,
    "data": {
        "prompt": "What caused the ancient library of Alexandria to be destroyed?",
        "items": [
            {"id": "llm_1", "title": "LLM 1", "body": "Wars led to library's ruin."},
            {"id": "llm_2", "title": "LLM 2", "body": "Library's end through various wars."},
            {"id": "llm_3", "title": "LLM 3", "body": "Ruin resulted from library wars."},
        ],
    },
}


def task(result, fields=None, **rest):
    annotation = {"id": 7, "result": result, "was_cancelled": False, "created_at": "2021-03-09T22:16:08.728353Z",
                  "lead_time": 4.288, "completed_by": 10, **rest}  # fmt: skip
    return {**TASK, **({"data": fields} if fields else {}), "annotations": [annotation], "predictions": []}


def ranker(value):
    return [{"from_name": "rank", "to_name": "results", "type": "ranker", "value": {"ranker": value}}]


def test_label_studio_ranker():
    (row,), _ = converted([task(ranker({"rank": ["llm_3", "llm_1", "llm_2"]}))])
    assert row["ranking"] == [2, 3, 1] and row["completions"][2] == "Ruin resulted from library wars."
    assert (row["annotator"], row["seconds"], row["time"][:10]) == ("10", 4.288, "2021-03-09")
    buckets = task(ranker({"_": ["llm_2", "llm_1"], "biased_results": ["llm_3"], "relevant_results": []}))
    with pytest.raises(DataError, match="several buckets, _, biased_results: say which is better with --buckets"):
        converted([buckets])
    sorted_ = task(ranker({"good": ["llm_2", "llm_1"], "biased": ["llm_3"]}))
    assert converted([sorted_], buckets=["good", "biased"])[0][0]["ranking"] == [1, 1, 2]


def test_label_studio_pairwise_and_rating():
    fields = {"prompt": "what is a cat", "answer1": "an animal", "answer2": "no"}
    pairwise = [{"from_name": "pw", "to_name": "answer1,answer2", "type": "pairwise", "value": {"selected": "right"}}]
    (row,), _ = converted([task(pairwise, fields)])
    assert row["completions"] == ["an animal", "no"] and row["ranking"] == [2, 1]
    stars = [
        {"from_name": f"r{n}", "to_name": f"answer{n}", "type": "rating", "value": {"rating": n + 2}} for n in (1, 2)
    ]
    assert converted([task(stars, fields)])[0][0]["ranking"] == [2, 1]
    harm = [{**one, "from_name": "harm", "value": {"rating": 6 - one["value"]["rating"]}} for one in stars]
    both = [{**one, "from_name": "help"} for one in stars] + harm
    with pytest.raises(DataError, match="answer1 is rated more than once, by harm, help; say what.*begin.*--question"):
        converted([task(both, fields)])
    assert converted([task(both, fields)], question="help")[0][0]["ranking"] == [2, 1]
    assert converted([task(both, fields)], question="harm")[0][0]["ranking"] == [1, 2]
    own = [{**one, "from_name": f"{one['from_name']}_{one['to_name']}"} for one in both]  # names that are all different
    assert converted([task(own, fields)], question="harm")[0][0]["ranking"] == [1, 2]
    renamed = [{**pairwise[0], "to_name": "txt-1,txt-2"}]
    with pytest.raises(DataError, match="no field txt-1, txt-2 in the task's data.*--completion_fields"):
        converted([task(renamed, fields)])
    assert converted([task(renamed, fields)], completion_fields=["answer1", "answer2"])[0][0]["ranking"] == [2, 1]


def test_label_studio_counts_and_errors():
    good = task(ranker({"rank": ["llm_3", "llm_1", "llm_2"]}))
    rows = [good, {**TASK, "annotations": []}, task([], was_cancelled=True),
            task([{"type": "choices", "value": {"choices": ["x"]}}])]  # fmt: skip
    _, counts = converted(rows)
    assert dict(counts) == {
        "rows": 4, "tasks without annotations": 1, "skipped or empty annotations": 1,
        "annotations without a ranker, pairwise or rating result": 1, "rankings": 1,
    }  # fmt: skip
    with pytest.raises(DataError, match="x.json, row 2, annotation 1.value.ranker: ranks the id 'llm_9'"):
        converted([good, task(ranker({"rank": ["llm_9", "llm_1"]}))])
    with pytest.raises(DataError, match="row 1, annotation 1.value.selected: expected left or right"):
        converted([task([{"type": "pairwise", "to_name": "a,b", "value": {"selected": "both"}}], {"prompt": "p"})])
    with pytest.raises(DataError, match="no ranking in it.*1 tasks without annotations"):
        converted([{**TASK, "annotations": []}])


def test_odd_characters_of_a_file(tmp_path):
    """Ends of lines inside a text, a mark of the byte order, and half an emoji."""
    row = {"prompt": "one\u2028two\x85three", "chosen": "a", "rejected": "b"}
    lines = [json.dumps(row, ensure_ascii=False), json.dumps({**row, "prompt": "half \ud83d", "split": "train_prefs"})]
    (tmp_path / "x.jsonl").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8", newline="")
    imports.main(["--source", str(tmp_path / "x.jsonl"), "--output_dir", str(tmp_path / "out")])
    assert [row["prompt"] for row in rows_of(tmp_path / "out")] == ["one\u2028two\x85three", "half \ufffd"]
    assert not (tmp_path / "out/data/test.jsonl").exists()


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"prompt": "p"}\n{"prompt": \n')
    with pytest.raises(DataError, match=r"x.jsonl, line 2: not JSON"):
        imports.read(str(tmp_path / "x.jsonl"))
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 99)[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        imports.read(str(tmp_path / "x.jsonl.gz"))
    (tmp_path / "x.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="row 1: expected an object, got '1'"):
        imports.read(str(tmp_path / "x.json"))
    with pytest.raises(ConfigError, match="has the columns foo, which no known export has; name it: --format trl | hh"):
        converted([{"foo": 1}])
    with pytest.raises(DataError, match="the file is empty"):
        converted([])


def test_an_import_is_a_run_and_can_be_ranked_again(tmp_path, capsys, tokenizer):
    path = tmp_path / "theirs.json"
    path.write_text(
        json.dumps([{**ARGILLA["1.x record"], "fields": {**FIELDS, "prompt": f"what {n}"}} for n in range(10)])
    )
    out = tmp_path / "in"
    imports.main(["--source", str(path), "--output_dir", str(out), "--test_split_size", "0.2"])
    assert "10 rows, 10 rankings" in capsys.readouterr().out
    splits = prepare.rows(DataArguments(dataset_name=str(out)), "preference", tokenizer, max_length=64, seed=0)
    assert (len(splits.train), len(splits.test)) == (16, 4)
    assert json.loads((out / "run.json").read_text())["imported"] == {"rows": 10, "rankings": 10}
    with Store(tmp_path / "again.sqlite") as store:
        assert store.add(rows_of(out)) == 8


def test_a_better_answer_that_was_shown_is_no_new_completion():
    row = {"prompt": "q", "completions": ["a", "b"], "ranking": [1, 2], "verdict": "ranked", "better": " b\n"}
    assert export.with_written(row) == {**{k: v for k, v in row.items() if k != "better"}, "written": False}


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("argilla", {"fields": {"prompt": "q", "a": "x", "b": "y"}, "responses": {"rank": [1]}}),
        ("argilla", {"prompt": "q", "a": "x", "rank.responses": [["a", "b"]], "rank.responses.status": 1}),
        ("label_studio", {"data": {"prompt": "q"}, "annotations": 1}),
        ("label_studio", {"data": {"prompt": "q"}, "annotations": [{"result": [
            {"type": "rating", "to_name": [], "value": {"rating": 3}}]}]}),
    ],
)  # fmt: skip
def test_a_row_of_another_build_is_named(kind, row):
    with pytest.raises(DataError, match=f"f, row 1: not built as the exports of {kind} are"):
        imports.convert([row], "f", imports.ImportConfig(format=kind))
