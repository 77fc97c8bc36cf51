"""Conditions at random, well typed, over names that fraud's rules know."""

from __future__ import annotations

from hypothesis import strategies as st

from decalog.systems.fraud.rules.language import Kind, Node, Vocabulary

WORDLIST: dict[Kind, list[str]] = {
    "number": ["amount", "p_fraud", "amount_in_usd", "hour_utc"],
    "text": ["channel", "merchant", "ip_country"],
    "entity": ["card"],
}
FREE = Vocabulary(
    kinds={name: kind for kind, names in WORDLIST.items() for name in names} | {"@card": "number"},
    lists=("trusted",),
    refused={},
)


def name(kind: Kind) -> st.SearchStrategy[Node]:
    return st.sampled_from(WORDLIST[kind]).map(lambda word: Node("name", value=word, kind=kind))


# Few and small beside many: a number must meet its equal now and then.
some = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]) | st.floats(-1e12, 1e12, allow_nan=False)
floats = some.map(lambda value: Node("value", value=value, kind="number"))
words = st.text(st.characters(exclude_characters="\n'", codec="utf-8"), max_size=8)
texts = words.map(lambda value: Node("value", value=value, kind="text"))


def count(parts: tuple[str, Node, Node]) -> Node:
    return Node(parts[0], parts[1:], kind="number")


def minus(node: Node) -> Node:
    # The parser makes one constant of a sign and a number.
    return (
        Node("value", value=-float(node.value), kind="number")
        if node.op == "value"
        else Node("minus", (node,), kind="number")
    )


numbers = st.recursive(
    floats | name("number"),
    lambda inner: st.tuples(st.sampled_from("+-*/"), inner, inner).map(count) | inner.map(minus),
    max_leaves=6,
)
comparisons = (
    st.tuples(st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), numbers, numbers).map(lambda p: Node(p[0], p[1:]))
    | st.tuples(st.sampled_from(["=", "!="]), texts | name("text"), texts | name("text")).map(
        lambda p: Node(p[0], p[1:])
    )
    | st.tuples(numbers, floats, floats).map(lambda p: Node("in", p))
    | st.tuples(name("text"), texts).map(lambda p: Node("in", p))
    | st.tuples(st.sampled_from([n for k in WORDLIST for n in WORDLIST[k]])).map(
        lambda p: Node("missing", (Node("name", value=p[0], kind=FREE.kinds[p[0]]),))
    )
    | st.just(Node("listed", (Node("name", value="card", kind="entity"),), "trusted"))
    | st.booleans().map(lambda value: Node("value", value=value))
)


def joined(parts: tuple[str, list[Node]]) -> Node:
    op, nodes = parts
    # A chain that begins with a chain of its own kind is one chain to the parser.
    first = nodes[0].parts if nodes[0].op == op else (nodes[0],)
    return Node(op, (*first, *nodes[1:]))


conditions = st.recursive(
    comparisons,
    lambda inner: (
        st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3)).map(joined)
        | inner.map(lambda node: Node("not", (node,)))
        | st.tuples(st.sampled_from(["=", "!="]), inner, inner).map(lambda p: Node(p[0], p[1:]))
    ),
    max_leaves=8,
)
