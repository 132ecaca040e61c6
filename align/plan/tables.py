"""A plan as people read it, and as scripts do."""

from __future__ import annotations

from typing import Any

from align.follow.tree import duration
from align.plan.forecast import Forecast
from align.plan.machines import SPARE
from align.plan.moves import Proposal
from align.plan.work import Workload

UNTESTED = (
    "Figures for GPUs are formulas that no GPU has tested but in one run on one H100: take them for a first idea."
)


def size(count: float) -> str:
    """Bytes as people say them."""
    gib = count / 2**30
    return f"{count / 2**20:,.0f} MiB" if gib < 1 else f"{gib:,.1f} GiB" if gib < 100 else f"{gib:,.0f} GiB"


def number(count: float) -> str:
    """So many weights or tokens."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f}"


def text(plan: Forecast, work: Workload, changes: list[Proposal]) -> str:
    """The page for a terminal."""
    parts = [_head(plan), _table(plan), _fit(plan, changes), _work(work)]
    job = plan.found.job
    if job.shape.unknown:
        parts.append(f"not known: {job.shape.unknown}")
    if plan.machine.gpu:
        parts.append(UNTESTED)
    return "\n\n".join(parts)


def _head(plan: Forecast) -> str:
    job, found = plan.found.job, plan.found
    shape = job.shape
    how = "weights only read" if not job.learns else "all weights trained" if job.whole else (
        f"LoRA, {number(job.trained)} numbers trained")  # fmt: skip
    precision = "bf16 products, fp32 weights" if job.autocast else "bf16" if job.held == 2 else (
        "4 or 8 bits" if job.held < 2 else "fp32")  # fmt: skip
    lines = [f"{found.stage} on {plan.machine.name} ({size(plan.machine.memory)})"]
    if plan.launch.processes > 1 or plan.launch.sharding != "single":
        lines.append(f"  processes  {plan.launch.processes} ({plan.launch.sharding}); figures are of one of them")
    layout = f"{shape.layers} layers of {shape.hidden}, vocabulary {shape.vocabulary:,}"
    lines.append(f"  model      {shape.family}, {number(shape.parameters)} weights: {layout}; {how}")
    again = "; layers computed again backward (checkpointing)" if job.again else ""
    lines.append(f"  precision  {precision}{again}")
    if job.learns:
        pieces = f", {job.pieces} pieces a step" if job.pieces > 1 else ""
        lines.append(f"  at once    up to {job.tokens:,} tokens in {job.rows} rows{pieces}")
    if job.asked:
        asked = job.asked
        lines.append(
            f"  sampled    {asked.rows:,} completions at once, of up to {asked.prompt:,} + {asked.answer:,} tokens"
        )
    lines.append(f"  rows       {found.lengths.said}")
    return "\n".join([*lines, *(f"  {note}" for note in plan.notes)])


def _table(plan: Forecast) -> str:
    """All phases, and what is there in the peak."""
    top = plan.peak
    wide = max(len(phase.name) for phase in plan.phases)
    lines = ["what each phase needs"]
    for phase in plan.phases:
        lines.append(f"  {phase.name:<{wide}}  {size(phase.total):>10}{'  <- the peak' if phase is top else ''}")
    lines += ["", f"in the peak ({top.name})"]
    names = [f"{line.role}: {line.kind}" if line.kind else line.role for line in top.lines]
    wide = max(map(len, names))
    lines += [f"  {name:<{wide}}  {size(line.size):>10}" for name, line in zip(names, top.lines, strict=True)]
    return "\n".join([*lines, f"  {'in all':<{wide}}  {size(top.total):>10}"])


def _fit(plan: Forecast, changes: list[Proposal]) -> str:
    room = plan.machine.room(plan.launch.processes)
    share = f"of {size(room)} ({SPARE:.0%} of the memory is left to other things)"
    holes = ""
    if plan.most > plan.peak.total:
        less = "" if plan.most <= plan.machine.room(plan.launch.processes) else ", which is more than there is"
        holes = f"\nHoles in the C library's heap come on top: with the most that was seen, {size(plan.most)}{less}."
    if plan.fits:
        return f"It fits: {size(plan.peak.total)} {share}.{holes}"
    lines = [f"It does not fit: {size(plan.peak.total)} {share}."]
    if not changes:
        return "\n".join([*lines, "No change of its flags that is known here makes it fit."])
    lines.append("Any of these makes it fit:" if len(changes) > 1 else "This makes it fit:")
    for one in changes:
        lines.append(f"  {' '.join(one.flags)}\n      {size(one.peak)}; {one.cost}")
    return "\n".join(lines)


def _work(work: Workload) -> str:
    steps = f"{work.steps:,} {work.unit}" if work.steps else f"the number of {work.unit} is not known without the rows"
    tokens = f", {number(work.tokens)} tokens" if work.tokens else ""
    if work.seconds and work.rate:
        time = f"{duration(work.seconds)}, at the {work.rate:,.0f} tokens/s of {work.source}"
    else:
        time = "not known: no finished run like it was found on this machine"
    return f"work: {steps}{tokens}\ntime: {time}"


def as_dict(plan: Forecast, work: Workload, changes: list[Proposal]) -> dict[str, Any]:
    """The same in bytes, tokens and seconds."""
    job = plan.found.job
    return {
        "stage": plan.found.stage, "device": plan.machine.name, "gpu": plan.machine.gpu,
        "processes": plan.launch.processes, "sharding": plan.launch.sharding, "parameters": job.shape.parameters,
        "trained": job.trained, "rows": plan.found.lengths.said,
        "phases": [
            {"name": phase.name, "bytes": round(phase.total),
             "lines": [dict(role=line.role, kind=line.kind, bytes=round(line.size)) for line in phase.lines]}
            for phase in plan.phases
        ],
        "peak": {"phase": plan.peak.name, "bytes": round(plan.peak.total)}, "with_holes": round(plan.most),
        "room": round(plan.machine.room(plan.launch.processes)), "fits": plan.fits,
        "changes": [dict(flags=list(one.flags), cost=one.cost, bytes=round(one.peak)) for one in changes],
        "steps": work.steps, "unit": work.unit, "tokens": work.tokens, "seconds": work.seconds,
        "not_known": job.shape.unknown or None, "tested": not plan.machine.gpu,
    }  # fmt: skip
