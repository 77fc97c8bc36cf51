"""What demand's log tells of other orders: what was wanted belongs to the day, whatever lay on the shelf."""

from __future__ import annotations

from decalog.whatif_quantities import Counted

WHATIF = Counted(
    assumes=(
        "those who found nothing took something else as often as the parameters declare",
        "what is left spoils as later days' usual demand has it",
    )
)
