"""A challenger's share of the decisions: whose requests it decides, as the log's table `rollout` says.

Each step of a rollout is a version of that table: a record like any other, with what it rests on, and who took it stands
in the table `changes`. Whom the challenger decides for is a hash of the person and of the rollout's name, so the same
people stay in its arm, more join them as the share grows, and no rollout has the people of the one before.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from decalog.events import Event

TABLE = "rollout"
TRIED = "policy_tried"
"""The table of a challenger's policy parameters, where they are not those in force: replay finds them there."""
CHAMPION, CHALLENGER = "champion", "challenger"
_WHOLE = 10_000

Stage = Literal["shadow", "canary", "champion", "stopped"]
Share = Annotated[int, Meta(ge=0, le=_WHOLE)]


class Rollout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of a rollout.

    Args:
        name: of the rollout; one name, one division of the people.
        stage: `shadow` decides nothing, `canary` a share, `champion` and `stopped` are ends.
        model: the challenger's, by its id or the first 12 digits; "" for the champion's own.
        policy: the challenger's parameters, whole; None for those in force.
        share_bp: of the people whose requests the challenger decides, hundredths of a percent.
        why: the step was taken.
        evidence: that it rests on, as measured.
    """

    name: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_.-]{0,63}$")]
    stage: Stage
    model: str = ""
    policy: dict[str, Any] | None = None
    share_bp: Share = 0
    why: Annotated[str, Meta(max_length=1_000)] = ""
    evidence: dict[str, Any] = {}

    @property
    def is_live(self) -> bool:
        """Whether the challenger decides anything."""
        return self.stage == "canary" and self.share_bp > 0

    @property
    def told(self) -> str:
        """The step in words."""
        return f"{self.name}: {self.stage}, {self.model[:12] or 'other parameters'} decides {self.share_bp / 100:g} %"

    def arm(self, event: Event) -> str:
        """Returns by which arm a request is decided; one that is about nobody is a person of its own.

        >>> canary = Rollout(name="r1", stage="canary", model="3f", share_bp=5_000)
        >>> [canary.arm(Event("q", "payment", 0, person, {}, {})) for person in range(1, 6)]
        ['champion', 'challenger', 'challenger', 'champion', 'challenger']
        """
        whose = event.subject.to_bytes(8, "big", signed=True) if event.subject else event.id.encode()
        drawn = int.from_bytes(blake2b(whose, digest_size=8, key=self.name.encode()).digest(), "big")
        return CHALLENGER if drawn % _WHOLE < self.share_bp else CHAMPION

    def named(self, arm: str) -> str:
        """Returns the name of an arm as decisions have it."""
        return f"{self.name}/{arm}"
