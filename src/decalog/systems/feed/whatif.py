"""What feed's log tells of another ranking: the slots that were drawn from logged pools."""

from __future__ import annotations

from decalog.systems.feed.slate.exploration import slot_propensities
from decalog.whatif_slots import Slots

WHATIF = Slots(slot_propensities)
