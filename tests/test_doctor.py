"""`align doctor`: what it says of machines that are made up here, and of this one."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from align.machine import doctor, gpus, network, packages, resources
from align.machine.findings import FAIL, OK, WARN, Finding
from align.machine.gpus import Build, Card
from align.machine.packages import Installed
from align.run.errors import ConfigError, RunError

GIB = 1 << 30


def states(found: list[Finding]) -> list[str]:
    return [one.state for one in found]


# -------------------------------------------------------------------------------------------------------- the command


def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "align.cli", "doctor", *words], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | environment)  # fmt: skip


def test_this_machine_in_under_five_seconds():
    """Of one core's time, the interpreter's start included: others may compute here."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = run("--json")
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    told = json.loads(done.stdout)
    names = {one["name"] for one in told["findings"]}
    assert {"python", "packages", "gpu", "precision", "threads", "memory", "disk", "hub"} <= names
    assert done.returncode == (0 if told["fit"] else 1), done.stderr
    assert told["fit"] == all(one["state"] != FAIL for one in told["findings"])
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5
    assert 0 < told["seconds"] <= wall


def test_without_torch_it_says_so_and_ends_with_one(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    done = run(PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert line == ("FAIL  torch: it cannot be imported: libcudart.so.12: cannot open shared object file; mend: pip install "
                    "--force-reinstall -c constraints.txt torch")  # fmt: skip
    assert "error: to be mended first: torch" in done.stderr
    assert "threads: " in done.stdout and "hub: offline by HF_HUB_OFFLINE" in done.stdout, "and goes on"


def test_what_fails_is_named_and_what_needs_care_is_not_a_failure(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: [Finding(WARN, "memory", "little")])
    doctor.main([])
    assert "warn  memory: little\n" in capsys.readouterr().out
    bad = Finding(FAIL, "disk", "full", "rm x")
    monkeypatch.setattr(doctor, "examine", lambda: [bad, Finding(OK, "gpu", "none"), bad])
    with pytest.raises(RunError, match="mended first: disk$"):
        doctor.main([])
    assert "FAIL  disk: full; mend: rm x\nok    gpu: none\n" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="does not know '--jsn'"):
        doctor.main(["--jsn"])


def test_a_package_that_a_look_needs_is_a_finding():
    def look() -> list[Finding]:
        import nothing_of_that_name  # noqa: F401

    (found,) = doctor.tried(look)
    assert found.state == FAIL and found.mend == "pip install --force-reinstall nothing_of_that_name"


# ----------------------------------------------------------------------------------------------------------- packages


def there(**versions: str | tuple[str, list[str]]) -> dict[str, list[Installed]]:
    made = {}
    for name, told in versions.items():
        version, requires = (told, []) if isinstance(told, str) else told
        made[name.replace("_", "-")] = [Installed(version, requires, Path("/x"))]
    return made


def test_what_packages_ask_of_each_other():
    """transformers asks for tokenizers below 0.24, trl for accelerate; extras and other systems' are not asked for."""
    known = there(
        trl=("1.16.0", ["transformers>=5", "accelerate>=1.10"]),
        transformers=(
            "5.24.0",
            ["tokenizers<0.24,>=0.22", "nothing; extra == 'dev'", "pywin; sys_platform == 'win32'", "?"],
        ),
        tokenizers="0.30.0",
    )
    found = packages.unmet(known, ["trl"])
    assert [(one.told, one.mend) for one in found] == [
        ("accelerate is not installed", "pip install accelerate"),
        (
            "transformers 5.24.0 needs tokenizers<0.24,>=0.22, and 0.30.0 is here",
            "pip install 'tokenizers<0.24,>=0.22'",
        ),
    ]
    assert states(found) == [FAIL, FAIL]
    assert packages.unmet(there(trl="1.16.0"), ["trl"]) == []


def test_what_was_built_for_another_torch():
    known = there(torch="2.13.0+cu130", torchvision=("0.27.0", ["torch==2.12.0"]), xformers=("0.1", ["torch==2.12.0"]))
    vision, xformers = packages.beside(known)
    assert vision.state == FAIL and vision.mend.startswith("pip uninstall -y torchvision")
    assert vision.told == "torchvision 0.27.0 goes with torch==2.12.0, and 2.13.0+cu130 is here"
    assert xformers.state == WARN
    assert packages.beside(there(torch="2.13.0+cu130", torchvision=("0.28.0", ["torch==2.13.0"]))) == []


@pytest.mark.parametrize(
    ("name", "version", "state"),
    [
        ("torchao", "0.15.0", [FAIL]),
        ("torchao", "0.16.0", []),
        ("bitsandbytes", "0.45.0", [WARN]),
        ("bitsandbytes", "0.46.1", []),
    ],
)
def test_too_old_beside(name, version, state):
    assert states(packages.beside(there(**{name: version}))) == state


def test_the_oldest_torchao_is_the_one_that_peft_takes(monkeypatch):
    import importlib.metadata
    import importlib.util

    from peft import import_utils

    (least,) = (one for one in packages.OLDEST if one.name == "torchao")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for version, taken in (("0.15.9", False), (str(least.specifier)[2:], True)):
        monkeypatch.setattr(importlib.metadata, "version", lambda _, found=version: found)
        import_utils.is_torchao_available.cache_clear()
        if taken:
            assert import_utils.is_torchao_available()
        else:
            with pytest.raises(ImportError):
                import_utils.is_torchao_available()
    import_utils.is_torchao_available.cache_clear()


def test_twice_in_one_folder_and_from_the_users_own(monkeypatch, tmp_path):
    a, b = Installed("2.12.0", [], tmp_path / "site"), Installed("2.13.0", [], tmp_path / "site")
    (found,) = packages.twice({"torch": [b, a]})
    assert found.state == FAIL and "(2.13.0, 2.12.0)" in found.told and found.mend.count("pip uninstall -y torch;") == 2
    assert packages.twice({"torch": [b, a._replace(folder=tmp_path / "other")]}) == [], "the first one is taken"
    monkeypatch.setattr(packages.site, "getusersitepackages", lambda: str(tmp_path / "site"))
    (found,) = packages.twice({"torch": [b]})
    assert (found.state, found.mend) == (WARN, "export PYTHONNOUSERSITE=1")


def test_versions_out_of_range_fail_unless_asked_for(monkeypatch):
    monkeypatch.setattr(
        packages.versions, "problem", lambda one: f"{one.name} is odd: pip install it" if one.name == "trl" else None
    )
    monkeypatch.delenv("ALIGN_ANY_VERSIONS", raising=False)
    assert packages.unsupported() == [Finding(FAIL, "packages", "trl is odd", "pip install it")]
    monkeypatch.setenv("ALIGN_ANY_VERSIONS", "1")
    assert states(packages.unsupported()) == [WARN]


# --------------------------------------------------------------------------------------------------------------- GPUs

H100 = Card("NVIDIA H100 80GB HBM3", 79.6, 0.5, "580.65", False)
FITS = Build("2.13.0+cu130", "13.0", True, "cuda", ((9, 0),), ("sm_80", "sm_90", "sm_100"))


def judge(card: Card = H100, newest=(13, 0), torch: Build = FITS, hidden: bool = False) -> list[Finding]:
    return gpus.look([card], newest, torch, hidden, True)


def test_cards_as_nvidia_smi_tells_of_them(monkeypatch, tmp_path):
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/bash\necho 'NVIDIA H100 80GB HBM3, 81559, 512, 580.65, Disabled'\necho 'NVIDIA A100, 40960, 40000, 580.65, Enabled'\n"
        "echo 'Tesla T4, 15360, 0, 580.65, [N/A]'\n"
    )
    (tmp_path / "nvidia-smi").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert [(one.name, round(one.gib, 1), one.mig) for one in gpus.cards()] == [
        ("NVIDIA H100 80GB HBM3", 79.6, False), ("NVIDIA A100", 40.0, True), ("Tesla T4", 15.0, False),
    ]  # fmt: skip
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/bash\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n"
    )
    assert gpus.cards() == []


