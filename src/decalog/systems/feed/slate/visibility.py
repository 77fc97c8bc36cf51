"""The last word on who may see a post, whatever it is worth: from which slot on, and by which rule.

A rule that ran after the slots were filled would leave gaps, and a drawn post might fall out of a slot whose propensity
is logged. So the loop that fills them asks for it at each slot; it has the same effect and refills by itself.
"""

from __future__ import annotations

import msgspec
import numpy as np

from decalog.decisions import GuardrailVerdict
from decalog.features.kernel import Int64s
from decalog.systems.feed.slate.competitors import LIMITED, SENSITIVE, Competitors
from decalog.systems.feed.slate.kernel import NEVER, Filled

MOST_VERDICTS = 10
"""Of a decision: the first posts, in the order of their slots, that a rule kept from one."""


class Visibility(msgspec.Struct, frozen=True):
    """Where each post may stand.

    Args:
        first: shape (posts,), the first slot that it may have; NEVER for none.
        rules: post → name of the rule that says so, and why; the posts that may stand anywhere are not there.
    """

    first: Int64s
    rules: dict[int, tuple[str, str]]

    def verdicts(self, posts: Competitors, found: Filled) -> tuple[GuardrailVerdict, ...]:
        """Returns what the rules took out of a slate or moved down, each post once, and what came in its place.

        Args:
            posts: that competed.
            found: the slate, scores kept.
        """
        barred = sorted(found.barred().items(), key=lambda item: item[1])[:MOST_VERDICTS]
        return tuple(
            GuardrailVerdict(
                self.rules[post][0],
                posts.refs[post],
                posts.refs[found.picks[slot]] if slot < len(found.picks) else "",
                f"slot {slot}: {self.rules[post][1]}",
            )
            for post, slot in barred
        )


class Rules(msgspec.Struct, frozen=True):
    """What a deployment asks.

    Args:
        is_adult: whether the reader is known to be one, from the request or, as retrieval has it, the profile.
        sensitive_from: first slot of a sensitive post.
        unspread: labels that make a post a limited one.
    """

    is_adult: bool
    sensitive_from: int
    unspread: frozenset[str]

    def of(self, integrity: object, labels: str, *, is_outside: bool) -> tuple[int, str, str]:
        """Returns the first slot that a post may have, the rule's name, and why; slot 0 where none rules it out."""
        if is_outside and (integrity == LIMITED or not self.unspread.isdisjoint(labels.split())):
            return NEVER, "limited_out_of_network", "limited posts are shown to their authors' followers alone"
        if integrity != SENSITIVE:
            return 0, "", ""
        if not self.is_adult:
            return NEVER, "sensitive_not_adult", "sensitive posts are not shown to readers not known to be adults"
        why = f"sensitive posts are shown from slot {self.sensitive_from} on"
        return self.sensitive_from, "sensitive_first_slots", why


def visibility(posts: Competitors, rules: Rules) -> Visibility:
    """Returns where each post may stand."""
    first, ruled = np.zeros(len(posts.refs), np.int64), dict[int, tuple[str, str]]()
    for place, (integrity, labels) in posts.marked("integrity", "labels"):
        first[place], name, why = rules.of(integrity, labels, is_outside=not posts.in_network[place])
        if first[place]:
            ruled[place] = (name, why)
    return Visibility(first, ruled)
