"""`--find_batch_size`: where the first steps do not fit, the run begins again with half of the rows at once."""

from __future__ import annotations

import json
import os
import socket
import sys
import textwrap
import threading
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from conftest import ROOT, WORDS, launch, stage_arguments, write_rows
from test_dry_run import TRAINING, takers
from trl import RLOOConfig

from align.ppo.arithmetic import plan
from align.run.arguments import BatchArguments
from align.run.errors import ConfigError, OneProcess, RunError
from align.run.trial import again
from align.train.first import smaller

FULL = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)


class Left(BaseException):
    """What stands in for a process that is replaced."""


@pytest.fixture
def searching(monkeypatch):
    """A process that searches; `began` is what it would begin again with."""
    began = []

    def begin(failed, size, port):
        began.append((failed, size, port))
        raise Left

    monkeypatch.setattr(again, "_sizes", [[]])
    monkeypatch.setattr(again, "begin", begin)
    return began


def trainer(tmp_path, size, step=0):
    args = SimpleNamespace(per_device_train_batch_size=size, process_index=0, output_dir=tmp_path)
    return SimpleNamespace(args=args, state=SimpleNamespace(global_step=step), add_callback=lambda callback: None)


def attempt(trainer, error, begun=0):
    with smaller.halving(trainer, begun):
        raise error


# ---------------------------------------------------------------------------------------------------------- arithmetic


def test_only_recipes_that_train_have_it():
    assert takers("find_batch_size") == set(TRAINING)


def test_half_of_the_rows_at_once():
    def half(size):
        return smaller.halved(SimpleNamespace(per_device_train_batch_size=size), 1)

    assert [half(size) for size in (8, 5, 2, 1)] == [4, 2, 1, None]


def test_trls_rloo_keeps_a_prompts_completions_together(tmp_path):
    args = RLOOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, use_cpu=True, bf16=False
    )
    assert smaller.halved(args, 1) is None  # 2 completions at once are less than a prompt's 4
    assert smaller.halved(args, 2) == 2  # and on two processes 4


def test_what_ppo_samples_at_once_is_halved_as_often(monkeypatch):
    monkeypatch.setattr(again, "_sizes", [[8, 4, 2]])  # 8 and 4 did not fit
    for search, expected in ((True, 16), (False, 64)):
        args = SimpleNamespace(
            num_mini_batches=1, num_generations=1, per_device_train_batch_size=2, local_rollout_forward_batch_size=64,
            total_episodes=16, max_steps=-1, num_ppo_epochs=1,
        )  # fmt: skip
        plan(BatchArguments(global_batch_size=16, find_batch_size=search), args, 32, 1)
        assert args.local_rollout_forward_batch_size == expected


def test_what_the_process_before_said_is_taken_up(monkeypatch):
    monkeypatch.setattr(again, "_sizes", [])
    monkeypatch.setattr(again, "GIVEN", {again.SIZES: "8 4 2"})
    assert again.sizes(True) == {"per_device_train_batch_size": 2}
    assert again.searching() and again.did_not_fit() == [8, 4]
    assert again.facts(2) == {"micro_batch": {"did_not_fit": [8, 4], "used": 2}}
    assert again.sizes(False) == {} and not again.searching() and again.facts(2) == {}
    monkeypatch.setattr(again, "GIVEN", {})
    assert again.sizes(True) == {} and again.facts(8)["micro_batch"] == {
        "did_not_fit": [],
        "used": 8,
    }
    monkeypatch.setattr(again, "GIVEN", {again.SIZES: "many"})
    with pytest.raises(ConfigError, match="unset it"):
        again.sizes(True)


