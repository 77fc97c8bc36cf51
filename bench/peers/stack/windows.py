"""The windows in Redis: a Lua library, written here with one loop for each entity and next to no calls inside it.

    python windows.py          # prints it

A key holds an entity's rows, as far as a window may reach and a day more for late ones, one after another, each of one
size, in order of arrival. Scanning some forty rows costs less than a sorted set, whose members would have to be parsed
one by one, and late rows need no care. A row passes the windows from the longest to the shortest, and leaves at the
first that does not hold it. By hand, five such loops would repeat each other; a loop over a list of windows would call
something for each row and window. A library (Redis 7 or later) is compiled once; a script makes its closures again at
each call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

MINUTE, HOUR, DAY = 60, 3_600, 86_400
LATE = DAY
IDS = ("card", "customer", "device", "ip", "email", "merchant")
"""In the order of the library's argument. An id is a whole number below 2⁵³, 0 where there is none."""


class Column(NamedTuple):
    """A column: an aggregate over the rows of `span_s`; of an id, where it counts different ones."""

    aggregate: str
    span_s: int
    id: str = ""


def _counts(*spans_s: int) -> tuple[Column, ...]:
    return tuple(Column("count", span_s) for span_s in spans_s)


def _distinct(id_: str, *spans_s: int) -> tuple[Column, ...]:
    return tuple(Column("distinct", span_s, id_) for span_s in spans_s)


ENTITIES: dict[str, tuple[Column, ...]] = {
    "card": (
        *_counts(MINUTE, 10 * MINUTE, HOUR, DAY, 7 * DAY, 30 * DAY),
        *(Column("sum", span_s) for span_s in (HOUR, DAY, 7 * DAY)),
        Column("mean", 30 * DAY),
        *(*_distinct("merchant", DAY), *_distinct("ip", 7 * DAY), *_distinct("device", 30 * DAY)),
        Column("since", 30 * DAY),
    ),
    "customer": (
        *_counts(HOUR, DAY, 30 * DAY),
        Column("mean", 30 * DAY),
        *(*_distinct("device", 30 * DAY), *_distinct("card", 7 * DAY)),
        Column("since", 30 * DAY),
    ),
    "device": (
        *_counts(10 * MINUTE, HOUR, DAY, 30 * DAY),
        *_distinct("card", 10 * MINUTE, HOUR, DAY, 30 * DAY),
        *(column for id_ in ("customer", "email", "merchant") for column in _distinct(id_, 30 * DAY)),
        *(Column("mean", 30 * DAY), Column("since", 30 * DAY)),
    ),
    "ip": (
        *_counts(MINUTE, 10 * MINUTE, HOUR, DAY),
        Column("sum", DAY),
        *_distinct("card", 10 * MINUTE, HOUR, DAY),
        *(*_distinct("customer", DAY), *_distinct("device", HOUR)),
    ),
    "email": (*_counts(HOUR, DAY, 30 * DAY), *_distinct("card", 7 * DAY)),
}
"""The columns of each entity, in the order of the model's."""

WINDOWS = sum(map(len, ENTITIES.values()))


def place(entity: str, aggregate: str) -> int:
    """Returns where the one column of an entity with an aggregate stands among the model's."""
    names = [(name, column.aggregate) for name, columns in ENTITIES.items() for column in columns]
    return names.index((entity, aggregate))


# What a column starts from, what a row in its window does, and what is returned; {n} is its number, {id} its id.
# Counts and sums begin with the payment itself; a mean and the time since the last payment know only those before.
_PARTS = {
    "count": ("local c{n} = 1", "c{n} = c{n} + 1", "c{n}"),
    "sum": ("local c{n} = amount", "c{n} = c{n} + cents", "c{n}"),
    "mean": ("local c{n}, m{n} = 0, 0", "c{n}, m{n} = c{n} + cents, m{n} + 1", "m{n} == 0 and -1 or c{n} / m{n}"),
    "distinct": (
        "local s{n}, c{n} = nobody, {id} == 0 and 0 or 1",
        "if {id}_ ~= {id} and {id}_ ~= 0 and not s{n}[{id}_] then s{n}, c{n} = seen(s{n}, {id}_), c{n} + 1 end",
        "c{n} == 0 and -1 or c{n}",
    ),
    "since": ("local c{n} = -1", "if time > c{n} then c{n} = time end", "c{n} < 0 and -1 or (now - c{n}) / 1e6"),
}

