"""A challenger's share of the decisions: whose requests it decides, as the log's table `rollout` says.

Each step of a rollout is a version of that table: a record like any other, with what it rests on; who took it stands in
the table `changes`. Whom the challenger decides for is a hash of the person and of the rollout's name, so the same
people stay in its arm, more join them as the share grows, and no rollout has the people of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from decalog.errors import RequestError
from decalog.events import Event
from decalog.log import Log
from decalog.policy import Policy
from decalog.tables import Stored, Tables

TABLE = "rollout"
TRIED = "policy_tried"
"""The table of a challenger's policy parameters, where they are not those in force: replay finds them there."""
CHAMPION, CHALLENGER = "champion", "challenger"
_WHOLE = 10_000
_SHORT, _LONGEST = 12, 1_000

Stage = Literal["shadow", "canary", "champion", "stopped"]
Share = Annotated[int, Meta(ge=0, le=_WHOLE)]


class Rollout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of a rollout.

    Args:
        name: of the rollout; one name, one challenger, one division of the people.
        stage: `shadow` decides nothing, `canary` a share, `champion` and `stopped` are ends; stopped first, it was
            refused.
        model: the challenger's, by its id or at least the first 12 digits; "" for the champion's own.
        policy: the challenger's parameters, whole; None for those in force.
        share_bp: of the people whose requests the challenger decides, hundredths of a percent.
        why: the step was taken.
        evidence: that it rests on, as measured.
        champion: the model that decides for all others, written by the server; None where none has run yet.
    """

    name: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_.-]{0,63}$")]
    stage: Stage
    model: Annotated[str, Meta(pattern="^([0-9a-f]{12,64})?$")] = ""
    policy: dict[str, Any] | None = None
    share_bp: Share = 0
    why: Annotated[str, Meta(max_length=_LONGEST)] = ""
    evidence: dict[str, Any] = {}
    champion: str | None = None

    @property
    def is_live(self) -> bool:
        """Whether the challenger decides anything."""
        return self.stage == "canary"

    @property
    def is_over(self) -> bool:
        """Whether it is the last step."""
        return self.stage in ("champion", "stopped")

    @property
    def challenger(self) -> tuple[str, dict[str, Any] | None]:
        """Whose rollout it is: the short id of a model, and parameters."""
        return self.model[:_SHORT], self.policy

    @property
    def told(self) -> str:
        """The step in words."""
        return f"{self.name}: {self.stage}, {self.model[:_SHORT] or 'other parameters'} at {self.share_bp / 100:g} %"

    def arm(self, event: Event) -> str:
        """Returns by which arm a request is decided; one that is about nobody is a person of its own.

        >>> canary = Rollout(name="r1", stage="canary", model="3f9a61c27d04", share_bp=5_000)
        >>> [canary.arm(Event("q", "payment", 0, person, {}, {})) for person in range(1, 6)]
        ['champion', 'challenger', 'champion', 'champion', 'champion']
        """
        whose = event.subject.to_bytes(8, "big", signed=True) if event.subject else event.id.encode()
        drawn = int.from_bytes(blake2b(whose, digest_size=8, key=self.name.encode()).digest(), "big")
        return CHALLENGER if drawn % _WHOLE < self.share_bp else CHAMPION

    def named(self, arm: str) -> str:
        """Returns the name of an arm as decisions have it."""
        return f"{self.name}/{arm}"

    def beside(self, model: str, params: object) -> Rollout:
        """Returns it beside the model and the policy's parameters in force: ended, where they are its challenger's.

        It ends too where another model decides than the one that it began with.
        """
        if self.model[:_SHORT] in ("", model) and self.policy in (None, plain(params)):
            return self.ended("champion", "its challenger is in force")
        if self.champion not in (None, model):
            return self.ended("stopped", "another champion took over")
        return self

    def ended(self, stage: Stage, why: str) -> Rollout:
        """Returns its last step."""
        return msgspec.structs.replace(self, stage=stage, share_bp=0, why=why[:_LONGEST], evidence={})


_BEFORE = {"stopped": ("shadow", "canary", "stopped"), "champion": ("champion",)}
"""What an end may follow on; only a server knows that a challenger is the champion, and others add their evidence."""
_FIXES = {"stopped": "Name the one that is under way", "champion": "Promote the challenger: the server then says so"}


class Rollouts:
    """The rollouts of one system, as its log has them: at most one is under way.

    Args:
        log: a writer's, where a step is to be put.
        system: its name.
    """

    def __init__(self, log: Log, system: str) -> None:
        self._tables, self._system = Tables(log), system

    def last(self) -> Rollout | None:
        """Returns the last step that was taken."""
        content = self.stored().content
        return None if content is None else msgspec.convert(content, Rollout)

    def stored(self) -> Stored:
        """Returns the last step with its place in the log; an empty one where there was none."""
        return self._tables.stored(self._system, TABLE)

    def put(self, step: Rollout, *, by: str) -> Stored:
        """Appends a step, and returns it as stored; the last one, put again, appends nothing."""
        self._tables.put(self._system, TABLE, content=step, by=by, what=f"{step.name}: {step.stage}")
        return self.stored()

    def read(self, raw: bytes, read_policy: Callable[[bytes], Policy]) -> Rollout:
        """Returns a step in JSON; one that names no challenger goes on with that of the same name.

        Args:
            raw: the step.
            read_policy: refuses parameters that may not come into force.

        Raises:
            RequestError: it is no step, contradicts itself, or does not go on from those before.
        """
        try:
            step = msgspec.json.decode(raw, type=Rollout)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._no_step(str(error), "a step of a rollout as JSON", "Mend it") from None
        last = self.last()
        if step.policy is not None:
            whole = plain(read_policy(msgspec.json.encode(step.policy)).params)
            step = msgspec.structs.replace(step, policy=whole)
        elif last is not None and last.name == step.name and not step.model:
            step = msgspec.structs.replace(step, model=last.model, policy=last.policy)
        for problem in (*_contradictions(step), *self._breaks(step, last)):
            raise self._no_step(*problem)
        return step

    def _breaks(self, step: Rollout, last: Rollout | None) -> Iterator[tuple[str, str, str]]:
        """Yields why a step does not go on from those before: what is given, what is expected, what to do."""
        if last is not None and not last.is_over and last.name != step.name:
            yield f"rollout {step.name} while {last.name} is under way", "one at a time", f"Stop {last.name} first"
        stored = self._tables.history(self._system, TABLE)
        named = [one for one in (msgspec.convert(step.content, Rollout) for step in stored) if one.name == step.name]
        if any(one.challenger != step.challenger for one in named):
            given = f"another challenger under the name {step.name}"
            yield given, "one challenger a name, which draws its people", "Take a new name"
        if not _follows(step, named):
            stage = named[-1].stage if named else "nothing"
            yield f"{step.stage} after {stage}", f"{' or '.join(_BEFORE[step.stage])} before it", _FIXES[step.stage]

    def _no_step(self, given: str, expected: str, fix: str) -> RequestError:
        where = f"{self._system} rollout"
        return RequestError(where=where, given=given, expected=expected, fix=f"{fix}; all goes on as before.")


def _follows(step: Rollout, named: list[Rollout]) -> bool:
    """Returns whether a step may come after those of its name."""
    if not named and step.stage == "stopped":
        return step.challenger != ("", None)  # refused before it began
    stage = named[-1].stage if named else "nothing"
    return stage in _BEFORE.get(step.stage, (stage,))


def _contradictions(step: Rollout) -> Iterator[tuple[str, str, str]]:
    """Yields what of a step does not go together: what is given, what is expected, what to do."""
    if not step.is_over and step.challenger == ("", None):
        yield f"{step.stage} without a challenger", "`model`, `policy` or both", "Name one"
    if step.is_live != (step.share_bp > 0):
        expected = f"1 to {_WHOLE:,} for canary, 0 for all others"
        yield f"{step.stage} with share_bp {step.share_bp}", expected, "Mend it"


def plain(params: object) -> Any:
    """Returns parameters as a table of the log gives them back."""
    return msgspec.json.decode(msgspec.json.encode(params))


def params_of(tables: Tables, system: str, *, version: str) -> Any:
    """Returns a policy's parameters by their version, in force or tried; None where the log holds none of it."""
    found = (tables.version(system, table, version=version) for table in ("policy", TRIED))
    return next((params for params in found if params is not None), None)