def test_a_card_that_is_used():
    (found,) = judge()
    assert found.state == OK and found.told == (
        "1 x NVIDIA H100 80GB HBM3, 80 GiB, driver 580.65 (CUDA up to 13.0); torch is built for 13.0"
    )


@pytest.mark.parametrize(
    ("torch", "newest", "told", "index"),
    [
        (Build("2.13.0", None, False), (13, 0), "is a build for CPUs", "whl/cu130"),
        (Build("2.13.0", None, False), (12, 4), "is a build for CPUs", "whl/cu126"),
        (Build("2.13.0+cu130", "13.0", False), (12, 4), "needs a driver for CUDA 13.0", "whl/cu126"),
        (Build("2.11.0+cu126", "12.6", False), (12, 4), "cannot use it", "torch.cuda.init"),
    ],
)
def test_a_card_that_torch_cannot_use_fails_with_the_command(torch, newest, told, index):
    (found,) = judge(torch=torch, newest=newest)
    assert found.state == FAIL and told in found.told and index in found.mend


@pytest.mark.parametrize(
    ("arch", "card", "runs"),
    [
        ("sm_90", (9, 0), True), ("sm_80", (8, 6), True), ("sm_86", (8, 0), False), ("sm_80", (9, 0), False),
        ("compute_80", (9, 0), True), ("compute_90", (8, 0), False), ("sm_90a", (9, 0), True), ("sm_100a", (10, 3), False),
        ("sm_120", (12, 0), True), ("sm_100", (12, 0), False),
    ],
)  # fmt: skip
def test_which_code_runs_where(arch, card, runs):
    assert gpus._runs(arch, card) is runs


