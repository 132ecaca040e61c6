"""Rankings to pairs, their weights, and the trainers that use them: expectations worked out by hand."""

from __future__ import annotations

import copy
import json
import random

import pyarrow as pa
import pytest
import torch
from conftest import losses, make_checkpoint, make_tokenizer, run_recipe, stage_arguments, write_rows

from align.data import load, pairs, prepare, splits
from align.data.forms import normal
from align.data.pairs import Pairing
from align.run.arguments import DataArguments, PairArguments
from align.run.errors import DataError


def row(ranking, prompt="p", completions="abcd", **rest):
    return {
        "prompt": prompt,
        "completions": list(completions)[: len(ranking or completions)],
        "ranking": ranking,
        **rest,
    }


def told(pairs):
    return [(p["chosen"], p["rejected"], pytest.approx(p["weight"])) for p in pairs]


def test_all_decided_pairs_the_better_one_chosen():
    """Ranks [1, 2, 2, 4]: of the six pairs one is a tie, so five remain."""
    found, counts = pairs.of_rankings([row([1, 2, 2, 4])], "x")
    assert [(p["chosen"], p["rejected"]) for p in found] == [("a", "b"), ("a", "c"), ("a", "d"), ("b", "d"), ("c", "d")]
    assert [p["weight"] for p in found] == [1.0] * 5 and counts == {"rankings": 1, "tied pairs dropped": 1, "pairs": 5}


def test_a_tie_can_count_half_in_both_directions():
    """[1, 1, 2]: a=b, a>c, b>c. Shares 1/2, 1/2, 1, 1 of 3; four rows, mean 1: times 4/3."""
    found, _ = pairs.of_rankings([row([1, 1, 2])], "x", Pairing(ties="half"))
    assert told(found) == [("a", "b", 2 / 3), ("b", "a", 2 / 3), ("a", "c", 4 / 3), ("b", "c", 4 / 3)]


def test_a_prompt_with_many_pairs_counts_as_one_with_few():
    """p gives 6 pairs, q gives 1. Seven rows: every prompt weighs 3.5, so each of p's pairs 7/12 and q's 7/2."""
    rows = [row([1, 2, 3, 4]), row([2, 1], prompt="q")]
    found, _ = pairs.of_rankings(rows, "x")
    assert [p["weight"] for p in found] == pytest.approx([7 / 12] * 6 + [3.5])
    assert sum(p["weight"] for p in found) == pytest.approx(7)
    assert [p["weight"] for p in pairs.of_rankings(rows, "x", Pairing(weights="pair"))[0]] == [1.0] * 7


def test_pairs_of_one_prompt_are_together_whatever_the_order_of_the_rows():
    rows = [
        row([1, 2]),
        row([1, 2], prompt="q"),
        row([1, 2], completions="cd"),
        row([2, 1], prompt="q", completions="xy"),
    ]
    groups = [p["group"] for p in pairs.of_rankings(rows, "x")[0]]
    assert groups == [pairs.prompt_key("p")] * 2 + [pairs.prompt_key("q")] * 2
    assert pairs.prompt_key("p") == pairs.prompt_key([{"role": "user", "content": "p"}])


def test_what_gives_nothing_is_counted_by_reason():
    rows = [
        row(None, verdict="skip"),
        row(None, verdict="all_bad"),
        row([1, 2], verdict="all_bad", annotator="ann", item="i"),
        row([2, 1], annotator="ann", item="i", repeat=True),
        row([1, 2, 3], completions="aab", annotator="bob"),
    ]
    found, counts = pairs.of_rankings(rows, "x", Pairing(weights="pair"))
    assert dict(counts) == {
        "rankings": 5, "skipped": 1, "all bad without ranks": 1, "pairs of identical completions": 1, "repeated": 1,
        "pairs": 3,
    }  # fmt: skip
    assert [(p["chosen"], p["rejected"]) for p in found] == [("a", "b"), ("a", "b"), ("a", "b")]


def test_a_repeat_that_comes_first_does_not_displace_the_first_ranking():
    rows = [row([2, 1], annotator="ann", item="i", repeat=True), row([1, 2], annotator="ann", item="i", repeat=False)]
    assert told(pairs.of_rankings(rows, "x")[0]) == [("a", "b", 1.0)]