_LIBRARY = """\
#!lua name=windows
-- KEYS: reviews, {entities}; an absent entity's key is empty.
-- ARGV: time (µs), amount (minor units), {ids}, each a double.
-- Returns {count} doubles, little endian, in the order of the model's columns, and last the reviews of 24 hours.
local read, pack, now, amount, {ids}

local nobody = {{}}  -- never written to

-- Keeps a key's rows with one more, without those at the front that no window can reach.
local function keep(key, rows, own, size, kept_s)
  local from, oldest = 1, now - kept_s * 1e6
  while from <= #rows and read('<d', rows, from) <= oldest do from = from + size end
  if from > 1 then rows = string.sub(rows, from) end
  redis.call('SET', key, rows .. own, 'EX', kept_s + {late})
end

-- Returns ids with one more; most payments see no other id than their own, and make no table.
local function seen(ids, id)
  if ids == nobody then return {{[id] = true}} end
  ids[id] = true
  return ids
end
{functions}
redis.register_function('windows', function(keys, args)
  read, pack = struct.unpack, struct.pack  -- no libraries are there while this one is loaded
  now, amount, {ids} = read('<dd{id_doubles}', args[1])
  local reviews = redis.call('ZCOUNT', keys[1], now - {day}e6 + 1, now)
  local rows = redis.call('MGET', unpack(keys, 2))
  return {calls} .. pack('<d', reviews)
end)
"""

_FUNCTION = """
local function of_{entity}(key, rows)
  if key == '' then return pack('<{doubles}', {absent}) end
  local now, read = now, read
  {starts}
  rows = rows or ''
  keep(key, rows, pack('<{row_doubles}', {own}), {size}, {kept_s})
  for at = 1, #rows, {size} do
    local {row} = read('<{row_doubles}', rows, at)
    {steps}
  end
  return pack('<{doubles}', {results})
end
"""


def library() -> str:
    """Returns the library."""
    calls = " .. ".join(f"of_{entity}(keys[{place + 1}], rows[{place}])" for place, entity in enumerate(ENTITIES, 1))
    return _LIBRARY.format(
        entities=", ".join(ENTITIES),
        ids=", ".join(IDS),
        id_doubles="d" * len(IDS),
        count=WINDOWS + 1,
        day=DAY,
        late=LATE,
        calls=calls,
        functions="".join(map(_function, ENTITIES)),
    )


def _function(entity: str) -> str:
    columns = ENTITIES[entity]
    parts = [
        [part.format(n=number, id=column.id) for part in _PARTS[column.aggregate]]
        for number, column in enumerate(columns)
    ]
    spans_s = sorted({column.span_s for column in columns}, reverse=True)
    bounds = [f"local w{span_s} = now - {span_s}e6" for span_s in spans_s]
    has_amount = any(column.aggregate in ("sum", "mean") for column in columns)
    ids = [id_ for id_ in IDS if any(column.id == id_ for column in columns)]
    own = ["now", *(["amount"] if has_amount else []), *ids]
    row = ["time", *(["cents"] if has_amount else []), *(f"{id_}_" for id_ in ids)]
    return _FUNCTION.format(
        entity=entity,
        doubles="d" * len(columns),
        absent=", ".join("0" if column.aggregate in ("count", "sum") else "-1" for column in columns),
        starts="\n  ".join([*bounds, *(start for start, _, _ in parts)]),
        row_doubles="d" * len(row),
        own=", ".join(own),
        row=", ".join(row),
        size=8 * len(row),
        kept_s=spans_s[0] + LATE,
        steps="\n    ".join(_steps(columns, parts, spans_s=spans_s)),
        results=", ".join(result for _, _, result in parts),
    )


def _steps(columns: tuple[Column, ...], parts: list[list[str]], *, spans_s: list[int]) -> Iterator[str]:
    yield "if time <= now then"
    for depth, span_s in enumerate(spans_s, 1):
        yield f"{'  ' * depth}if time > w{span_s} then"
        for column, (_, step, _) in zip(columns, parts, strict=True):
            if column.span_s == span_s:
                yield f"{'  ' * depth}  {step}"
    for depth in range(len(spans_s), -1, -1):
        yield f"{'  ' * depth}end"


if __name__ == "__main__":
    print(library())