def test_what_to_mind_of_a_card():
    assert states(judge(torch=FITS._replace(capabilities=((12, 0),)))) == [OK, FAIL]
    old = judge(torch=FITS._replace(capabilities=((7, 5),), arches=("sm_75",)))
    assert (old[1].state, old[1].mend) == (WARN, "--bf16 false --fp16 true")
    (_, used) = judge(H100._replace(used=60.0))
    assert used.state == WARN and used.told == "GPU 0: 60 of 80 GiB are in use by other programs"
    (_, mig) = judge(H100._replace(mig=True))
    assert mig.state == WARN and "MIG" in mig.told
    (hidden,) = judge(hidden=True)
    assert (hidden.state, hidden.mend) == (WARN, "unset CUDA_VISIBLE_DEVICES")


def test_a_machine_without_a_driver(tmp_path):
    cpu = Build("2.13.0", None, False)
    assert states(gpus.look([], None, cpu, False, False)) == [OK]
    (found,) = gpus.look([], None, cpu, False, True)
    assert found.state == WARN and "docker run --gpus all" in found.mend
    for number, (vendor, kind) in enumerate(
        [("0x10de", "0x040300"), ("0x8086", "0x030000")]
    ):  # its sound; another's card
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "vendor").write_text(vendor + "\n")
        (tmp_path / str(number) / "class").write_text(kind + "\n")
    assert not gpus.on_the_bus(tmp_path)
    (tmp_path / "1" / "vendor").write_text("0x10de\n")
    assert gpus.on_the_bus(tmp_path) and not gpus.on_the_bus(tmp_path / "none")


def test_the_rate_says_which_precision_follows(monkeypatch):
    import torch

    monkeypatch.setattr(gpus.device, "measure", lambda: gpus.device.Rates(100.0, 300.0))
    assert gpus.rate(torch).told == "bf16 from 20 M parameters up, fp32 below: 300 GFLOP/s a core in bf16, 100 in fp32"
    monkeypatch.setattr(gpus.device, "measure", lambda: gpus.device.Rates(100.0, 120.0))
    assert gpus.rate(torch).told.startswith("fp32 from 20 M")


# ---------------------------------------------------------------------------------------------------------- resources


@pytest.mark.parametrize(
    ("omp", "most", "state", "mend"),
    [
        (None, "max 100000", OK, ""),
        ("8", "max 100000", OK, ""),
        ("1", "max 100000", WARN, "unset OMP_NUM_THREADS"),
        ("64", "max 100000", WARN, "export OMP_NUM_THREADS=8"),
        (None, "250000 100000", WARN, "export OMP_NUM_THREADS=2"),
        ("2", "250000 100000", OK, ""),  # not 1, but below 2.5
    ],
)
def test_threads_of_eight_cores(tmp_path, omp, most, state, mend):
    (tmp_path / "cpu.max").write_text(most + "\n")
    (found,) = resources.threads({} if omp is None else {"OMP_NUM_THREADS": omp}, 8, tmp_path)
    assert (found.state, found.mend) == (state, mend)


def test_memory_of_a_container(tmp_path):
    assert states(resources.memory(64 * GIB, 32 * GIB, tmp_path)) == [OK]
    (tmp_path / "memory.max").write_text(f"{8 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{5 * GIB}\n")
    (found,) = resources.memory(64 * GIB, 32 * GIB, tmp_path)
    assert found.state == WARN and found.told.startswith("3.0 of 8.0 GiB free")
    (tmp_path / "memory.max").write_text("max\n")
    assert states(resources.memory(64 * GIB, 32 * GIB, tmp_path)) == [OK]