def test_every_annotator_counts_and_they_share_the_weight_of_a_pair():
    """ann: a>b, bob: b>a, cyd: a>b on one pair: a third each. q has one pair by ann. In all 2, four rows: times 2."""
    rows = [row(r, annotator=n) for r, n in (([1, 2], "ann"), ([2, 1], "bob"), ([1, 2], "cyd"))]
    found, _ = pairs.of_rankings([*rows, row([1, 2], prompt="q", annotator="ann")], "x", Pairing(weights="pair"))
    assert told(found) == [("a", "b", 2 / 3), ("b", "a", 2 / 3), ("a", "b", 2 / 3), ("a", "b", 2.0)]


def test_the_majority_decides_pair_by_pair():
    """Condorcet's paradox: abc, bca, cab. a>b, b>c and c>a each have two of three votes: no ranking says that."""
    rows = [row(r, annotator=n) for r, n in (([1, 2, 3], "ann"), ([3, 1, 2], "bob"), ([2, 3, 1], "cyd"))]
    found, _ = pairs.of_rankings(rows, "x", Pairing(aggregate="majority"))
    assert {(p["chosen"], p["rejected"]) for p in found} == {("a", "b"), ("b", "c"), ("c", "a")}


@pytest.mark.parametrize(
    ("votes", "outcome"),
    [([[1, 2], [1, 2], [2, 1]], "ab"), ([[1, 2], [2, 1]], ""), ([[1, 1], [1, 1], [1, 2]], ""), ([[1, 2], [1, 1]], "")],
    ids=["two to one", "split", "most say tie", "split with a tie"],
)
def test_majorities(votes, outcome):
    (found,) = pairs.majority(row(ranking, annotator=str(n)) for n, ranking in enumerate(votes))
    assert found["ranking"] == ([1, 2] if outcome else [1, 1]) and sum(found["votes"]) == len(votes)


def test_a_majority_of_people_and_models_is_nobodys_kind():
    said = [row([1, 2], annotator=name, kind=kind) for name, kind in (("Ada", "person"), ("m", "model"))]
    assert [found["kind"] for found in pairs.majority(said)] == ["mixed"]
    assert [found["kind"] for found in pairs.majority(said[:1])] == ["person"]


def test_annotators_are_filtered_by_name_and_a_wrong_name_is_told():
    rows = [row([1, 2], annotator="ann"), row([2, 1], annotator="bob")]
    assert told(pairs.of_rankings(rows, "x", Pairing(annotators=("bob",)))[0]) == [("b", "a", 1.0)]
    with pytest.raises(DataError, match=r"nobody called bop ranked here; there are \['ann', 'bob'\]"):
        pairs.of_rankings(rows, "x", Pairing(annotators=("bop",)))


def test_held_out_rankings_need_not_be_by_all_of_the_annotators():
    rows = [row([1, 2], annotator="ann"), row([2, 1], annotator="cyd")]
    found, _ = pairs.of_rankings(rows, "x", Pairing(annotators=("ann", "bob"), held_out=True))
    assert told(found) == [("a", "b", 1.0)]
    with pytest.raises(DataError, match="nobody called bob"):
        pairs.of_rankings(rows, "x", Pairing(annotators=("bob",), held_out=True))


def test_ties_only_is_an_error_that_says_why():
    with pytest.raises(DataError, match="ties only.*2 rankings, 6 tied pairs dropped, 1 skipped"):
        pairs.of_rankings([row([1, 1, 1, 1]), row(None, verdict="skip")], "x")
    with pytest.raises(DataError, match="x: no row ranks anything.*2 rankings, 1 skipped, 1 all bad without ranks"):
        pairs.of_rankings([row(None, verdict="skip"), row(None, verdict="all_bad")], "x")


@pytest.mark.parametrize("given", [[5, 3, 2], [0, 1, 2], [-1, -2, -3]])
def test_scores_are_no_ranks(given):
    """Of scores the highest is best: read as ranks, every pair would teach the opposite."""
    with pytest.raises(
        DataError, match=r"x, row 1.ranking: 1 is best, and nothing is ranked 1 in .*write ranks instead"
    ):
        pairs.of_rankings([row(given)], "x")


