"""A readiness report for people: in lines, and as one page of HTML that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

from decalog.clock import DAY, HOUR, SystemClock, rfc3339
from decalog.errors import DataError
from decalog.readiness.checks import Result
from decalog.readiness.ml_test_score import Scored
from decalog.readiness.running import Readiness

_WORDS = {0: "ready", 1: "not ready", 2: "not all was measured"}
_MARKS = {"green": "ok", "red": "RED", "not measured": "?"}
_SIGNS = {"green": "✓", "red": "✗", "not measured": "?"}


def text(found: Readiness) -> str:
    """Returns the report in lines."""
    return "\n".join(_lines(found))


def _lines(found: Readiness) -> Iterator[str]:
    what = "the quick subset" if found.quick else "the checklist"
    yield f"{found.system}: {_WORDS[found.status]}, {what} at log position {found.position:,}, {found.took_s:.0f} s"
    yield f"score {found.score} %, the least of its sections: " + ", ".join(
        f"{one.name} {one.green} of {one.checks}" for one in found.sections
    )
    for section in found.sections:
        yield ""
        yield section.name
        for result in found.results:
            if result.section == section.name:
                yield f"  {_MARKS[result.status]:4}{result.name:20} {figure(result):28} {result.said}"
    yield from _todo(found)


def _todo(found: Readiness) -> Iterator[str]:
    worst = _worst(found)
    if worst:
        yield from ("", "worst first, and what to do")
        for result in worst:
            yield f"  {result.name}: {figure(result)}. {result.fix}"
            yield f"    limit from: {result.anchor}"
    missing = [one for one in found.items if not one.points]
    if missing:
        yield from ("", "ML Test Score, items that count nothing")
        yield from (f"  {one.item}: {one.name} ({one.why})" for one in missing)


def _worst(found: Readiness) -> list[Result]:
    return [result for name in found.worst for result in found.results if result.name == name]


def figure(result: Result) -> str:
    """Returns number, unit and limit.

    >>> figure(Result(name="p99", section="latency", status="green", value=4.25, limit=20.0, unit="ms", said="",
    ...               anchor="", fix=""))
    '4.25 ms, at most 20'
    """
    bound = f"{'at least' if result.least else 'at most'} {result.limit:g}"
    if result.value is None:
        return f"{'broken' if result.status == 'red' else 'no number'}, {bound}"
    return f"{result.value:,.4g} {result.unit}, {bound}"


def write(path: Path, found: Readiness) -> None:
    """Writes the report as a page.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        path.write_text(as_html(found), encoding="utf-8")
    except OSError as error:
        raise DataError(
            where=str(path),
            given=f"a file that cannot be written ({error.strerror})",
            expected="a path in a folder that is there",
            fix="Name another with --page.",
        ) from None


def as_html(found: Readiness) -> str:
    """Returns the report as one page: no script, nothing from elsewhere, light and dark."""
    head = f"{found.system}: {_WORDS[found.status]}"
    sections = "".join(
        f"<li><b>{one.percent} %</b> {_safe(one.name)} <small>{one.green} of {one.checks}</small></li>"
        for one in found.sections
    )
    worst = _worst(found)
    todo = "".join(
        f"<li><h3>{_safe(one.name)} · {_safe(figure(one))}</h3><p>{_safe(one.said)}</p>"
        f"<p><b>Do:</b> {_safe(one.fix)}</p>"
        f"<p><small>Limit from: {_safe(one.anchor)}</small></p></li>"
        for one in worst
    )
    tables = "".join(_table(section.name, found) for section in found.sections)
    body = (
        f'<h1>{_safe(head)} <span class="score">{found.score} %</span></h1>'
        f"<p>Measured {rfc3339(found.at_us)[:16]} at log position {found.position:,}"
        f"{', the quick subset' if found.quick else ''}; the score is the least of the sections.</p>"
        f'<ul class="sections">{sections}</ul>'
        + (f'<h2>Worst first</h2><ol class="worst">{todo}</ol>' if worst else "<p>Nothing is red.</p>")
        + tables
        + _items(found.items)
    )
    return _PAGE.format(title=_safe(head), style=_STYLE, body=body)


def _table(section: str, found: Readiness) -> str:
    rows = "".join(_row(result) for result in found.results if result.section == section)
    head = "<tr><th>check<th>number<th>what was measured<th>age</tr>"
    return f"<h2>{_safe(section)}</h2><table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _row(result: Result) -> str:
    kind = result.status.replace(" ", "-")
    more = "".join(f"<li>{_safe(name)} {value:,.4g}</li>" for name, value in result.detail.items())
    detail = f"<details><summary>figures</summary><ul>{more}</ul></details>" if more else ""
    return (
        f'<tr class="{kind}"><td>{_SIGNS[result.status]} <b>{_safe(result.name)}</b><small>{result.status}</small></td>'
        f"<td>{_safe(figure(result))}</td><td>{_safe(result.said)}{detail}<small>{_safe(result.anchor)}</small></td>"
        f"<td>{_age(result)}</td></tr>"
    )


def _items(items: tuple[Scored, ...]) -> str:
    rows = "".join(
        f"<tr><td>{_safe(one.item)}</td><td>{_safe(one.name)}</td><td>{one.points:g}</td><td>{_safe(one.why)}</td></tr>"
        for one in items
    )
    return f"<h2>ML Test Score, item by item</h2><table><tbody>{rows}</tbody></table>"


def _age(result: Result) -> str:
    if not result.at_us:
        return "–"
    hours = (SystemClock().now_us() - result.at_us) / HOUR
    return f"{hours * HOUR / DAY:.0f} days" if hours >= 48 else f"{hours:.0f} h"  # noqa: PLR2004 - two days


def _safe(words: str) -> str:
    return html.escape(words)


_STYLE = """
:root { color-scheme: light dark; --ink: #1a1d21; --paper: #fff; --line: #d5d9de; --green: #18794e; --red: #c62a2f;
  --open: #8a6100 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --paper: #16181b; --line: #3a3f45; --green: #4cc38a;
  --red: #ff8a80; --open: #ffca16 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top; padding: .5rem;
  border-top: 1px solid var(--line) } td small { display: block; opacity: .8 }
.sections { display: flex; flex-wrap: wrap; gap: 1rem; list-style: none; padding: 0 }
.sections li { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem 1rem }
.green td:first-child { color: var(--green) } .red td:first-child { color: var(--red) }
.not-measured td:first-child { color: var(--open) }
.score { float: right }
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head><body><main>{body}</main></body></html>
"""