@pytest.mark.parametrize(("free", "state"), [(GIB - 1, FAIL), (9 * GIB, WARN), (11 * GIB, OK)])
def test_disk(monkeypatch, tmp_path, free, state):
    monkeypatch.setattr(
        resources.shutil, "disk_usage", lambda _: os.statvfs and type("U", (), {"free": free, "total": free})
    )
    found = resources.disk(tmp_path / "runs" / "not" / "there", tmp_path / "cache")
    assert states(found) == [state, state]
    assert [one.mend for one in found] == (
        ["", ""] if state == OK else ["--output_dir on another disk", "export HF_HOME=/a/disk/with/room"]
    )


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(resources.os, "access", lambda place, _: place != tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    _, cache = resources.disk(tmp_path, tmp_path / "cache")
    assert (cache.state, cache.mend) == (FAIL, "export HF_HOME=/a/disk/with/room")


def test_where_the_cache_is():
    assert resources.home({"HF_HOME": "/a"}) == Path("/a")
    assert resources.home({"XDG_CACHE_HOME": "/b"}) == Path("/b/huggingface")
    assert resources.home({}) == Path("~/.cache/huggingface").expanduser()


def test_dockers_shared_memory(monkeypatch, tmp_path):
    for size, state in ((64 << 20, [WARN]), (2 * GIB, [OK])):
        monkeypatch.setattr(resources.shutil, "disk_usage", lambda _, size=size: type("U", (), {"total": size}))
        found = resources.shared(tmp_path)
        assert states(found) == state and ("--shm-size" in found[0].mend) == (state == [WARN])
    assert resources.shared(tmp_path / "none") == []


def program(folder: Path, name: str, says: str = "") -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\necho '{says}'\n")
    (folder / name).chmod(stat.S_IRWXU)


@pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux")
def test_the_compiler(monkeypatch, tmp_path):
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(resources.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(resources.sys, "executable", str(tmp_path / "venv" / "python"))
    tools, where = tmp_path / "tools", {"PATH": str(tmp_path / "tools"), "CUDA_HOME": str(tmp_path / "cuda")}
    (found,) = resources.compiler(where, None)
    assert found.state == WARN and found.mend == "apt-get install -y g++ && pip install ninja"
    program(tools, "g++")
    program(tmp_path / "venv", "ninja")
    (found,) = resources.compiler(where, None)
    assert found.mend == f"export PATH={tmp_path / 'venv'}:$PATH", "it is installed, and cannot be found"
    program(tools, "ninja")
    assert states(resources.compiler(where, None)) == [OK]
    (found,) = resources.compiler(where, "13.0")
    assert found.state == WARN and "no nvcc" in found.told
    (tmp_path / "cuda").mkdir()
    program(tmp_path / "cuda/bin", "nvcc", "Cuda compilation tools, release 12.4, V12.4.131")
    (found,) = resources.compiler(where, "13.0")
    assert found.state == WARN and "nvcc is of CUDA 12.4, torch of 13.0" in found.told
    assert states(resources.compiler(where, "12.6")) == [OK]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("distributed_type: MULTI_CPU\nnum_processes: 2\n", 1),
        ("distributed_type: DEEPSPEED\ndeepspeed_config:\n  deepspeed_config_file: ds.json\n", 1),
        ("dynamo_config:\n  dynamo_backend: INDUCTOR\n", 1),
        ("distributed_type: MULTI_GPU\ndynamo_config: {}\n", 0),
        ("- not\n- a mapping\n", 0),
        (": [", 0),
    ],
)
def test_what_the_launcher_reads_unasked(tmp_path, text, count):
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate/default_config.yaml").write_text(text)
    assert len(resources.launcher({"HF_HOME": str(tmp_path)})) == count
    assert resources.launcher({"HF_HOME": str(tmp_path / "none")}) == []


def test_variables_that_hinder():
    found = resources.environment_of({"TRANSFORMERS_CACHE": "/x", "CUDA_LAUNCH_BLOCKING": "1"})
    assert [one.mend for one in found] == [
        "export HF_HOME=$TRANSFORMERS_CACHE; unset TRANSFORMERS_CACHE", "unset CUDA_LAUNCH_BLOCKING",
    ]  # fmt: skip
    assert resources.environment_of({"HF_HOME": "/x"}) == []


# ------------------------------------------------------------------------------------------------------------ the hub


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_nobody_is_asked(monkeypatch, name):
    monkeypatch.setattr(network, "_fault", lambda _: pytest.fail("asked"))
    found = network.ask({name: "1"})()
    assert found.state == OK and name in found.told


def test_any_answer_is_one(serve):
    server = serve(lambda *_: (503, {}))
    assert network.ask({"HF_ENDPOINT": server.url.rsplit("/v1", 1)[0]})().state == OK


def test_a_hub_that_refuses_or_says_nothing(monkeypatch):
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = network.ask({"HF_ENDPOINT": address})()
        assert found.state == WARN and "refused" in found.told and "HF_HUB_OFFLINE=1" in found.mend
        silent.listen()
        monkeypatch.setattr(network, "SECONDS", 0.2)
        begun = time.perf_counter()
        found = network.ask({"HF_ENDPOINT": address})()
        assert found.state == WARN and time.perf_counter() - begun < 1
    assert network.ask({"HF_ENDPOINT": "no address"})().state == WARN