@pytest.mark.parametrize("name", ["ratings", "scores", "overall_score", "all_rm_scores", "rewards"])
def test_a_column_of_scores_cannot_be_called_ranking(name, tmp_path):
    rows = [{"instruction": "q", "generations": ["a", "b"], name: [2, 1]}]
    loaded = load.load(DataArguments(dataset_name=str(write_rows(tmp_path / "x.jsonl", rows))), "train", seed=0)
    with pytest.raises(
        DataError, match=f"--columns {name}=ranking: in a ranking 1 is the best, and of scores the highest"
    ):
        normal.normalise(loaded, "preference", "x", ["generations=completions", f"{name}=ranking"])


# ------------------------------------------------------------------------------------------------------------ splits


def test_a_split_by_prompt_is_near_the_asked_size_and_seeded():
    keys = [f"p{n % 40}" for n in range(200)]  # five rows a prompt
    for size, wanted in ((0.1, 20), (30, 30), (0.33, 65)):
        kept, held = pairs.split_by_prompt(keys, size, shuffle=random.Random(1).shuffle)
        assert len(held) == wanted and sorted(kept + held) == list(range(200))
        assert not {keys[i] for i in kept} & {keys[i] for i in held}
    again = [pairs.split_by_prompt(keys, 0.1, shuffle=random.Random(seed).shuffle)[1] for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


@pytest.mark.parametrize("kind", ["rankings", "pairs", "implicit pairs", "prompts", "prompts beside a text"])
def test_no_prompt_is_on_both_sides_of_test_split_size(kind, tmp_path, tokenizer):
    asked = [f"what is {n % 10}" for n in range(60)]
    make = {
        "rankings": lambda q, n: {"prompt": q, "completions": ["a", f"b{n}"], "ranking": [1, 2]},
        "pairs": lambda q, n: {"prompt": q, "chosen": "a", "rejected": f"b{n}"},
        "implicit pairs": lambda q, n: {
            side: f"\n\nHuman: {q}\n\nAssistant: {side} {n}" for side in ("chosen", "rejected")
        },
        "prompts": lambda q, n: {"prompt": q, "other": n},
        "prompts beside a text": lambda q, n: {
            "instruction": q,
            "output": f"a{n}",
            "text": f"{q} {n}",
        },  # as Alpaca has
    }[kind]
    path = write_rows(tmp_path / "x.jsonl", [make(q, n) for n, q in enumerate(asked)])
    args = DataArguments(dataset_name=str(path), test_split_size=0.2)
    schema = "prompt" if kind.startswith("prompts") else "preference"
    splits = prepare.rows(args, schema, tokenizer, max_length=None, seed=0)
    name = "input_ids" if schema == "prompt" else "prompt_ids"
    sides = [{tuple(ids) for ids in part[name]} for part in (splits.train, splits.test)]
    assert len(splits.test) == 12 and not sides[0] & sides[1]
    again = prepare.rows(args, schema, tokenizer, max_length=None, seed=1)
    assert {tuple(ids) for ids in again.test[name]} != sides[1]


def test_one_prompt_cannot_be_split(tmp_path):
    path = write_rows(tmp_path / "x.jsonl", [{"prompt": "p", "chosen": "a", "rejected": str(n)} for n in range(9)])
    with pytest.raises(DataError, match="9 rows with 1 prompts cannot give"):
        splits.read(DataArguments(dataset_name=str(path), test_split_size=0.3), seed=0)


# -------------------------------------------------------------------------------------------------------------- data


def test_rows_carry_weight_and_group_and_the_report_says_what_was_left_out(tmp_path, tokenizer):
    rows = [row([1, 2, 3, 3]), row([2, 1], prompt="q"), row(None, prompt="r", verdict="skip")]
    for split in ("train", "test"):
        write_rows(tmp_path / f"{split}.jsonl", rows)
    splits = prepare.rows(DataArguments(dataset_name=str(tmp_path)), "preference", tokenizer, max_length=64, seed=0,
                          pairing=PairArguments(ties="half"))  # fmt: skip
    assert splits.train["weight"][:7] == pytest.approx([4 / 6] * 5 + [2 / 6] * 2) and splits.train["weight"][7] == 4
    assert len(set(splits.train["group"])) == 2
    assert list(splits.test["weight"]) == [1.0] * 6, "held-out pairs have no ties and weigh the same"
    assert splits.reports["train"].as_dict()["rankings"]["skipped"] == 1
    assert "3 rankings, 1 tied pairs taken half each way, 1 skipped, 8 pairs; 8 rows in" in str(splits.reports["train"])


def test_weights_still_have_a_mean_of_one_after_rows_were_dropped(tmp_path, tokenizer):
    """p has three pairs, two of them with a completion that is too long; q has one. Left are two, each of weight 1."""
    rows = [row([1, 2, 3], completions=["a", "b", "a " * 100]), row([1, 2], prompt="q")]
    write_rows(tmp_path / "train.jsonl", rows)
    args = DataArguments(dataset_name=str(tmp_path), max_too_long=0.6)
    assert list(prepare.rows(args, "preference", tokenizer, max_length=64, seed=0).train["weight"]) == [1.0, 1.0]


def test_columns_may_be_null_for_the_first_ten_megabytes(tmp_path, tokenizer):
    """datasets types a column by its first 10 MB of JSON; a skip's ranking is null, and so are others."""
    empty = {**row(None, verdict="skip"), "sources": None, "note": None, "pad": "x" * 1000}
    late = {**row([1, 2]), "verdict": "ranked", "sources": ["m", "n"], "note": "text", "pad": ""}
    path = write_rows(tmp_path / "train.jsonl", [empty] * 11_000 + [late])
    assert path.stat().st_size > 10 << 20
    write_rows(tmp_path / "test.jsonl", [{**row([1, 2]), "seconds": 1.5}])
    splits = prepare.rows(DataArguments(dataset_name=str(tmp_path)), "preference", tokenizer, max_length=64, seed=0)
    assert len(splits.train) == len(splits.test) == 1


# ---------------------------------------------------------------------------------------------------------- trainers


def test_the_pair_loss_by_hand():
    """r+ = (1, 0), r- = (0, 0), w = (1.5, 0.5), c = 0.1: (1.5 (0.313262 + 0.1) + 0.5 ln 2) / 2 = 0.483233."""
    from align.train.reward import pair_loss

    chosen, rejected = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])
    assert pair_loss(chosen, rejected, torch.tensor([1.5, 0.5]), center=0.1).item() == pytest.approx(0.483233, abs=1e-6)
    assert pair_loss(chosen, rejected, torch.ones(2), margin=torch.tensor([1.0, 0.0])).item() == pytest.approx(0.693147)


