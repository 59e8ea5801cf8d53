"""What the server remembers of those who label right now: what they skipped, what they can take back, which question is before whom.

Answers are not kept here: they are stored as they are given.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from core.clock import Clock
from storage.labelling import Given, Source

CLAIM_SECONDS = 120.0
"""For so long a question that one labeller looks at is not shown to another."""
_UNDO_DEPTH = 200


@dataclass(frozen=True, slots=True)
class Skip:
    """A question that was passed over."""

    question_id: str
    source: Source = Source.FRESH


@dataclass(slots=True)
class Sitting:
    """One labeller. ``done``: what can be taken back, newest last.

    ``undone``: if taking back was the last that was done, the question that was shown before it, and what is shown since.
    """

    skipped: set[str] = field(default_factory=set)
    done: deque[Given | Skip] = field(default_factory=lambda: deque(maxlen=_UNDO_DEPTH))
    undone: tuple[str, Skip] | None = None

    def skip(self, skip: Skip) -> None:
        """Remember a skip, once also where it was sent twice."""
        self.undone = None
        if skip.question_id not in self.skipped:
            self.skipped.add(skip.question_id)
            self.done.append(skip)

    @property
    def newest(self) -> Given | Skip | None:
        """What would be taken back."""
        return self.done[-1] if self.done else None

    def gave(self, given: Given) -> None:
        """Remember an answer, once also where it was sent twice."""
        self.undone = None
        new = (given.label.id, given.label.question_id)
        if not any(isinstance(action, Given) and (action.label.id, action.label.question_id) == new for action in self.done):
            self.done.append(given)

    def forget(self, action: Given | Skip) -> None:
        """It was taken back."""
        if action in self.done:
            self.done.remove(action)
        if isinstance(action, Skip):
            self.skipped.discard(action.question_id)

    def show_skipped_again(self) -> None:
        self.undone = None
        self.skipped.clear()
        self.done = deque((action for action in self.done if isinstance(action, Given)), maxlen=_UNDO_DEPTH)


class Sittings:
    """All labellers of one server, by name."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sittings: dict[str, Sitting] = {}
        self._claims: dict[str, tuple[str, float]] = {}

    def of(self, labeller: str) -> Sitting:
        return self._sittings.setdefault(labeller, Sitting())

    def claim(self, labeller: str, question_id: str | None) -> None:
        """``labeller`` looks at this question and at no other (None: at none)."""
        ends = self._clock.monotonic() + CLAIM_SECONDS
        self._claims = {claimed: (name, until) for claimed, (name, until) in self._claims.items() if name != labeller and until > self._clock.monotonic()}
        if question_id is not None:
            self._claims[question_id] = (labeller, ends)

    def before_others(self, labeller: str) -> set[str]:
        """Questions that others look at."""
        now = self._clock.monotonic()
        return {claimed for claimed, (name, until) in self._claims.items() if name != labeller and until > now}
