"""The size budgets of the house (CONTRIBUTING.md), measured over src/decalog.

Code lines leave out blank lines, comments and docstrings; a function's length leaves out its docstring.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import re
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "decalog"

# (module, function or class, budget): the reason. The name "*" stands for every name of the module.
# An entry that nothing needs any more fails the test.
EXCEPTIONS: dict[tuple[str, str, str], str] = {
    ("features/kernel.py", "*", "parameters"): "compiled functions take arrays and ints, and no object to hold them",
    ("features/carried.py", "_advance", "parameters"): "compiled, as the functions of the kernel are",
    ("features/kernel.py", "*", "positional parameters"): "numba passes by position; keywords cost more than the work",
    ("features/arena.py", "*", "parameters"): "compiled, as the functions of the kernel are",
    ("features/arena.py", "*", "positional parameters"): "compiled, as the functions of the kernel are",
    ("models/forest.py", "*", "parameters"): "compiled, as the functions of the kernel are",
    ("features/sliding.py", "*", "parameters"): "compiled functions take arrays and ints, and no object to hold them",
    ("features/sliding.py", "*", "positional parameters"): "numba passes by position; keywords cost more than the work",
}

MODULE_LINES = 400
FUNCTION_LINES = 60
FUNCTION_LINES_MEDIAN = 8
COMPLEXITY = 10
NESTING = 3
PARAMETERS = 6
POSITIONAL = 2
PUBLIC_METHODS = 12
PROTOCOL_METHODS = 5
SPINE_LINES = 8_000
ENGINE_LINES = 5_200
ENGINE = ("features", "stores/redis.py")
"""The feature engine; docs/decisions/0018 and 0061 say why it is counted apart from the spine, and why so many."""
MODEL_LINES = 3_000
INDEXES = ("stores/flat.py", "stores/faiss.py")
"""Models that systems share, `models/`, with the indexes of their vectors; docs/decisions/0033 says why apart."""
STATISTICS_LINES = 1_500
LOOP_LINES = 6_000
LOOP = (
    *(
        "examples",
        "histories",
        "impressions",
        "censoring",
        "fitting",
        "training",
        "slate_training",
        "trainers",
        "evaluation",
        "slate_metrics",
        "reports",
    ),
    *("monitoring", "references", "tails", "readings", "watching", "alerts"),
    *("whatif", "whatif_slots", "whatif_verdict", "explaining", "counterfactuals", "otherwise"),
    *("guardrails", "gate", "recasting", "shadowing", "loop", "hands", "happened", "figures", "tiers"),
)
"""What closes the loop, off the way of a decision; docs/decisions/0038 says why it is counted apart from the spine."""
EDGE_LINES = 5_500
EDGES = (
    *("data", "http", "drafts"),
    *("cli.py", "cli_levers.py", "cli_loop.py", "terminal.py", "up.py", "driving.py", "drafting.py", "levers.py"),
)
"""What stands between decalog and the outside; docs/decisions/0003 says why it is counted apart from the spine."""
ROOMS = {
    **dict.fromkeys(("privacy", "standing.py", "cli_privacy.py"), "privacy"),
    **dict.fromkeys(("http/privacy_routes.py", "http/openapi_privacy.py"), "privacy"),
    **dict.fromkeys(("readiness", "cli_check.py"), "readiness"),
    **dict.fromkeys(("control_room", "cli_room.py"), "control room"),
    "testing": "conformance",
    **dict.fromkeys(("quantities.py", "quantity_training.py", "quantity_metrics.py"), "quantities"),
    "whatif_quantities.py": "quantities",
}
ROOM_LINES = {"privacy": 2_000, "readiness": 2_600, "control room": 4_000, "conformance": 3_000, "quantities": 1_000}
"""Each can be deleted without touching a decision; docs/decisions/0044, 0049, 0060 say why they are counted apart."""
SHARED_LINES = 38_700
"""What belongs to no system, together."""
SYSTEM_LINES = 3_000
WIRE_LINES = 1_000
"""A system's protocols, `wire*.py`; docs/decisions/0032 says why they are counted apart from the system."""
WORLD_LINES = 1_000
"""A system's world, `simulate.py` and `world*`; docs/decisions/0036 says why it is counted apart from the system."""
FORECAST_LINES = 3_000
"""A system's forecasts of frames, `forecast/`; docs/decisions/0051 and 0054 say why they are counted apart."""
APART = {"wire": WIRE_LINES, "world": WORLD_LINES, "forecast": FORECAST_LINES}
PARTS = {"", "edges", "feature engine", "shared models", "loop", "statistics", *ROOM_LINES}
"""What is no system; "" is the spine."""
COPIED_PERCENT = 10
COPIED_RUN = 4
VAGUE_WORDS = {"util", "utils", "helper", "helpers", "common", "manager", "handler"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith, ast.Match)
BRANCHES = (
    *(ast.If, ast.For, ast.While, ast.AsyncFor, ast.ExceptHandler),
    *(ast.IfExp, ast.comprehension, ast.Assert, ast.match_case),
)


