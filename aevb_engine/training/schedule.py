"""Learning rates over the steps: ``constant``, ``linear[:PART]``, ``exponential:RATE[:EVERY]``,
``steps:AT,AT,...[:FACTOR]``."""

from __future__ import annotations

from dataclasses import dataclass

from aevb_engine.errors import UsageError, suggest

CONSTANT = "constant"


@dataclass(frozen=True)
class Schedule:
    """A factor on the learning rate as a function of the step (counted from 1)."""

    kind: str = CONSTANT
    factor: float = 1.0
    every: float = 1.0
    at: tuple[int, ...] = ()
    first: int = 0  # step after which a schedule over the length of the training begins
    total: int = 0  # its last step

    @property
    def steady(self) -> float:
        """The part of the training before rates that depend on its length begin to fall."""
        return 1.0 - self.factor if self.kind == "linear" else 1.0

    @property
    def of_length(self) -> bool:
        """Whether rates depend on how long the training is: a longer one has others from early on."""
        return self.kind == "linear"

    def __call__(self, step: int) -> float:
        if self.kind == "exponential":
            return float(self.factor ** ((step - 1) / self.every))
        if self.kind == "steps":
            return float(self.factor ** sum(step > s for s in self.at))
        if self.kind == "linear":
            falling = self.factor * (self.total - self.first)
            return min(1.0, max(0.0, self.total - step + 1) / falling) if falling > 0 else 1.0
        return 1.0


def parse_schedule(text: str, total: int = 0, first: int = 0) -> Schedule:
    """``constant``; ``linear:0.5``: straight down to zero over the last half of the steps ``first`` + 1 to ``total``;
    ``exponential:0.5:1000``: half every 1000 steps; ``steps:5000,8000:0.1``: a tenth from there on."""
    kind, *fields = text.split(":")
    try:
        if kind == "constant" and not fields:
            return Schedule()
        if kind == "linear" and len(fields) in (0, 1):
            part = float(fields[0]) if fields else 1.0
            return _checked(Schedule(kind, part, first=first, total=total), text)
        if kind == "exponential" and len(fields) in (1, 2):
            every = float(fields[1]) if len(fields) == 2 else 1.0
            return _checked(Schedule(kind, float(fields[0]), every), text)
        if kind == "steps" and len(fields) in (1, 2):
            factor = float(fields[1]) if len(fields) == 2 else 0.1
            at = tuple(int(s) for s in fields[0].split(","))
            if list(at) != sorted(set(at)) or at[0] < 1:
                raise ValueError
            return _checked(Schedule(kind, factor, at=at), text)
    except ValueError:
        pass
    known = ("constant", "linear", "exponential", "steps")
    forms = "write constant, linear:0.5, exponential:0.5:1000 or steps:5000,8000:0.1"
    hint = suggest(kind, known) if kind not in known else forms
    raise UsageError(f"--lr-schedule {text}: {hint}")


def _checked(schedule: Schedule, text: str) -> Schedule:
    if not 0 < schedule.factor <= 1 or not 0 < schedule.every < float("inf"):
        raise UsageError(f"--lr-schedule {text}: the factor must be in (0, 1] and the interval positive")
    return schedule