def test_a_batch_reads_every_distinct_completion_once():
    from align.train.reward import DistinctCollator

    rows = [([5, 1], [5, 2]), ([5, 1], [5, 3, 4]), ([5, 2], [5, 3, 4])]
    batch = DistinctCollator(0)([{"chosen_ids": a, "rejected_ids": b} for a, b in rows])
    assert batch["input_ids"].tolist() == [[5, 1, 0], [5, 2, 0], [5, 3, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    assert (batch["chosen"].tolist(), batch["rejected"].tolist()) == ([0, 0, 1], [1, 2, 2])


def test_prompts_are_shuffled_and_their_pairs_stay_together():
    from align.train.pair_batches import PromptSampler

    groups = list("aabbbcddddeffgg")
    epoch = [0]
    sampler = PromptSampler(pa.array(groups), 3, lambda: epoch[0])
    first, again = list(sampler), list(sampler)
    epoch[0] = 1
    later = list(sampler)
    assert first == again != later and sorted(first) == sorted(later) == list(range(len(groups))) and len(sampler) == 15
    for order in (first, later):
        runs = [groups[i] for n, i in enumerate(order) if n == 0 or groups[order[n - 1]] != groups[i]]
        assert len(runs) == len(set(groups)), "a prompt's pairs are one run"
    assert [groups[i] for i in first] != groups


@pytest.fixture(scope="module")
def trainers(tmp_path_factory):
    """A reward trainer and a DPO trainer of ours, each with TRL's, on the same model and rows."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    from align.train.dpo import PairTrainer
    from align.train.reward import ScoreTrainer, whole

    folder = tmp_path_factory.mktemp("pairs")
    path, tokenizer = make_checkpoint(folder / "base"), make_tokenizer()
    asked = [{"prompt": f"what is a {w}", "completions": [f"{w} sits", f"{w} runs on", "no", "help"], "ranking": [1, 2, 3, 3]}
             for w in ("cat", "dog")]  # fmt: skip
    write_rows(folder / "train.jsonl", asked)
    rows = prepare.rows(DataArguments(dataset_name=str(folder / "train.jsonl")), "preference", tokenizer, max_length=64,
                        seed=0).train  # fmt: skip
    common = dict(
        output_dir=str(folder / "out"), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none"
    )
    torch.manual_seed(0)
    scorer = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
    policy, reference = (AutoModelForCausalLM.from_pretrained(path) for _ in range(2))
    with torch.no_grad():  # away from the reference, so that pairs differ in their gradients
        for weight in policy.parameters():
            weight.add_(0.02 * torch.randn(weight.shape))

    def reward(cls, **options):
        settings = RewardConfig(**common, center_rewards_coefficient=0.01)
        return cls(copy.deepcopy(scorer), settings, train_dataset=whole(rows), processing_class=tokenizer, **options)

    class Theirs(DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset

    def dpo(cls, **options):
        settings = DPOConfig(**common, max_length=64, **options)
        return cls(copy.deepcopy(policy), ref_model=copy.deepcopy(reference), args=settings, train_dataset=rows,
                   processing_class=tokenizer)  # fmt: skip

    return {
        "reward": (reward, ScoreTrainer, RewardTrainer),
        "dpo": (dpo, PairTrainer, Theirs),
        "rows": rows,
        "whole": whole,
    }


def step(trainer, rows, weights=None):
    """Loss and gradients of one batch."""
    trainer.model.train()
    trainer.model.zero_grad()
    trainer._checked = True
    examples = [dict(one) for one in rows]
    for one, weight in zip(examples, weights or [], strict=bool(weights)):
        one["weight"] = weight
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(examples))
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("kind", "options"),
    [("reward", {}), ("dpo", {}), ("dpo", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]}),
     ("dpo", {"loss_type": "ipo"})],
    ids=["reward", "dpo", "dpo with sft", "ipo"],
)  # fmt: skip
def test_weights_of_one_are_trls_loss_and_others_weigh(trainers, kind, options):
    """With weights (w_i), the gradient is mean_i w_i grad_i, and TRL gives grad_i when it is shown pair i alone."""
    make, ours, theirs = trainers[kind]
    rows = trainers["rows"] if kind == "dpo" else trainers["whole"](trainers["rows"])
    mine, trls = make(ours, **options), make(theirs, **options)
    some = [rows[i] for i in (0, 1, 2, 7)]
    loss, gradient = step(mine, some, [1.0] * 4)
    wanted, its_gradient = step(trls, some)
    assert loss == pytest.approx(wanted, abs=1e-6)
    torch.testing.assert_close(gradient, its_gradient, atol=1e-6, rtol=1e-4)
    weights = [2.0, 0.5, 0.0, 1.5]
    loss, gradient = step(mine, some, weights)
    alone = [step(trls, [one]) for one in some]
    if "sft" in options.get("loss_type", []):  # a mean over tokens: pairs with equally long answers only
        lengths = torch.tensor([float(len(one["chosen_ids"])) for one in some])
        shares = lengths / lengths.mean()
        sft = [step(make(ours, loss_type="sft"), [one])[1] for one in some]
        dpo = [step(make(ours), [one])[1] for one in some]
        wanted = sum(w * (d + s * f) for w, d, s, f in zip(weights, dpo, shares, sft, strict=True)) / 4
    else:
        wanted = sum(w * g for w, (_, g) in zip(weights, alone, strict=True)) / 4
    torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-3)
    if kind == "reward":
        assert loss == pytest.approx(sum(w * one for w, (one, _) in zip(weights, alone, strict=True)) / 4, abs=1e-6)


def test_a_loss_that_mixes_pairs_refuses_weights(trainers):
    from align.run.errors import ConfigError

    make, ours, _ = trainers["dpo"]
    with pytest.raises(ConfigError, match="loss_type=aot sorts the pairs.*--pair_weights pair"):
        trainer = make(ours, loss_type="aot")
        trainer.train_dataset = trainer.train_dataset.add_column("x", [0] * len(trainer.train_dataset))
        trainer.train_dataset = trainer.train_dataset.map(lambda one, i: {"weight": 1.0 + i}, with_indices=True)
        trainer._check_weights()


# ------------------------------------------------------------------------------------------------------- really run


@pytest.fixture(scope="module")
def ranked(world, tmp_path_factory):
    """Rankings of four completions by two annotators, in the folder of a data set."""
    folder = tmp_path_factory.mktemp("ranked")
    rng = random.Random(0)
    words = ["cat", "dog", "bird", "mat", "tree", "house"]
    for split, count in (("train", 12), ("test", 6)):
        rows = []
        for _ in range(count):
            asked = f"what is {' '.join(rng.sample(words, 3))} {split}"
            said = [" ".join(rng.sample(words, 2 + k)) for k in range(4)]
            rows += [row(rng.choice([[1, 2, 3, 4], [2, 1, 3, 3]]), prompt=asked, completions=said, annotator=name)
                     for name in ("ann", "bob")]  # fmt: skip
        write_rows(folder / f"{split}.jsonl", rows)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_recipes_train_on_rankings_and_repeat_and_resume_bitwise(stage, world, ranked, tmp_path):
    """Over an epoch's end, with accumulation: the order of prompts is the seed's, and a resumed run goes on in it."""
    import shutil

    from safetensors.torch import load_file

    arguments = stage_arguments(stage, world)
    arguments[arguments.index("--dataset_name") + 1] = str(ranked)
    arguments += ["--max_steps", "24", "--save_steps", "20", "--save_total_limit", "9"]
    runs = [tmp_path / name for name in ("a", "b", "c", "d")]
    run_recipe(stage, *arguments, "--output_dir", str(runs[0]))
    record = json.loads((runs[0] / "run.json").read_text())
    assert record["data"]["train"]["rankings"]["rankings"] == 24 and record["config"]["pair_weights"] == "prompt"
    assert record["metrics"]["epoch"] > 1
    run_recipe(stage, *arguments, "--output_dir", str(runs[1]))
    runs[2].mkdir()
    shutil.copytree(runs[0] / "checkpoint-20", runs[2] / "checkpoint-20")
    write_rows(runs[2] / "run.json", [{"status": "running"}])
    run_recipe(stage, *arguments, "--output_dir", str(runs[2]), "--resume_from_checkpoint", "last")
    other_way = {"reward": "--no_pairs_together", "dpo": "--pairs_together"}[stage]  # neither is the recipe's default
    run_recipe(stage, *arguments, other_way, "--output_dir", str(runs[3]))
    saved = [load_file(str(run / "model.safetensors")) for run in runs]
    for other in saved[1:3]:
        assert all(torch.equal(saved[0][name], other[name]) for name in other)
    assert any(not torch.equal(saved[0][name], saved[3][name]) for name in saved[3])
    assert losses(runs[0])[:8] == losses(runs[1])[:8] != losses(runs[3])[:8]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "kind"), [("reward", "ddp"), ("dpo", "zero2")])
def test_weights_in_two_processes_are_those_in_one(stage, kind, world, ranked, tmp_path):
    """Each process reads its own distinct completions, as many as there are: the losses are those of one process."""
    from test_sharding import TOLERANCE, two_processes

    arguments = stage_arguments(stage, world)
    arguments[arguments.index("--dataset_name") + 1] = str(ranked)
    arguments += ["--max_steps", "4", "--learning_rate", "1e-3"]
    run_recipe(stage, *arguments, "--output_dir", str(tmp_path / "one"))
    two_processes(stage, kind, *arguments, "--output_dir", str(tmp_path / "two"))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 4 and max(abs(a - b) for a, b in zip(one, two, strict=True)) < TOLERANCE, (one, two)