def test_the_process_is_replaced_by_its_own_command(monkeypatch):
    called, tidied = [], []
    monkeypatch.setattr(os, "execve", lambda *call: called.append(call))
    monkeypatch.setattr(os, "set_inheritable", lambda number, inheritable: None)
    monkeypatch.setattr(again, "_sizes", [[8, 4]])
    monkeypatch.setattr(again, "_leaving", [lambda: tidied.append(True)])
    monkeypatch.setattr(again, "GIVEN", {"HOME": "/h", "MASTER_PORT": "1", again.SIZES: "8 4"})
    monkeypatch.setattr(sys, "argv", ["recipes/sft.py", "--x", "1"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "recipes/sft.py", "--x", "1"])
    again.begin(4, 2, 77)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", "from multiprocessing.forkserver import main"])  # a chain's
    again.begin(4, 2, None)
    (program, words, environment), (_, forked, alone) = called
    assert program == sys.executable and words == [sys.executable, "-u", "recipes/sft.py", "--x", "1"]
    assert forked == [sys.executable, "recipes/sft.py", "--x", "1"] and len(tidied) == 2
    assert environment == {
        "HOME": "/h",
        again.SIZES: "8 4 2",
        "MASTER_PORT": "77",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    }
    assert alone["MASTER_PORT"] == "1"


# ----------------------------------------------------------------------------------------------- when it begins again


@pytest.mark.parametrize("error", [RuntimeError(FULL), MemoryError(), RuntimeError("CUDA out of memory. Tried to …")])
def test_memory_that_runs_out_in_the_first_two_steps_begins_it_again(tmp_path, searching, capsys, error):
    (tmp_path / "checkpoint-1").mkdir()
    for step in (0, 1):
        with pytest.raises(Left):
            attempt(trainer(tmp_path, 8, step), error)
    assert searching == [(8, 4, None)] * 2
    out = capsys.readouterr().out.splitlines()
    assert out[0] == (
        "memory ran out in step 1 with 8 rows at once: beginning again with 4, and the same global batch"
    ) and len(out) == 2 and not (tmp_path / "checkpoint-1").exists()  # fmt: skip


def test_a_run_that_goes_on_keeps_its_checkpoint(tmp_path, searching):
    (tmp_path / "checkpoint-500").mkdir()
    with pytest.raises(Left):
        attempt(trainer(tmp_path, 8, 501), MemoryError(), begun=500)
    assert (tmp_path / "checkpoint-500").is_dir()


@pytest.mark.parametrize(
    ("step", "error"), [(2, RuntimeError(FULL)), (0, RuntimeError("shapes do not fit")), (0, ValueError("x"))]
)
def test_later_steps_and_other_errors_are_left_alone(tmp_path, searching, step, error):
    with pytest.raises(type(error)):
        attempt(trainer(tmp_path, 8, step), error)
    assert not searching


def test_without_the_flag_nothing_is_caught(tmp_path, searching, monkeypatch):
    monkeypatch.setattr(again, "_sizes", [])
    with pytest.raises(MemoryError):
        attempt(trainer(tmp_path, 8), MemoryError())
    assert not searching


def test_one_row_that_does_not_fit_ends_in_a_sentence(tmp_path, searching):
    with pytest.raises(RunError, match=r"^memory ran out in step 1 with 1 row at once, which --find_batch_size cannot"):
        attempt(trainer(tmp_path, 1), RuntimeError(FULL))
    assert not searching


# --------------------------------------------------------------------------------------------------- several processes


