"""Rules that a log suggests: the nodes of one shallow tree in which stopping payments would have saved money."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from decalog.evaluation import plain_split, split
from decalog.examples import Bools, Floats, History
from decalog.systems.fraud.policy import ALLOW, BLOCK, REVIEW, STEP_UP, FraudPolicy
from decalog.systems.fraud.rules.backtest import Payments
from decalog.systems.fraud.rules.facts import p_fraud
from decalog.systems.fraud.rules.language import constant_text
from decalog.systems.fraud.schema import SCHEMA

_TREE = {"objective": "regression", "num_leaves": 8, "max_depth": 3, "min_data_in_leaf": 10, "learning_rate": 1.0}
_SAME_EVERYWHERE = {"deterministic": True, "force_row_wise": True, "num_threads": 1, "seed": 0, "verbosity": -1}
_TEST_SHARE = 0.3

_STOPS = {"block": BLOCK, "review": REVIEW, "3ds": STEP_UP}


def suggest(history: History, payments: Payments, *, policy: FraudPolicy) -> tuple[str, int]:
    """Returns rules, one a line, best first, and the time up to which payments were looked at, µs: later ones judge.

    Learnt from labels that were known at that time, and from what the model caught: a payment whose label will never be
    known, because it was stopped, counts as a fraud by the probability that was predicted for it.
    """
    parts = split(history, test_share=_TEST_SHARE)
    if not np.any(parts.train.labels == 1):
        parts = plain_split(history, test_share=_TEST_SHARE)
    now, told = payments.examples, dict(zip(parts.train.seqs.tolist(), parts.train.labels.tolist(), strict=True))
    chances = np.full(now.n, np.nan)
    for place, (seq, why, case) in enumerate(zip(now.seqs.tolist(), now.why, payments.cases, strict=True)):
        caught = p_fraud(case) if why == "unobserved" and now.times[place] < parts.trained_at else None
        chances[place] = told.get(seq, np.nan if caught is None else caught)
    used = ~np.isnan(chances)
    pairs = list(zip(chances[used].tolist(), now.amounts[used].tolist(), strict=True))
    costs = {
        action: np.array([policy.cost_minor(action, label=p, amount_minor=a) for p, a in pairs], np.float64)
        for action in SCHEMA.actions
    }
    rules = _rules(history, now.rows[used], costs) if pairs else []
    return "\n".join(f"[suggested_{place}] {rule}" for place, rule in enumerate(rules, 1)), parts.trained_at


def _rules(history: History, rows: Floats, costs: Mapping[str, Floats]) -> list[str]:
    """Returns the rules that save most, best first, none for payments that a better one stops.

    A node beats those below it where all of them are worth a stop, and is the simpler rule.
    """
    features = [f for f in history.features.features if f.use == "model" and f.name not in SCHEMA.request.attributes]
    columns = {feature.name: rows[:, history.features.names.index(feature.name)] for feature in features}
    for feature in features:
        column = columns[feature.name]
        column[(column == feature.missing_value) & (column != 0)] = np.nan  # as a rule reads it
    found = []
    for condition, inside in _nodes(columns, costs[ALLOW] - costs[BLOCK]):
        saved = {does: _surely((costs[ALLOW] - costs[action])[inside]) for does, action in _STOPS.items()}
        best = max(saved, key=saved.__getitem__)
        found.append((-saved[best], f"{best} if {condition}", inside))
    rules, stopped = list[str](), np.zeros(len(rows), np.bool_)
    for lost, rule, inside in sorted(found, key=lambda candidate: (candidate[0], len(candidate[1]))):
        if lost < 0 and not np.any(inside & stopped):
            rules.append(rule)
            stopped |= inside
    return rules


def _surely(gains: Floats) -> float:
    """Returns the lower end of the sum's 95 % interval, so that one dear fraud among many payments makes no rule."""
    return float(np.sum(gains) - 1.96 * np.std(gains) * np.sqrt(len(gains)))


def _nodes(columns: Mapping[str, Floats], gains: Floats) -> Iterator[tuple[str, Bools]]:
    """Yields each node of a tree over what blocking would have saved: its condition, and which rows it holds."""
    import lightgbm

    data = lightgbm.Dataset(np.column_stack(list(columns.values())), gains)
    tree = lightgbm.train(_TREE | _SAME_EVERYWHERE, data, num_boost_round=1).dump_model()["tree_info"][0]
    names = list(columns)
    waiting: list[tuple[Any, Bools, dict[str, str]]] = [(tree["tree_structure"], np.ones(len(gains), np.bool_), {})]
    while waiting:
        node, inside, tests = waiting.pop()
        if tests:
            yield " and ".join(tests.values()), inside
        if "split_feature" not in node:
            continue
        name, edge = names[node["split_feature"]], node["threshold"]
        low, high = columns[name] <= edge, columns[name] > edge
        for child, side, sign, nearest in (("left_child", low, "<=", np.max), ("right_child", high, ">=", np.min)):
            if side.any():
                # `>= 4` reads better than the tree's `> 3.5000000000000004`, and is the same on these rows.
                test = f":{name}: {sign} {constant_text(float(nearest(columns[name][side])))}"
                waiting.append((node[child], inside & side, tests | {f"{name} {sign}": test}))
