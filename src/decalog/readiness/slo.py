"""What a system promises: the load that it must carry, and the limit of each check, read from TOML.

The file `slo.toml` lies beside the system's module. A home may hold one of its own, `slo.toml`, whose entries take the
place of those; what neither names keeps the default below.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from decalog.errors import ConfigError, near
from decalog.system import SYSTEMS, System

FILE = "slo.toml"

Above = Annotated[float, Meta(gt=0)]
Least = Annotated[int, Meta(ge=1)]

LIMITS: dict[str, float] = {
    "traffic_10x_ms": 100.0,
    "data_10x_growth": 2.0,
    "memory_10x_share": 0.8,
    "p99_ms": 100.0,
    "features_p99_ms": 50.0,
    "model_p99_ms": 50.0,
    "retraining_p99_ms": 100.0,
    "swapping_p99_ms": 100.0,
    "live_p99_ms": 100.0,
    "faults": 0.0,
    "protected_ratio": 0.8,
    "rollback_s": 5.0,
    "detect_to_damage": 1.0,
    "alarms": 0.0,
    "model_age_days": 30.0,
    "lead": 0.0,
    "ml_test_score": 2.0,
}
"""Name → limit where no file names it; `anchors` of the checks say where each comes from."""


class Slo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a system promises.

    Args:
        load_per_s: decisions a second that it must carry.
        seconds: how long each load lasts; a quick run takes less.
        protected: public fields of requests by whose values decisions are compared.
        why_unprotected: why there are none, where there are none.
        favourable: actions that do what the person asked for; empty for those after which silence is evidence.
        damage_minor: the loss, minor units of the base currency, before which a fault must have raised an alert.
        parity_decisions: so many a skew certificate covers at least.
        days: of recorded traffic that are decided again for the monitors.
        evidence_days: after so long what was measured is stale.
        manual: item of the ML Test Score → where it is written down that a person did it: half a point.
        limits: name → limit.
    """

    load_per_s: Above = 10.0
    seconds: Above = 10.0
    protected: tuple[str, ...] = ()
    why_unprotected: str = ""
    favourable: tuple[str, ...] = ()
    damage_minor: Annotated[int, Meta(ge=0)] = 0
    parity_decisions: Least = 10_000
    days: Above = 2.0
    evidence_days: Above = 7.0
    manual: dict[str, str] = {}
    limits: dict[str, float] = {}

    def limit(self, name: str) -> float:
        """Returns a limit by its name."""
        return self.limits.get(name, LIMITS[name])


def slo_of(path: str, system: System, *, home: Path) -> Slo:
    """Returns what a system promises.

    Args:
        path: name or dotted path of the system.
        system: itself.
        home: of the deployment.

    Raises:
        ConfigError: a file is no TOML, or holds what is unknown, out of range, or no public field of requests.
    """
    module = SYSTEMS.get(path, path).partition(":")[0].rpartition(".")[0]
    packaged = (files(module) / FILE).read_text(encoding="utf-8") if module and (files(module) / FILE).is_file() else ""
    own = (home / FILE).read_text(encoding="utf-8") if (home / FILE).is_file() else ""
    shipped, mine = _table(packaged, f"{system.name} {FILE}"), _table(own, f"home {FILE}")
    limits = {**shipped.get("limits", {}), **mine.get("limits", {})}
    return _read({**shipped, **mine, "limits": limits}, system)


def _table(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            where=where, given=str(error), expected="TOML, as docs/howto/check.md shows", fix="Mend the file."
        ) from None


def _read(table: dict[str, Any], system: System) -> Slo:
    where = f"{system.name} {FILE}"
    try:
        slo = msgspec.convert(table, Slo)
    except msgspec.ValidationError as error:
        raise ConfigError(
            where=where, given=str(error), expected=f"entries of: {', '.join(Slo.__struct_fields__)}", fix="Mend it."
        ) from None
    unknown = [name for name in slo.limits if name not in LIMITS]
    if unknown:
        raise ConfigError(
            where=f"{where}, limits", given=repr(unknown[0]), expected=near(unknown[0], LIMITS), fix="Mend the name."
        )
    for name, known in (("protected", system.schema.request.attributes), ("favourable", system.schema.actions)):
        strange = [value for value in getattr(slo, name) if value not in known]
        if strange:
            raise ConfigError(
                where=f"{where}, {name}",
                given=repr(strange[0]),
                expected=near(strange[0], known),
                fix="Name public fields of requests and actions of the schema.",
            )
    return slo
