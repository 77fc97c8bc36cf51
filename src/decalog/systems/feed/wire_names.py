"""Ids of what Gorse's clients name, each a function of the name, so that a lookup is one of the log's index.

`item/<id>`, `hidden/<id>`, `user/<digest>`, `feedback/<digest of the user>/<digest of the item>/<type>` and
`slate/<digest of the user>/<µs><random>`. Users stand in them as keyed digests: their own ids lie sealed.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from decalog.crypto import digest

_PLAIN_LENGTH = 96
_DIGITS = 16


class Doing(NamedTuple):
    """The key of a feedback: who did what with which item."""

    user: str
    item: str
    type: str


class Names:
    """Ids under a secret of the deployment.

    Args:
        secret: without it nobody tells whose a digest is.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def item(self, item: str) -> str:
        """Returns the id of an item's record."""
        return f"item/{item if len(item) <= _PLAIN_LENGTH else '/' + self._digest('item', item)}"

    def hidden(self, item: str) -> str:
        """Returns the id of the verdict that hides an item."""
        return f"hidden/{self.item(item)}"

    def user(self, user: str) -> str:
        """Returns the id of a user's record."""
        return f"user/{self._digest('user', user)}"

    def feedback(self, doing: Doing) -> str:
        """Returns the id of a feedback."""
        return f"{self.feedback_between(doing.user, doing.item)}{doing.type}"

    def feedback_between(self, user: str, item: str = "") -> str:
        """Returns what the ids of a user's feedback begin with: all of it, or that on an item."""
        return f"feedback/{self._digest('user', user)}/" + (f"{self.item_mark(item)}/" if item else "")

    def item_mark(self, item: str) -> str:
        """Returns what stands for an item in the ids of feedback."""
        return self._digest("item", item)

    def slates(self, user: str) -> str:
        """Returns what the ids of a user's slates begin with; "" is a session, which is nobody's."""
        return f"slate/{self._digest('user', user) if user else 'session'}/"

    def new_slate(self, user: str, at_us: int) -> str:
        """Returns an id for what is about to be decided for a user."""
        return f"{self.slates(user)}{self.moment(at_us)}{os.urandom(4).hex()}"

    def moment(self, at_us: int) -> str:
        """Returns a time as it stands in the ids of slates, which are in its order."""
        return f"{max(at_us, 0):0{_DIGITS}}"

    def _digest(self, kind: str, value: str) -> str:
        return digest(self._secret, kind.encode(), value.encode(), size=12).hex()
