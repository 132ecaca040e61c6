"""A run before it begins: what it needs in each phase, and where it is to be."""

from __future__ import annotations

from dataclasses import dataclass

from align.plan import machines
from align.plan.configured import Configured, Launch
from align.plan.machines import Machine
from align.plan.memory import phases
from align.plan.memory.phases import Phase


@dataclass
class Forecast:
    """A run before it begins."""

    found: Configured
    machine: Machine
    launch: Launch
    phases: list[Phase]
    notes: list[str]

    @property
    def peak(self) -> Phase:
        """The phase that needs the most."""
        return phases.peak(self.phases)

    @property
    def most(self) -> float:
        """Bytes of the peak with the most holes that a CPU's heap was seen to have; of a GPU's the peak."""
        holes = 0.0 if self.machine.gpu else machines.HOLES
        return self.peak.total * (1 + holes)

    @property
    def fits(self) -> bool:
        """Is there room for it, with some to spare?"""
        return self.peak.total <= self.machine.room(self.launch.processes)
