"""What feed's towers and neighbours learn from."""

from __future__ import annotations

import numpy as np
import pytest
from tests.models.tastes import crowd

from decalog.models import collaborative
from decalog.models.base import Acts
from decalog.systems.feed.models import NEAR, liked


def test_what_speaks_for_a_post_is_liked_and_what_takes_back_or_nobody_did_is_not() -> None:
    rows = (
        (7, "read", "dwell", 10.0),
        (7, "left", "dwell", 9.0),
        (8, "opened", "click", 1.0),
        (8, "taken back", "like", 0.0),
        (8, "hidden", "hide", 1.0),
        (-1, "of nobody", "share", 1.0),
        (8, "sent on", "share", 1.0),
    )
    users, refs, kinds, values = zip(*rows, strict=True)
    times = np.arange(len(rows))
    acts = Acts(times, times, np.array(users), refs, kinds, np.array(values), times)
    assert liked(acts) == [("7", "read"), ("8", "opened"), ("8", "sent on")]


@pytest.mark.parametrize(("fit", "settings"), NEAR)
def test_each_way_to_make_neighbours_can_be_kept(fit: object, settings: dict[str, float]) -> None:
    assert callable(fit)
    seen = crowd()
    near = collaborative.neighbours(fit(seen, **settings), seen.items)
    assert all(near.similar(item, 3) for item in seen.items)
