"""Whether creators get the attention that their posts earn: exposure against merit, by group and over all authors.

A slot at position k (0 is the first) is worth 1 / log₂(k + 2) of the first one's attention, as in DCG. A group's share
of exposure is set against its share of merit, the value that its posts were expected to have before anything boosted
or damped them (Singh and Joachims, "Fairness of exposure in rankings", KDD 2018): 1 is fair by merit, below 1 a group
gets less attention than it earns.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from decalog.decisions import Decision
from decalog.slate_metrics import gini
from decalog.systems.feed.policy import FeedPolicy
from decalog.systems.feed.slate.competitors import Competitors

NEW, SMALL, ESTABLISHED = "new", "small", "established"
SMALL_FOLLOWERS = 1_000
_NEW_AGE_S = 7 * 86_400


class Share(msgspec.Struct, frozen=True):
    """What a group of authors gets and earns.

    Args:
        group: its name.
        authors: that competed.
        exposure: its share of all exposure, in [0, 1].
        merit: its share of all merit, in [0, 1].
    """

    group: str
    authors: int
    exposure: float
    merit: float

    @property
    def ratio(self) -> float:
        """Exposure for merit: 1 is fair by merit; 0 where it earned nothing."""
        return self.exposure / self.merit if self.merit else 0.0


class Exposure(msgspec.Struct, frozen=True):
    """How attention was spread over some slates.

    Args:
        groups: new, small and established authors.
        gini: of exposure over the authors that competed: 0 if all had the same, towards 1 if few had all.
    """

    groups: tuple[Share, ...]
    gini: float

    def text(self) -> str:
        """Returns it for people, a group a line."""
        rows = [("authors", "how many", "exposure", "merit", "exposure / merit")]
        rows += [
            (s.group, f"{s.authors:,}", f"{s.exposure:.1%}", f"{s.merit:.1%}", f"{s.ratio:.2f}") for s in self.groups
        ]
        lines = ["  ".join(cell.rjust(max(len(rows[0][place]), 11)) for place, cell in enumerate(row)) for row in rows]
        return "\n".join([*lines, f"Gini over authors: {self.gini:.2f}"])


def exposure(decisions: Sequence[Decision], policy: FeedPolicy) -> Exposure:
    """Returns how the slots of some decisions were spread over the authors that competed for them.

    Args:
        decisions: with predictions; posts without an author's name are left out.
        policy: whose weights say what a post is worth.
    """
    attention, merit, groups = dict[str, float](), dict[str, float](), dict[str, str]()
    for decision in decisions:
        posts = Competitors.of(decision.candidates)
        values = np.maximum(policy.weighed(posts, {}).value, 0).tolist() if posts.refs else []
        at = {slot.ref: float(discount(slot.position)) for slot in decision.choice.slots}
        for post, value in zip(posts.candidates.some(range(len(posts.refs))), values, strict=True):
            author = str(post.attributes.get("author") or "")
            if author:
                attention[author] = attention.get(author, 0.0) + at.get(post.ref, 0.0)
                merit[author] = merit.get(author, 0.0) + value
                groups[author] = group_of(post.attributes)
    shares = [_share(name, groups, attention, merit) for name in (NEW, SMALL, ESTABLISHED)]
    spread = np.array(list(attention.values()))
    return Exposure(tuple(shares), gini(spread) if float(np.sum(spread)) > 0 else 0.0)


def discount(position: int) -> float:
    """Returns the attention at a position for that at the first.

    >>> discount(0), discount(2)
    (1.0, 0.5)
    """
    return float(1.0 / np.log2(position + 2.0))


def group_of(attributes: dict[str, int | float | str | bool]) -> str:
    """Returns the group of a post's author: new for a week, small below 1,000 followers."""
    if float(attributes.get("author_age_s", _NEW_AGE_S)) < _NEW_AGE_S:
        return NEW
    return SMALL if float(attributes.get("author_followers", 0)) < SMALL_FOLLOWERS else ESTABLISHED


def _share(name: str, groups: dict[str, str], attention: dict[str, float], merit: dict[str, float]) -> Share:
    mine = [author for author, group in groups.items() if group == name]
    parts = [
        sum(amounts[author] for author in mine) / whole if (whole := sum(amounts.values())) else 0.0
        for amounts in (attention, merit)
    ]
    return Share(name, len(mine), *parts)