@pytest.fixture
def meeting(monkeypatch):
    """A store that two processes would meet at."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    server = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    yield server
    dist.PrefixStore("find_batch_size/0", server).add("through", 2)  # lets the threads end before the store does
    for thread in [thread for thread in threading.enumerate() if "_follow" in thread.name]:
        thread.join(5)


def peers(count):
    """As many processes, here threads of one, since each waits for the first."""
    made: dict[int, smaller.Peers] = {}
    starts = [threading.Thread(target=lambda rank=rank: made.update({rank: smaller.Peers(rank, count)}))
              for rank in range(count)]  # fmt: skip
    [start.start() for start in starts]
    [start.join(30) for start in starts]
    return [made[rank] for rank in range(count)]


def test_all_processes_begin_again_with_what_one_of_them_said(searching, meeting, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # `Left` in a thread
    first, second = peers(2)
    assert first.port == second.port
    assert second.tell(8, 4) and not first.tell(8, 4)  # one line is enough
    with pytest.raises(Left):
        second.leave()
    for thread in [thread for thread in threading.enumerate() if thread.daemon]:
        thread.join(5)
    assert set(searching) == {(8, 4, first.port)} and len(searching) >= 2


def test_who_has_all_first_steps_behind_stops_looking(searching, meeting):
    first, second = peers(2)
    callback = smaller.Through(first, last=2)
    for step in (1, 2):
        callback.on_step_end(None, SimpleNamespace(global_step=step), None)
        assert first.ended.is_set() is (step == 2)
    second.through()
    second.through()  # counts once
    assert first.store.add("through", 0) == 2 and not searching


def test_an_error_on_several_processes_is_told_by_the_one_that_had_it(tmp_path, searching, meeting, monkeypatch):
    monkeypatch.setattr(smaller.launch, "world_size", lambda: 2)
    threading.Thread(target=lambda: smaller.Peers(1, 2).through(), daemon=True).start()
    with pytest.raises(OneProcess, match="step 1 on process 0 with 1 row at once"):
        attempt(trainer(tmp_path, 1), MemoryError())


# ------------------------------------------------------------------------------------------------------ really launched

# A recipe in whose training no more than so many rows fit, on one process of several
STAND_IN = """
    import os, runpy, sys
    sys.path.insert(0, {recipes!r})
    sys.argv = sys.argv[1:]
    import torch
    from transformers import LlamaModel, Trainer

    def check(rows=0):
        if ({condition}) and torch.is_grad_enabled() and os.environ.get("RANK", "0") == {rank!r}:
            raise RuntimeError({full!r})

    forward, step = LlamaModel.forward, Trainer.training_step
    LlamaModel.forward = lambda *args, **kwargs: (check(), forward(*args, **kwargs))[1]
    Trainer.training_step = lambda self, model, inputs, *rest: (
        check(len(inputs["input_ids"])), step(self, model, inputs, *rest))[1]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def stand_in(tmp_path, condition, rank="0"):
    path = tmp_path / "stand_in.py"
    text = STAND_IN.format(recipes=str(ROOT / "recipes"), condition=condition, rank=rank, full=FULL)
    path.write_text(textwrap.dedent(text))
    return path


def run_of(folder):
    return json.loads((folder / "run.json").read_text())


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


# A batch of DPO has two rows a pair, one of PPO is packed into a single one: their stand-in looks at what was asked for
ROWS = "rows > 2"
PACKED = f"int(os.environ.get({again.SIZES!r}, '4').split()[-1]) > 2"


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "condition"), [("sft", ROWS), ("pretrain", ROWS), ("dpo", PACKED), ("ppo", PACKED)])
def test_the_weights_are_those_of_a_run_that_began_smaller(world, tmp_path, recipe, condition):
    given = [*stage_arguments(recipe, world), "--seed", "3", "--max_steps", "3", "--save_steps", "1"]
    sizes = ["--per_device_train_batch_size", "4"]
    command = [sys.executable, stand_in(tmp_path, condition), f"recipes/{recipe}.py", *given]
    done = launch([*command, *sizes, "--find_batch_size", "--output_dir", tmp_path / "found"])
    line = "memory ran out in step 1 with 4 rows at once: beginning again with 2, and the same global batch"
    assert done.stdout.count(line) == 1
    smaller_ones = ["--per_device_train_batch_size", "2"]
    smaller_ones += ["--local_rollout_forward_batch_size", "32"] if recipe == "ppo" else []
    env = {again.SIZES: "2"} if condition == PACKED else {}
    launch([*command, *smaller_ones, "--output_dir", tmp_path / "smaller"], env=env)
    found, other = run_of(tmp_path / "found"), run_of(tmp_path / "smaller")
    assert weights(tmp_path / "found") == weights(tmp_path / "smaller")
    assert found["micro_batch"] == {"did_not_fit": [4], "used": 2} and "micro_batch" not in other
    assert found["status"] == "complete" and found["global_batch_size"] == other["global_batch_size"] == 8
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        assert found["config"][name] == other["config"][name]
    same = [[line["loss"] for line in map(json.loads, (tmp_path / run / "metrics.jsonl").open()) if "loss" in line]
            for run in ("found", "smaller")]  # fmt: skip
    assert same[0] == same[1]  # the first attempt left no line of its own


