"""Rings: accounts that hang together through the devices they share, found offline over the payments of late.

A family shares a device, a library shares one with a town, and a ring shares a few with many accounts that have little
else in common. Components of the graph accounts–devices are found by SciPy (`scipy.sparse.csgraph`); a device that more
accounts use than a ring would is no link at all, or all of a town would be one component.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from decalog.examples import NO_ENTITY, Examples, Int64s

TABLE = "device_rings"
"""The lookup table by device that `table_of` makes: how many accounts its ring has."""


class RingParams(msgspec.Struct, frozen=True, kw_only=True):
    """What counts as a ring.

    Args:
        days: of payments that are looked at, up to the last.
        least_accounts: fewer are a household.
        most_accounts_a_device: a device that more accounts use is a place (a library, a carrier's gateway), no link.
    """

    days: int = 30
    least_accounts: int = 4
    most_accounts_a_device: int = 50


class Ring(msgspec.Struct, frozen=True, kw_only=True):
    """Accounts that share devices; `devices` and `accounts` are tokens.

    Args:
        payments: of these accounts on these devices; amounts in minor units of the base currency, together.
        labelled, frauds: how many of those payments have a label, and how many of these are frauds.
    """

    accounts: tuple[int, ...]
    devices: tuple[int, ...]
    payments: int
    amount_minor: int
    labelled: int
    frauds: int

    def text(self) -> str:
        """Returns it in words."""
        said = f"{self.frauds} of {self.labelled} labelled payments are frauds"
        return (
            f"{len(self.accounts)} accounts on {len(self.devices)} devices, {self.payments} payments, "
            f"{self.amount_minor:,} minor units; {said}"
        )


def find_rings(payments: Examples, params: RingParams | None = None) -> list[Ring]:
    """Returns the rings among payments, the one with the most accounts first.

    Args:
        payments: in order of time, labels as known.
        params: what counts as a ring.
    """
    chosen = params or RingParams()
    device, account = payments.entities["device"], payments.entities["customer"]
    since = (int(payments.times[-1]) if payments.n else 0) - chosen.days * 86_400_000_000
    rows = np.flatnonzero((device != NO_ENTITY) & (account != NO_ENTITY) & (payments.times > since))
    rows = rows[~_is_place(device[rows], account[rows], most=chosen.most_accounts_a_device)]
    component = _components(device[rows], account[rows])
    order = np.argsort(component, kind="stable")
    bounds = np.flatnonzero(np.diff(component[order])) + 1
    groups = [rows[group] for group in np.split(order, bounds) if len(group)]
    rings = [_ring(payments, group) for group in groups]
    found = [ring for ring in rings if len(ring.accounts) >= chosen.least_accounts]
    return sorted(found, key=lambda ring: (-len(ring.accounts), -ring.amount_minor, ring.devices))


def table_of(rings: list[Ring]) -> Mapping[str, int]:
    """Returns the lookup table by device: token → accounts of its ring."""
    return {str(device): len(ring.accounts) for ring in rings for device in ring.devices}


def _is_place(device: Int64s, account: Int64s, *, most: int) -> npt.NDArray[np.bool_]:
    """Returns which rows are of a device that more accounts use than a ring would."""
    pairs = np.unique(np.stack([device, account], axis=1), axis=0)
    devices, users = np.unique(pairs[:, 0], return_counts=True)
    return np.isin(device, devices[users > most])


def _components(device: Int64s, account: Int64s) -> npt.NDArray[np.int32]:
    """Returns for each row the number of the component that its device and account are in."""
    devices, left = np.unique(device, return_inverse=True)
    accounts, right = np.unique(account, return_inverse=True)
    size = len(devices) + len(accounts)
    links = coo_matrix((np.ones(len(left), np.int8), (left, right + len(devices))), shape=(size, size))
    labels: npt.NDArray[np.int32] = connected_components(links, directed=False)[1]
    return labels[left]


def _ring(payments: Examples, rows: npt.NDArray[np.intp]) -> Ring:
    labels = payments.labels[rows]
    return Ring(
        accounts=tuple(np.unique(payments.entities["customer"][rows]).tolist()),
        devices=tuple(np.unique(payments.entities["device"][rows]).tolist()),
        payments=len(rows),
        amount_minor=int(payments.amounts[rows].sum()),
        labelled=int(np.sum(np.isfinite(labels))),
        frauds=int(np.sum(labels == 1)),
    )
