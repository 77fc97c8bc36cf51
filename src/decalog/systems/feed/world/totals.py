"""What came of slates, counted: clicks, hides, returns, sessions and their worth."""

from __future__ import annotations

from decalog.testing.counts import Counts


class Totals(Counts):
    """Counts over one or more days: requests that were shown something, posts shown and looked at, and what followed.

    `unfit` posts should not have been shown; `minor` is what was earned less what it cost, in minor units.
    """

    requests: int = 0
    shown: int = 0
    looked: int = 0
    clicks: int = 0
    likes: int = 0
    hides: int = 0
    reports: int = 0
    unfit: int = 0
    dwell_s: float = 0.0
    minor: float = 0.0
    sessions: int = 0
    visitors: int = 0
    returned: int = 0

    @property
    def ctr(self) -> float:
        """Clicks a shown post."""
        return self.clicks / max(1, self.shown)

    @property
    def return_rate(self) -> float:
        """Share of a day's visitors who came back on the next."""
        return self.returned / max(1, self.visitors)

    @property
    def session_minor(self) -> float:
        """Worth of a session, minor units."""
        return self.minor / max(1, self.sessions)

    def __str__(self) -> str:
        hides, reports = (1_000 * count / max(1, self.shown) for count in (self.hides, self.reports))
        return (
            f"CTR {self.ctr:.1%}  hides {hides:.1f} and reports {reports:.2f} per 1,000  "
            f"return {self.return_rate:.1%}  {self.sessions:,} sessions of {self.session_minor:.1f} minor"
        )