@dataclass(frozen=True)
class Finding:
    """One budget that one place of one module exceeds."""

    module: str
    name: str
    budget: str
    text: str

    @property
    def keys(self) -> set[tuple[str, str, str]]:
        return {(self.module, self.name, self.budget), (self.module, "*", self.budget)}


@dataclass(frozen=True)
class Source:
    """One module, read and parsed; `module` is its path below the package."""

    module: str
    text: str
    tree: ast.Module


def read_package(package: Path) -> list[Source]:
    paths = sorted(package.rglob("*.py"))
    texts = [(path.relative_to(package).as_posix(), path.read_text(encoding="utf-8")) for path in paths]
    return [Source(module, text, ast.parse(text)) for module, text in texts]


def docstring(node: ast.AST) -> ast.Expr | None:
    body = getattr(node, "body", None)
    first = body[0] if isinstance(body, list) and body else None
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return first if is_text else None


def line_span(node: ast.expr | ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def code_lines(source: Source) -> int:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [docstring(node) for node in ast.walk(source.tree) if isinstance(node, documented)]
    prose = {line for text in docstrings if text for line in line_span(text)}
    lines = enumerate(source.text.splitlines(), 1)
    return sum(1 for number, line in lines if number not in prose and line.strip() and line.strip()[0] != "#")


def functions(source: Source) -> list[Function]:
    return [node for node in ast.walk(source.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def function_lines(function: Function) -> int:
    text = docstring(function)
    return len(line_span(function)) - (len(line_span(text)) if text else 0)


def complexity(function: Function) -> int:
    nodes = list(ast.walk(function))
    branches = sum(isinstance(node, BRANCHES) for node in nodes)
    return 1 + branches + sum(len(node.values) - 1 for node in nodes if isinstance(node, ast.BoolOp))


def nesting(node: ast.AST, depth: int = 0) -> int:
    """Returns how many blocks stand inside one another; `elif` stays on the level of its `if`."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, nesting(child, depth + (isinstance(child, BLOCKS) and not is_elif)))
    return deepest


def is_static(function: Function) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in function.decorator_list)


def own_parameters(function: Function) -> tuple[int, int]:
    """Returns (positional, all) parameters of a function, `self` and `cls` not counted."""
    positional = [*function.args.posonlyargs, *function.args.args]
    if positional and positional[0].arg in {"self", "cls"} and not is_static(function):
        positional = positional[1:]
    return len(positional), len(positional) + len(function.args.kwonlyargs)


def is_vague(name: str) -> bool:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")
    return bool(VAGUE_WORDS & set(words)) or re.search(r"_v\d+$", name, re.IGNORECASE) is not None


def is_command(function: Function) -> bool:
    """Returns whether a function is a command: its parameters are options, which are always named."""
    return any(".command(" in ast.unparse(mark) for mark in function.decorator_list)


def judge_function(source: Source, function: Function) -> Iterator[Finding]:
    positional, parameters = own_parameters(function)
    if is_command(function):
        positional = parameters = 0
    if function.name.startswith("_"):
        positional = 0  # a private function and its callers stand on one screen
    open_ended = function.args.kwarg is not None and not function.name.startswith("_")
    measured = [
        ("function lines", function_lines(function), FUNCTION_LINES),
        ("complexity", complexity(function), COMPLEXITY),
        ("nesting", nesting(function), NESTING),
        ("parameters", parameters, PARAMETERS),
        ("positional parameters", positional, POSITIONAL),
        ("**kwargs in a public function", int(open_ended), 0),
        ("vague name", int(is_vague(function.name)), 0),
    ]
    yield from over_budget(source, function.name, measured)


def judge_class(source: Source, node: ast.ClassDef) -> Iterator[Finding]:
    methods = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
    public = [method for method in methods if not method.name.startswith("_")]
    is_protocol = any(ast.unparse(base).startswith("Protocol") for base in node.bases)
    measured = [
        ("public methods", len(public), PUBLIC_METHODS),
        ("protocol methods", len(methods) if is_protocol else 0, PROTOCOL_METHODS),
        ("vague name", int(is_vague(node.name)), 0),
    ]
    yield from over_budget(source, node.name, measured)


def over_budget(source: Source, name: str, measured: Iterable[tuple[str, float, int]]) -> Iterator[Finding]:
    for budget, value, limit in measured:
        if value > limit:
            yield Finding(source.module, name, budget, f"{source.module}:{name or '-'}: {budget} {value:g} > {limit}")


def judge_module(source: Source) -> Iterator[Finding]:
    vague = any(is_vague(part) for part in Path(source.module).with_suffix("").parts)
    yield from over_budget(source, "", [("module lines", code_lines(source), MODULE_LINES), ("vague name", vague, 0)])
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from judge_function(source, node)
        if isinstance(node, ast.ClassDef):
            yield from judge_class(source, node)


def system_of(source: Source) -> str:
    """Returns the system that a module belongs to, its wire, its world, its forecasts, or one of PARTS."""
    parts = Path(source.module).parts
    room = ROOMS.get(source.module) or ROOMS.get(parts[0])
    if room:
        return room
    if parts[0] in EDGES:
        return "edges"
    if parts[0] in ENGINE or source.module in ENGINE:
        return "feature engine"
    if parts[0] == "models" or source.module in INDEXES:
        return "shared models"
    if parts[0] == "statistics":
        return "statistics"
    if parts[0].removesuffix(".py") in LOOP:
        return "loop"
    if len(parts) == 2 or parts[0] != "systems":
        return ""
    if parts[2].startswith("wire"):
        return f"{parts[1]} wire"
    if parts[2] == "forecast":
        return f"{parts[1]} forecast"
    return f"{parts[1]} world" if parts[2].startswith(("world", "simulate")) else parts[1]


def judge_package(sources: list[Source]) -> Iterator[Finding]:
    """Yields what exceeds a budget of the whole package: sizes, the median function, copies between systems."""
    sizes: dict[str, int] = {}
    for source in sources:
        sizes[system_of(source)] = sizes.get(system_of(source), 0) + code_lines(source)
    lengths = [function_lines(function) for source in sources for function in functions(source)]
    package = Source("decalog", "", ast.Module([], []))
    measured: list[tuple[str, float, int]] = [
        ("shared lines", sum(size for part, size in sizes.items() if part in PARTS), SHARED_LINES),
        ("spine lines", sizes.pop("", 0), SPINE_LINES),
        ("edge lines", sizes.pop("edges", 0), EDGE_LINES),
        ("feature engine lines", sizes.pop("feature engine", 0), ENGINE_LINES),
        ("shared model lines", sizes.pop("shared models", 0), MODEL_LINES),
        ("loop lines", sizes.pop("loop", 0), LOOP_LINES),
        ("statistics lines", sizes.pop("statistics", 0), STATISTICS_LINES),
        *((f"{room} lines", sizes.pop(room, 0), most) for room, most in ROOM_LINES.items()),
        ("median function lines", statistics.median(lengths or [0]), FUNCTION_LINES_MEDIAN),
    ]
    yield from over_budget(package, "", measured)
    for system, size in sizes.items():
        most = APART.get(system.partition(" ")[2], SYSTEM_LINES)
        yield from over_budget(package, system, [("system lines", size, most)])
    yield from judge_copies(package, sources)


def judge_copies(package: Source, sources: list[Source]) -> Iterator[Finding]:
    shapes: dict[str, list[str]] = {}
    for source in sources:
        if system_of(source) not in PARTS:
            shapes.setdefault(system_of(source), []).extend(skeleton(source.tree))
    for one, other in itertools.combinations(sorted(shapes), 2):
        share = copied_percent(shapes[one], shapes[other])
        yield from over_budget(package, f"{one} and {other}", [("copied percent", share, COPIED_PERCENT)])


def skeleton(tree: ast.Module) -> list[str]:
    """Returns the module's code lines without imports and docstrings, in one normal form."""
    bare = ast.parse(ast.unparse(tree))
    for node in ast.walk(bare):
        if docstring(node) and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = node.body[1:] or [ast.Pass()]
    lines = (line.strip() for line in ast.unparse(bare).splitlines())
    return [line for line in lines if line and not line.startswith(("import ", "from "))]


def copied_percent(one: list[str], other: list[str]) -> float:
    """Returns how many percent of the smaller list stand in both, in runs of `COPIED_RUN` lines or more."""
    blocks = difflib.SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    copied = sum(block.size for block in blocks if block.size >= COPIED_RUN)
    return 100 * copied / max(1, min(len(one), len(other)))


def judge(sources: list[Source]) -> list[Finding]:
    modules = [finding for source in sources for finding in judge_module(source)]
    return [*modules, *judge_package(sources)]


def test_package_keeps_its_budgets() -> None:
    findings = [finding for finding in judge(read_package(PACKAGE)) if not finding.keys & EXCEPTIONS.keys()]
    assert not findings, "\n" + "\n".join(finding.text for finding in findings)


def test_every_exception_is_needed_and_has_a_reason() -> None:
    needed = set().union(*(finding.keys for finding in judge(read_package(PACKAGE))))
    assert not [key for key in EXCEPTIONS if key not in needed]
    assert all(len(reason) > 10 for reason in EXCEPTIONS.values())


def source_of(text: str, module: str = "sample.py") -> Source:
    return Source(module, text, ast.parse(text))


def lines_of(count: int, indent: str = "") -> str:
    return "\n".join(f"{indent}x = {number}" for number in range(count))


NESTED = "def f(a):\n for b in a:\n  for c in b:\n   for d in c:\n    for e in d: g(e)"
BRANCHED = "def f(a):\n" + "\n".join(f" if a == {number}: return" for number in range(10))
METHODS = "\n".join(f" def m{number}(self): ..." for number in range(13))
CHAIN = "def f(a):\n if a == 1: g()\n elif a == 2: g()\n elif a == 3: g()\n elif a == 4: g()"


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        (lines_of(401), "module lines"),
        ("def f():\n" + lines_of(60, " "), "function lines"),
        (BRANCHED, "complexity"),
        (NESTED, "nesting"),
        ("def f(a, b, *, c, d, e, g, h): ...", "parameters"),
        ("def f(a, b, c): ...", "positional parameters"),
        ("class A:\n def f(self, a, b, c): ...", "positional parameters"),
        ("@fast.jit()\ndef f(a, b, c): ...", "positional parameters"),
        ("def f(**kwargs): ...", "**kwargs in a public function"),
        ("class A:\n" + METHODS, "public methods"),
        ("class A(Protocol):\n" + METHODS.replace("m6", "_m6").split(" def m7")[0], "protocol methods"),
        ("class EventManager: ...", "vague name"),
        ("def decide_v2(): ...", "vague name"),
    ],
)
def test_one_step_over_a_budget_is_found(text: str, budget: str) -> None:
    assert budget in {finding.budget for finding in judge_module(source_of(text))}


@pytest.mark.parametrize(
    "text",
    [
        lines_of(400) + "\n# comment\n\n",
        '"""' + "prose\n" * 500 + '"""',
        "def f():\n '''" + "prose\n" * 80 + "'''\n" + lines_of(59, " "),
        BRANCHED.rsplit("\n", 1)[0],
        CHAIN,
        "class A:\n def f(self, a, b, *, c, d, e, g): ...",
        "def _f(**kwargs): ...",
        "def _f(a, b, c): ...",
        "@app.command()\ndef f(a, b, c, d, e, g, h): ...",
        "class A:\n" + METHODS.rsplit("\n", 1)[0],
        "class A:\n" + METHODS.replace("m12", "_m12"),
        "def commonest(): ...",
    ],
)
def test_what_just_keeps_a_budget_passes(text: str) -> None:
    assert not [finding.text for finding in judge_module(source_of(text))]


def test_a_vague_module_name_is_found() -> None:
    findings = judge_module(source_of("", module="systems/fraud/utils.py"))
    assert [finding.budget for finding in findings] == ["vague name"]


def test_sizes_of_spine_and_system_are_counted_apart() -> None:
    spine = [source_of(lines_of(2_001), module=f"m{number}.py") for number in range(4)]
    system = source_of(lines_of(3_001), module="systems/fraud/a.py")
    budgets = [(finding.name, finding.budget) for finding in judge_package([*spine, system])]
    assert budgets == [("", "spine lines"), ("fraud", "system lines")]


@pytest.mark.parametrize(("room", "most"), [("wire_x.py", 1_000), ("world/x.py", 1_000), ("forecast/x.py", 3_000)])
def test_a_part_of_a_system_is_counted_apart_from_it(room: str, most: int) -> None:
    def large(part_lines: int) -> list[str]:
        part = source_of(lines_of(part_lines), module=f"systems/ads/{room}")
        system = source_of(lines_of(3_000), module="systems/ads/a.py")
        return [found.name for found in judge_package([system, part]) if found.budget == "system lines"]

    assert not large(most)
    assert large(most + 1) == [f"ads {re.split('[_/]', room)[0]}"]


def test_the_feature_engine_is_counted_apart() -> None:
    engine = [source_of(lines_of(2_001), module=f"features/m{number}.py") for number in range(3)]
    assert [finding.budget for finding in judge_package(engine)] == ["feature engine lines"]


def test_the_loop_is_counted_apart_whether_a_room_is_a_file_or_a_folder() -> None:
    rooms = ["examples.py", "monitoring/alerts.py", "training.py"]
    assert not list(judge_package([source_of(lines_of(2_000), module=room) for room in rooms]))
    loop = [source_of(lines_of(2_001), module=room) for room in rooms]
    assert [finding.budget for finding in judge_package(loop)] == ["loop lines"]


def test_statistics_are_counted_apart_from_the_loop() -> None:
    found = judge_package([source_of(lines_of(1_501), module="statistics/drift.py")])
    assert [finding.budget for finding in found] == ["statistics lines"]


def test_every_room_of_the_loop_is_there() -> None:
    assert set(LOOP) <= {path.stem for path in PACKAGE.iterdir()}


def test_shared_lines_that_grew_too_many_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SHARED_LINES", 59)
    shared = [source_of(lines_of(30), module=module) for module in ("log.py", "privacy/erasure.py")]
    assert "shared lines" in {finding.budget for finding in judge_package(shared)}
    assert "shared lines" not in {finding.budget for finding in judge_package(shared[:1])}
    systems = [source_of(lines_of(30), module=f"systems/{system}/a.py") for system in ("ads", "feed")]
    assert "shared lines" not in {finding.budget for finding in judge_package(systems)}


@pytest.mark.parametrize(
    ("module", "most"), [("privacy/erasure.py", 2_000), ("cli_check.py", 2_600), ("control_room/pages.py", 4_000)]
)
def test_a_room_of_its_own_has_a_budget_of_its_own(module: str, most: int) -> None:
    names = {finding.budget for finding in judge_package([source_of(lines_of(most + 1), module=module)])}
    assert names == {f"{ROOMS[module.partition('/')[0]]} lines"}


def test_a_long_median_function_is_found() -> None:
    body = "def f():\n" + lines_of(9, " ")
    assert "median function lines" in {finding.budget for finding in judge_package([source_of(body)])}


def test_a_system_copied_to_start_another_is_found() -> None:
    text = lines_of(30)
    copies = [source_of(text, module=f"systems/{system}/a.py") for system in ("ads", "feed")]
    assert [finding.name for finding in judge_package(copies)] == ["ads and feed"]


def test_systems_of_one_shape_with_their_own_lines_are_no_copies() -> None:
    ads = source_of(lines_of(30), module="systems/ads/a.py")
    feed = source_of(lines_of(30).replace("x", "y"), module="systems/feed/a.py")
    assert not list(judge_package([ads, feed]))
