"""Rows of entities on Redis or Valkey: one value an entity, and one script call a request that changes and reads them.

A value is the entity's rows and a tail: the mark, and two uint32, how many rows and bytes a row; so a value cut short
is noticed. Rows up to the mark are as good as gone, and leave the value when the dead ones do.
docs/decisions/0019-features-on-redis.md has the reasons.
"""

from __future__ import annotations

import itertools
import os
import re
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from decalog.clock import DAY
from decalog.errors import ConfigError, LostStateError, StateError
from decalog.stores.base import Leftovers, Mark, Refused, RowSteps, StateKey
from decalog.stores.redis_left import RedisLeftovers

_TAIL = struct.Struct(">8sII")
_MARK = struct.Struct(">qq8s")
_BLOCK = 500
"""Keys that one round trip carries where a whole state is written or counted."""

# KEYS: the mark, then the keys with steps, then the keys to read.
# ARGV: how many keys have steps, the mark's ttl and the rows' (ms), the mark that must be stored, the one to store or
# '', then for each key with steps how many, how many rows it retains, and the steps.
#
# First every key is read and looked at, then all is written: a script that ends in between has written nothing.
# Cells are compared as pairs of uint32, which Lua's doubles hold exactly; strings never, since Lua orders those by the
# locale that the server was started in. Rows that come in order, the usual ones, are written behind the others without
# reading them; dead rows, and those up to the mark, are cut off at every 32nd row, so that it costs little a row.
_SCRIPT = """
local changed, mark_ttl, rows_ttl, before, after = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if (redis.call('GET', KEYS[1]) or '') ~= before then return {'lost'} end

local function name(text, at)
  return {struct.unpack('>I4I4I4I4I4I4', text, at)}
end

local function order(one, other)
  for i = 1, 6 do
    if one[i] ~= other[i] then return one[i] < other[i] and -1 or 1 end
  end
  return 0
end

local function last_not_after(rows, width, wanted)
  local low, high = 0, #rows / width
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if order(name(rows, (middle - 1) * width + 1), wanted) <= 0 then low = middle else high = middle - 1 end
  end
  return low, low > 0 and order(name(rows, (low - 1) * width + 1), wanted) == 0
end

-- A time (a cell) as the name of the last row that it takes along.
local function until_(time)
  return name(time .. string.rep('\\255', 16), 1)
end

local function without(rows, width, time)
  return string.sub(rows, last_not_after(rows, width, until_(time)) * width + 1)
end

local function tail(mark, count, width)
  return mark .. struct.pack('>I4I4', count, width)
end

local function appended(key, first, steps, count, width, mark, retain)
  local function name_at(place)
    return name(redis.call('GETRANGE', key, (place - 1) * width, (place - 1) * width + 23), 1)
  end
  local last, rows = until_(mark), {}
  if count > 0 and order(name_at(count), last) > 0 then last = name_at(count) end
  for step = first, first + steps - 1 do
    local new = name(ARGV[step], 10)
    if string.sub(ARGV[step], 1, 1) ~= '+' or order(last, new) >= 0 then return nil end
    rows[#rows + 1], last = string.sub(ARGV[step], 10), new
  end
  local goes = count + steps - retain  -- the last that has to go; it may have gone before
  if goes > count then return nil end
  if goes > 0 and order(name_at(goes), until_(mark)) > 0 then
    mark = redis.call('GETRANGE', key, (goes - 1) * width, (goes - 1) * width + 7)
  end
  return table.concat(rows) .. tail(mark, count + steps, width)
end

local function stepped(key, first, steps, width, mark, retain)
  local rows = without(string.sub(redis.call('GET', key) or '', 1, -17), width, mark)
  for step = first, first + steps - 1 do
    local text, wanted = ARGV[step], name(ARGV[step], 10)
    local place, is_there = last_not_after(rows, width, wanted)
    if order(wanted, until_(mark)) <= 0 then
      -- It went, or comes too late.
    elseif string.sub(text, 1, 1) == '+' then
      if is_there then return nil, step - first end
      rows = string.sub(rows, 1, place * width) .. string.sub(text, 10) .. string.sub(rows, place * width + 1)
      if #rows / width > retain then
        mark = string.sub(rows, 1, 8)
        rows = without(rows, width, mark)
      end
    elseif is_there then
      rows = string.sub(rows, 1, (place - 1) * width) .. string.sub(rows, place * width + 1)
    elseif order(wanted, until_(string.sub(text, 2, 9))) > 0 then
      return nil, step - first
    end
  end
  local horizon = string.sub(ARGV[first + steps - 1], 2, 9)
  rows = without(rows, width, horizon)
  if #rows == 0 and order(until_(mark), until_(horizon)) <= 0 then return '' end
  return rows .. tail(mark, #rows / width, width)
end

local function tail_of(key, width)
  local length = redis.pcall('STRLEN', key)
  if type(length) ~= 'number' then return nil end
  if length == 0 then return 0, string.rep('\\0', 8) end
  local text = redis.call('GETRANGE', key, -16, -1)
  if #text < 16 then return nil end
  local count, stated = struct.unpack('>I4I4', text, 9)
  if stated == width and count * width + 16 == length then return count, string.sub(text, 1, 8) end
end

local writes, at = {}, 6
for index = 1, changed do
  local key, steps, retain = KEYS[1 + index], tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local width = #ARGV[at + 2] - 9
  local count, mark = tail_of(key, width)
  if not count then return {'damaged'} end
  local value = math.floor(count / 32) == math.floor((count + steps) / 32)
    and appended(key, at + 2, steps, count, width, mark, retain)
  if value then
    writes[index] = {'SETRANGE', key, count * width, value}
  else
    local whole, fault = stepped(key, at + 2, steps, width, mark, retain)
    if fault then return {'refused', index - 1, fault} end
    writes[index] = whole == '' and {'DEL', key} or {'SET', key, whole}
  end
  at = at + 2 + steps
end

for index = 1, changed do
  redis.call(unpack(writes[index]))
  redis.call('PEXPIRE', KEYS[1 + index], rows_ttl)
end
if after ~= '' then redis.call('SET', KEYS[1], after, 'PX', mark_ttl) end

local replies = {'done'}
for index = changed + 2, #KEYS do replies[#replies + 1] = redis.call('GET', KEYS[index]) or '' end
return replies
"""


class StateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the state is kept.

    Args:
        kept_us: how long a row can be reached: lateness + longest window, µs.
        idle_us: a state that takes no change for so long vanishes, and is built anew from the log, µs.
        timeout_s: how long a round trip may take; the request behind it gets the declared fallback.
        pause_s: after a failure no round trip is tried for so long, so that requests need not wait to fail.
    """

    kept_us: int
    idle_us: int = 7 * DAY
    timeout_s: float = 0.25
    pause_s: float = 1.0


class RedisState:
    """A `StateStore` on one Redis (6.2 or newer) or Valkey, by its address.

    Args:
        url: `redis://`, `rediss://`, `valkey://` or `unix://`, with user, password and database where they are needed.
        space: names whose state it is, parted by colons: home, system, and what of it; two states of one name would
            take each other for lost.
        settings: times.
        entropy: gives random bytes, which name each state that is begun.
        monotonic: a clock in seconds.

    Raises:
        ConfigError: the address makes no sense, or the server may evict keys.
        StateError: the server cannot be reached, or holds something else under this name.
    """

    def __init__(
        self,
        url: str,
        space: str,
        *,
        settings: StateSettings,
        entropy: Callable[[int], bytes] = os.urandom,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entropy, self._monotonic = entropy, monotonic
        self._pause_s, self._tried_again = settings.pause_s, float("-inf")
        # The braces put all keys of a state into one slot of a cluster, since one script call takes them.
        self._mark_key = f"decalog:{{{space}}}".encode()
        # The mark vanishes first: as long as it is there, no rows have vanished that a window can reach. A day more
        # than that is for events dated ahead and for clocks that are set.
        self._mark_ttl = settings.idle_us // 1000
        self._rows_ttl = (settings.kept_us + settings.idle_us + DAY) // 1000
        self._client: Any = _client(url, settings.timeout_s)
        self._sha = self._client.register_script(_SCRIPT).sha
        self._stored, self._attempted = b"", b""
        self._state = b""
        self.left: Leftovers = RedisLeftovers(self._client, self._mark_key, self._prefix)
        self._open()

    def known(self) -> Mark | None:
        """See `StateStore.known`."""
        if self._attempted:
            found = self._run(lambda: self._client.get(self._mark_key)) or b""
            if found not in (self._stored, self._attempted):
                raise _lost()
            self._stored, self._attempted = found, b""
        return Mark(*_MARK.unpack(self._stored)[:2]) if self._stored[-8:] == self._state else None

    def exchange(
        self, due: Sequence[RowSteps], keys: Sequence[StateKey], *, mark: Mark | None = None
    ) -> tuple[Refused | None, list[bytes]]:
        """See `StateStore.exchange`."""
        named = [self._mark_key, *(self._key(steps.key) for steps in due), *map(self._key, keys)]
        words: list[Any] = [len(due), self._mark_ttl, self._rows_ttl, self._stored, b""]
        for steps in due:
            words += (len(steps.steps), steps.retain, *steps.steps)
        if mark is not None:
            words[4] = self._attempted = _MARK.pack(*mark, self._state)
        status, *replies = self._run(lambda: self._call(named, words))
        if status == b"refused":
            self._attempted = b""
            return Refused(*replies), []
        if status != b"done":
            raise self._failed(status)
        if mark is not None:
            self._stored, self._attempted = self._attempted, b""
        return None, [_rows(value, key) for value, key in zip(replies, keys, strict=True)]

    def rebuild(self, entities: Iterable[tuple[StateKey, int, bytes]]) -> None:
        """See `StateStore.rebuild`."""
        self._stored = self._run(lambda: self._client.get(self._mark_key)) or b""
        self._attempted, self._state = b"", self._entropy(8)
        waiting = iter(entities)
        while block := list(itertools.islice(waiting, _BLOCK)):
            with self._client.pipeline(transaction=False) as pipe:
                for key, count, rows in block:
                    tail = _TAIL.pack(rows[-8:], count, (len(rows) - 8) // max(count, 1))
                    pipe.set(self._key(key), rows[:-8] + tail, px=self._rows_ttl)
                self._run(pipe.execute)

    def sizes(self) -> Iterator[tuple[str, int]]:
        """See `StateStore.sizes`."""
        prefix = self._prefix()
        pattern = re.sub(rb"([\\*?\[\]])", rb"\\\1", prefix) + b"*"
        found = self._run(lambda: list(self._client.scan_iter(match=pattern, count=_BLOCK)))
        for start in range(0, len(found), _BLOCK):
            block = found[start : start + _BLOCK]
            with self._client.pipeline(transaction=False) as pipe:
                for key in block:
                    pipe.strlen(key)
                lengths = self._run(pipe.execute)
            for key, length in zip(block, lengths, strict=True):
                yield key[len(prefix) :].rpartition(b":")[0].decode(), length - _TAIL.size

    def close(self) -> None:
        """See `StateStore.close`."""
        self._client.close()

    def _open(self) -> None:
        try:
            memory = self._client.info("memory")
            stored = self._client.get(self._mark_key) or b""
        except RedisError as error:
            raise _foreign(error) if _is_damage(error) else _away(error) from None
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise _evicting(policy)
        if len(stored) not in (0, _MARK.size):
            raise _foreign(f"{len(stored)} bytes")
        self._stored, self._state = stored, stored[-8:] or self._entropy(8)

    def _prefix(self) -> bytes:
        return b"%b:%b:" % (self._mark_key, self._state.hex().encode())

    def _key(self, key: StateKey) -> bytes:
        return b"%b%b:%d" % (self._prefix(), key[0].encode(), key[1])

    def _call(self, keys: Sequence[bytes], words: Sequence[Any]) -> Any:
        try:
            return self._client.execute_command("EVALSHA", self._sha, len(keys), *keys, *words)
        except NoScriptError:
            # A server that was started anew, or took over from another, has the data and not the script.
            return self._client.execute_command("EVAL", _SCRIPT, len(keys), *keys, *words)

    def _run(self, asked: Callable[[], Any]) -> Any:
        """Returns what the server said.

        Raises:
            StateError: it said nothing in time or refused, or an earlier failure is too recent to try again.
        """
        if self._monotonic() < self._tried_again:
            raise _away("it failed a moment ago")
        try:
            return asked()
        except RedisError as error:
            if _is_damage(error):
                raise _damaged(error) from None
            self._tried_again = self._monotonic() + self._pause_s
            raise _away(error) from None

    def _failed(self, status: bytes) -> StateError:
        self._attempted = b""
        if status == b"lost":
            return _lost()
        # Steps that can never be taken. Without its mark, the state is built anew when it is opened again.
        self._run(lambda: self._client.delete(self._mark_key))
        return _damaged("a value that steps are for")


def open_state(url: str, space: str, *, kept_us: int) -> RedisState:
    """Returns the state at an address, with the times that fit most; see `RedisState`."""
    return RedisState(url, space, settings=StateSettings(kept_us=kept_us))


def _client(url: str, timeout_s: float) -> redis.Redis:
    scheme, colon, rest = url.partition("://")
    try:
        # No retry of the client's own: a call that may have been taken is sent again by those who can find out.
        return redis.from_url(
            scheme.replace("valkey", "redis") + colon + rest,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise ConfigError(
            where="features' state, address",
            given=f"an address that cannot be read ({error})",
            expected="redis://host:port/database, rediss:// or unix://",
            fix="Mend --state.",
        ) from None


def _rows(value: bytes, key: StateKey) -> bytes:
    """Returns a value's rows and its mark.

    Raises:
        StateError: tail and length do not fit each other.
    """
    if not value:
        return b""
    if len(value) >= _TAIL.size:
        _, count, width = _TAIL.unpack_from(value, len(value) - _TAIL.size)
        if count * width + _TAIL.size == len(value):
            return value[:-8]
    raise _damaged(f"a value of {len(value)} bytes for entity {key[0]!r}")


def _is_damage(error: RedisError) -> bool:
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


def _away(why: object) -> StateError:
    return StateError(
        where="features' state on Redis",
        given=f"a server that did not do what it was asked ({why})",
        expected="an answer in time",
        fix="Look after the server; until then requests get the declared fallback, and nothing of the log is lost.",
    )


def _lost() -> LostStateError:
    return LostStateError(
        where="features' state on Redis",
        given="a mark that is gone, older, or another server's",
        expected="the mark that was stored last",
        fix="Wait: decalog builds the state anew from the log. Keep one server a state.",
    )


def _damaged(what: object) -> StateError:
    return StateError(
        where="features' state on Redis",
        given=f"rows that nobody wrote so ({what})",
        expected="rows as decalog stores them",
        fix="Keep others off its keys; delete the keys that begin with decalog: and restart to build the state anew.",
    )


def _foreign(what: object) -> StateError:
    return StateError(
        where="features' state on Redis, mark",
        given=f"something that is no mark ({what})",
        expected="the mark of this state, or no such key",
        fix="Delete the key, or name another database in the address.",
    )


def _evicting(policy: str) -> ConfigError:
    return ConfigError(
        where="features' state on Redis, maxmemory-policy",
        given=f"{policy}, which drops rows that windows still reach",
        expected="noeviction",
        fix="Set `maxmemory-policy noeviction` on the server, or use one of its own.",
    )
