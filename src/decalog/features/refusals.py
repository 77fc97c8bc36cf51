"""The engine's refusals, said in the same words by every engine."""

from __future__ import annotations

from decalog.errors import DataError


def inadmissible(time: int, watermark: int, *, lateness: str) -> DataError:
    """Returns the error of a point that is too late to be answered exactly (DESIGN §3a rule 7)."""
    return DataError(
        where="features at a point",
        given=f"a time {watermark - time} µs before the watermark",
        expected=f"at most the declared lateness of {lateness}",
        fix="Answer with the declared fallback; if such requests are normal, declare a longer lateness.",
    )


def out_of_order(seq: int, last: int) -> DataError:
    """Returns the error of a log that goes backwards."""
    return DataError(
        where=f"change {seq}",
        given=f"a seq below {last}, which came before it",
        expected="changes in the order of seq",
        fix="Read the partition in its order.",
    )


def out_of_turn(seq: int) -> DataError:
    """Returns the error of a record that withdraws after it added: where the oldest rows go, that is another state."""
    return DataError(
        where=f"change {seq}",
        given="a withdrawal behind an addition of the same record",
        expected="the withdrawals of a record first",
        fix="List them as decalog.folding.changes_of does.",
    )


def missing_row(seq: int, root: int, *, entity: str) -> DataError:
    """Returns the error of a withdrawal that finds nothing."""
    return DataError(
        where=f"change {seq}, entity {entity!r}",
        given=f"the withdrawal of root {root}, which is not live",
        expected="a before-image that was added earlier and not withdrawn since",
        fix="Run `decalog verify`, then rebuild the state from the log.",
    )


def row_twice(seq: int, root: int, *, entity: str) -> DataError:
    """Returns the error of a row that is added while it is live."""
    return DataError(
        where=f"change {seq}, entity {entity!r}",
        given=f"a second image of root {root} at the same time",
        expected="at most one live image of a row",
        fix="Withdraw the old image in the same change (minus), or drop the duplicate before the log.",
    )
