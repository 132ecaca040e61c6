"""`--push_to_hub`: whether it can be done is asked before training starts; the finished run is pushed with its card.

transformers' trainers would push on their own at every save, with a card that knows nothing and the record that names
this machine's paths. Here they are not told of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align.run.errors import RunError
from align.run.lineage import MODEL_FILES

PUSHED = (*MODEL_FILES, "*.safetensors.index.json", "README.md")
LEFT = ("*/*", "training_args.bin", "optimizer.bin", "scheduler.bin")  # checkpoints, bases; a trainer's own notes
SECONDS = 10  # that the hub may take to answer
IDLE = {
    "hub_strategy": "the finished run is pushed, and no checkpoint on the way",
    "hub_always_push": "the finished run is pushed, and no checkpoint on the way",
}
LOGIN = "push_to_hub needs an account: log in first (hf auth login), or leave it out and upload afterwards"


def problems(given: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """Why a run cannot be pushed, by what was given and by what the hub answers.

    Args:
        given: what the user set.
        values: the same over the recipe's defaults.
    """
    found = [f"{name}={given[name]}: {why}; leave it out" for name, why in IDLE.items()
             if given.get(name) not in (None, False, "end")]  # fmt: skip
    if not given.get("push_to_hub"):
        idle = [name for name in ("hub_model_id", "hub_private_repo", "hub_revision") if given.get(name) is not None]
        return [*found, *(f"{name}: nothing reads this without --push_to_hub" for name in idle)]
    parent = str(values.get("model_name_or_path") or "")
    if values.get("use_peft") and parent and Path(parent).is_dir():
        found.append(
            f"push_to_hub: an adapter of {parent} is of no use to others, who have not got that folder; train without "
            "--push_to_hub, then align merge-adapter and hf upload"
        )
    return found or _unreached()


def _unreached() -> list[str]:
    """Does the hub know who is asking?"""
    import httpx2
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if get_token() is None:
        return [LOGIN]
    if constants.HF_HUB_OFFLINE:
        return ["push_to_hub: HF_HUB_OFFLINE is set; unset it, or leave push_to_hub out and upload afterwards"]
    try:
        HfApi().whoami()
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx2.HTTPError, OSError, ValueError) as error:
        return [
            f"push_to_hub: the hub does not answer ({_first(error)}); leave it out and upload afterwards: hf upload"
        ]
    return []


def push(folder: Path, config: dict[str, Any]) -> str:
    """Push a finished run's model and card, as its configuration says; the address.

    Raises:
        RunError: with the command that tries again; the run is finished all the same.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api, name = HfApi(), str(config.get("hub_model_id") or folder.absolute().name)
    try:
        name = api.create_repo(name, private=config.get("hub_private_repo"), exist_ok=True).repo_id
        if revision := config.get("hub_revision"):
            api.create_branch(name, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=str(folder), allow_patterns=list(PUSHED), revision=revision,
            ignore_patterns=list(LEFT),
            commit_message="The model and its card",
        )  # fmt: skip
    except (
        HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, httpx2.HTTPError, OSError, ValueError,
    ) as error:  # fmt: skip
        include, left = (" ".join(f"'{pattern}'" for pattern in patterns) for patterns in (PUSHED, LEFT))
        raise RunError(
            f"the run in {folder} is finished, but could not be pushed to {name}: {_first(error)}. Try again: "
            f"hf upload {name} {folder} . --include {include} --exclude {left}"
        ) from error
    return f"https://huggingface.co/{name}"


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