@pytest.mark.slow
def test_two_processes_agree_although_one_alone_has_no_room(world, tmp_path):
    given = [*stage_arguments("sft", world), "--max_steps", "3"]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*start, stand_in(tmp_path, ROWS, rank="1"), "recipes/sft.py", *given]
    done = launch([*command, "--find_batch_size", "--output_dir", tmp_path / "found"])
    assert done.stdout.count("memory ran out in step 1 on process 1 with 4 rows at once: beginning again with 2") == 1
    launch([*command, "--per_device_train_batch_size", "2", "--output_dir", tmp_path / "smaller"])
    found = run_of(tmp_path / "found")
    assert found["micro_batch"] == {"did_not_fit": [4], "used": 2} and found["world_size"] == 2
    assert found["global_batch_size"] == 8 and weights(tmp_path / "found") == weights(tmp_path / "smaller")


@pytest.mark.slow
def test_a_row_too_many_ends_in_one_sentence(world, tmp_path):
    command = [sys.executable, stand_in(tmp_path, "True"), "recipes/sft.py", *stage_arguments("sft", world)]
    done = launch([*command, "--find_batch_size", "--output_dir", tmp_path / "out"], check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.count("error: memory ran out in step 1 with 1 row at once") == 1
    assert done.stdout.count("beginning again with") == 2 and run_of(tmp_path / "out")["status"] == "failed"


@pytest.mark.slow
def test_a_dry_run_finds_what_fits_at_the_longest_rows(world, tmp_path):
    free = tmp_path / "tmp"
    free.mkdir()
    command = [sys.executable, stand_in(tmp_path, ROWS), "recipes/sft.py", *stage_arguments("sft", world)]
    done = launch(
        [*command, "--find_batch_size", "--dry_run", "--output_dir", tmp_path / "out"], env={"TMPDIR": str(free)}
    )
    assert "at once   4 rows did not fit, 2 did" in done.stdout and not (tmp_path / "out").exists()
    assert not list(free.glob("dry-run-*"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="where the system holds a process to its address space")
def test_memory_that_really_runs_out(world, tmp_path):
    """The address space of a run with few rows at once, and a bit: many rows at once cannot have it."""
    text = " ".join(WORDS)
    rows = write_rows(tmp_path / "texts.jsonl", [{"text": f"{text} {number} {text} {text}"} for number in range(2400)])
    given = ["recipes/pretrain.py", *stage_arguments("pretrain", world), "--dataset_name", rows, "--max_length", "128",
             "--global_batch_size", "1024", "--max_steps", "2", "--test_split_size", "0"]  # fmt: skip
    held = tmp_path / "held.py"
    held.write_text(
        textwrap.dedent(f"""
        import os, re, resource, runpy, sys
        sys.path.insert(0, {str(ROOT / "recipes")!r})
        if limit := os.environ.get("LIMIT"):
            resource.setrlimit(resource.RLIMIT_AS, (int(limit), int(limit)))
        sys.argv = sys.argv[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
        print("kB at most", re.search(r"VmPeak:\\s+(\\d+)", open("/proc/self/status").read())[1])
    """)
    )
    command = [sys.executable, held, *given]
    few = launch([*command, "--per_device_train_batch_size", "64", "--output_dir", tmp_path / "few"])
    limit = int(few.stdout.split("kB at most")[1]) * 1024 + 400_000_000
    done = launch([*command, "--per_device_train_batch_size", "1024", "--find_batch_size", "--output_dir", tmp_path / "found"],
                  env={"LIMIT": str(limit)})  # fmt: skip
    print(done.stdout)
    found = run_of(tmp_path / "found")["micro_batch"]
    assert found["did_not_fit"][0] == 1024 and 64 <= found["used"] < 1024, done.stdout
    again_from = ["--per_device_train_batch_size", found["used"], "--output_dir", tmp_path / "smaller"]
    launch([*command, *again_from])
    assert weights(tmp_path / "found") == weights(tmp_path / "smaller")
