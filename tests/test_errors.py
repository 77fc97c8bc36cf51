"""The tree of errors and the four parts of a message."""

from __future__ import annotations

import pytest

from decalog import errors
from decalog.errors import CorruptLogError, DecalogError, near


def leaves() -> list[type[DecalogError]]:
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, DecalogError)]
    return [kind for kind in found if kind is not DecalogError]


@pytest.mark.parametrize("kind", leaves())
def test_every_error_is_ours_and_a_builtin_and_drawn_in_the_tree(kind: type[DecalogError]) -> None:
    builtins = [base for base in kind.__mro__ if base.__module__ == "builtins"]
    assert builtins[0] is not Exception
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize("kind", [DecalogError, *leaves()])
def test_a_message_has_four_parts(kind: type[DecalogError]) -> None:
    error = kind(where="row 7, amount", given="-5", expected="0 or more", fix="Mend the row.")
    assert str(error) == "row 7, amount: -5. Expected 0 or more. Mend the row."
    assert (error.where, error.given, error.expected, error.fix) == (
        "row 7, amount",
        "-5",
        "0 or more",
        "Mend the row.",
    )


def test_errors_are_caught_as_the_builtin_too() -> None:
    with pytest.raises(OSError, match="row 7"):
        raise CorruptLogError(where="row 7", given="a", expected="b", fix="c")


def test_near_leads_with_the_closest_match_and_cuts_long_lists() -> None:
    assert near("amuont", ["card", "amount"]) == "'amount' (closest match), or one of: amount, card"
    assert near("zzz", ["b", "a"]) == "one of: a, b"
    assert near("zzz", [f"{n:02d}" for n in range(30)]).endswith("22, 23 and 6 more")
    assert near("x", []) == "one of: "


def test_near_compares_no_more_than_a_name_can_be_long() -> None:
    """Compared whole, what a caller sends in the place of a name would cost seconds and gigabytes."""
    assert near("amount" + "t" * 50_000_000, ["card", "amount" + "t" * 58]).startswith("'amountt")
