"""Heads: several actions at once, calibrated, freed of what the slot added to them; a rare one says its base rate."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from tests.models.training_sets import assert_same_bits_alone_and_among_others

from decalog.errors import ConfigError, DataError, ModelError
from decalog.models import examination, heads
from decalog.models.base import Floats
from decalog.models.formats import load_model
from decalog.models.heads import Heads, HeadsParams, HeadsTrainingSet, SimpleHeads
from decalog.models.linear import Prior

NAMES = ("quality", "taste", "rate", "noise")
SLOTS = 10
TRUTH: Floats = -0.8 * np.arange(SLOTS, dtype=np.float64) ** 0.7
"""Log odds that a slot adds to an action."""
SMALL = HeadsParams(trees=40, learning_rate=0.1, leaves=15, rows_a_leaf=20, isotonic_from=300)


class World(NamedTuple):
    data: HeadsTrainingSet
    logits: Floats
    """Of a click and of a share at the first position, n × 2."""


def logits_of(rows: Floats) -> Floats:
    clicks = -0.5 + 1.2 * rows[:, 0] + 0.8 * np.sin(2 * rows[:, 1])
    return np.column_stack([clicks, clicks - 1.5 + 0.7 * rows[:, 1]])


def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    rows = rng.normal(size=(*shape, len(NAMES)))
    rows[:, :, 2] = 1 / (1 + np.exp(-rows[:, :, 0]))
    return rows


@functools.cache
def world(slates: int = 2_000, *, seed: int = 0, noise: float = 0.7, drawn: float = 0.0, dealt: bool = False) -> World:
    """Slates that a policy ordered by quality and noise, or, a share `drawn` of them, by lot.

    Where they are `dealt`, every slate has rows of the same ten qualities.
    """
    rng = np.random.default_rng(seed)
    rows = draw(rng, (slates, SLOTS))
    if dealt:
        rows[:, :, 0] = np.linspace(1.5, -1.5, SLOTS)
    by_lot = rng.random(slates) < drawn
    spread = np.where(by_lot[:, None], 1e9, noise) * rng.normal(size=(slates, SLOTS))
    order = np.argsort(-(rows[:, :, 0] + spread), axis=1)
    flat = np.take_along_axis(rows, order[:, :, None], axis=1).reshape(-1, len(NAMES))
    positions = np.tile(np.arange(SLOTS), slates)
    logits = logits_of(flat)
    chances = 1 / (1 + np.exp(-(logits + TRUTH[positions][:, None])))
    labels = np.column_stack([rng.random(chances.shape) < chances, np.arange(len(flat)) % 1_000 == 0]).astype(float)
    groups = np.repeat(np.arange(slates), SLOTS)
    times = groups * 1_000_000 + positions
    data = HeadsTrainingSet(
        NAMES,
        ("p_click", "p_share", "p_report"),
        flat,
        labels,
        positions,
        times,
        groups,
        None,
        np.repeat(by_lot, SLOTS),
    )
    return World(data, logits)


@pytest.fixture(scope="module")
def model() -> Heads:
    return heads.fit_heads(world().data, 1, params=SMALL)


def far_off(found: tuple[float, ...] | Floats) -> float:
    """The greatest error of a curve of examination."""
    return float(np.max(np.abs(np.array(found) - np.exp(TRUTH))))


def test_predictions_are_those_of_the_first_slot_and_calibrated(model: Heads) -> None:
    rows = draw(np.random.default_rng(9), (1, 20_000))[0]
    truth = 1 / (1 + np.exp(-logits_of(rows)))
    found = model.predict(rows)
    assert found.shape == (20_000, 3)
    for column in range(2):
        assert np.corrcoef(found[:, column], truth[:, column])[0, 1] > 0.9
        bins = np.array_split(np.argsort(found[:, column]), 5)
        gaps = [abs(found[one, column].mean() - truth[one, column].mean()) for one in bins]
        assert np.mean(gaps) < 0.05
    assert [type(head.calibrator).__name__ for head in model.described] == ["Isotonic", "Isotonic", "Sigmoid"]
    assert all(0 < head.trees <= SMALL.trees for head in model.described[:2])


def test_a_row_alone_has_the_bits_that_it_has_among_others(model: Heads) -> None:
    assert_same_bits_alone_and_among_others(model, world().data.rows[:300])


def test_a_saved_model_predicts_the_same(model: Heads, tmp_path: Path) -> None:
    settings = msgspec.json.decode(msgspec.json.encode(model.save(tmp_path)))
    again = load_model("heads", tmp_path, settings=settings)
    rows = world().data.rows[:300]
    assert again.predict(rows).tobytes() == model.predict(rows).tobytes()
    assert isinstance(again, Heads)
    assert (again.heads, again.examination) == (model.heads, model.examination)
    assert settings["heads"] == ["p_click", "p_share", "p_report"]
    assert settings["trees"]["p_report"] == 0


def test_the_same_rows_and_seed_give_the_same_bytes(model: Heads, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, fitted in zip(folders, (model, heads.fit_heads(world().data, 1, params=SMALL)), strict=True):
        folder.mkdir()
        fitted.save(folder)
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1] == ["head-0.txt", "head-1.txt", "heads.json"]
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names[0])


def marginal(data: HeadsTrainingSet) -> Floats:
    """The curve that one sees by counting clicks a slot: bias and quality together."""
    rates = np.array([data.labels[data.positions == slot, 0].mean() for slot in range(SLOTS)])
    return np.asarray(rates / rates[0], np.float64)


def test_what_a_slot_adds_is_found_among_slates_that_quality_ordered(model: Heads) -> None:
    assert far_off(marginal(world().data)) > 0.15
    assert far_off(model.examination["p_click"]) < 0.07
    assert far_off(model.examination["p_share"]) < 0.12
    assert model.examination["p_click"][0] == 1.0


def test_slots_filled_by_lot_tell_what_a_strict_order_hides() -> None:
    # Quality alone decides, and alike in each slate: nothing tells it from the slot.
    strict, partly = (world(noise=0.0, dealt=True, drawn=share).data for share in (0.0, 0.3))
    hidden, told = (heads.fit_heads(data, 1, params=SMALL).examination["p_click"] for data in (strict, partly))
    assert far_off(hidden) > 0.3
    assert far_off(told) < 0.1


def test_slots_filled_by_lot_correct_for_what_the_policy_knew_and_the_features_do_not() -> None:
    data = world(noise=0.3, drawn=0.1).data
    rows = data.rows.copy()
    rows[:, [0, 2]] = 0.0
    told, blind = (
        heads.fit_heads(msgspec.structs.replace(data, rows=rows, randomised=by_lot), 1, params=SMALL).examination
        for by_lot in (data.randomised, None)
    )
    errors = [np.mean(np.abs(np.log(one["p_click"]) - TRUTH)) for one in (told, blind)]
    assert errors[0] < 0.5 * errors[1]


def test_heads_that_are_not_examined_keep_what_slots_add() -> None:
    params = msgspec.structs.replace(SMALL, examined=("p_share",))
    found = heads.fit_heads(world().data, 1, params=params).examination
    assert set(found["p_click"]) == {1.0}
    assert found["p_share"][-1] < 0.3


def test_slates_of_one_slot_need_no_curve() -> None:
    data = world(slates=3_000).data
    first = data.positions == 0
    parts = {name: getattr(data, name)[first] for name in ("rows", "labels", "positions", "times", "groups")}
    alone = msgspec.structs.replace(data, randomised=None, **parts)
    assert heads.fit_heads(alone, 1, params=SMALL).examination["p_click"] == (1.0,)


def test_deep_positions_share_the_last_curve() -> None:
    params = msgspec.structs.replace(SMALL, most_positions=4)
    assert len(heads.fit_heads(world().data, 1, params=params).examination["p_click"]) == 4


def test_a_rare_head_says_its_base_rate_at_the_first_slot(model: Heads) -> None:
    data, head = world().data, model.described[2]
    assert (head.trees, head.positives, head.known) == (0, 20, len(data.rows))
    found = model.predict(data.rows[:50])[:, 2]
    assert len(np.unique(found)) == 1
    seen = sum(model.examination["p_report"][slot] for slot in data.positions)
    assert found[0] == pytest.approx((20 + 1) / (seen + 2))
    assert found[0] > data.labels[:, 2].mean()


def test_a_head_that_became_rare_at_the_end_goes_on_knowing_what_it_knew() -> None:
    """What is ranked well is hidden less: a ranker that then forgot what is hidden would show it again."""
    data, logits = world()
    labels = data.labels.copy()
    labels[data.groups >= 1_700, 1] = 0.0
    rows = data.rows[-2_000:]
    said = heads.fit_heads(msgspec.structs.replace(data, labels=labels), 0, params=SMALL).predict(rows)[:, 1]
    assert np.corrcoef(np.log(said), logits[-2_000:, 1])[0, 1] > 0.8


def test_a_head_that_nobody_knows_yet_and_one_that_always_happens_stay_inside_the_unit_interval() -> None:
    data = world(slates=200).data
    labels = np.column_stack([np.full(2_000, np.nan), np.ones(2_000), data.labels[:, 0]])
    fitted = heads.fit_heads(msgspec.structs.replace(data, labels=labels), 1, params=SMALL)
    found = fitted.predict(data.rows[:1])[0]
    assert found[0] == pytest.approx(0.5)
    assert 0.9 < found[1] < 1
    assert [head.trees > 0 for head in fitted.described] == [False, False, True]


def test_only_rare_heads_still_make_a_model(tmp_path: Path) -> None:
    data = world(slates=50).data
    rare = msgspec.structs.replace(data, heads=data.heads[2:], labels=data.labels[:, 2:])
    fitted = heads.fit_heads(rare, 1, params=SMALL)
    again = heads.load(tmp_path, fitted.save(tmp_path))
    assert again.predict(data.rows[:2]).tobytes() == fitted.predict(data.rows[:2]).tobytes()


GIVEN = msgspec.structs.replace(SMALL, given={"p_share": "p_click"})


@functools.cache
def within(slates: int = 2_000) -> World:
    """A world where one shares what one clicked only: P(share | click) rises with taste."""
    before = world(slates)
    clicks = before.data.labels[:, 0]
    chance = 1 / (1 + np.exp(-1.5 * before.data.rows[:, 1]))
    shares = clicks * (np.random.default_rng(7).random(len(clicks)) < chance)
    labels = np.column_stack([clicks, shares, before.data.labels[:, 2]])
    return World(msgspec.structs.replace(before.data, labels=labels), before.logits)


@pytest.mark.parametrize("fit", [heads.fit_heads, heads.fit_logistic_heads])
def test_what_needs_another_action_is_never_likelier_than_it(
    fit: Callable[..., Heads | SimpleHeads], tmp_path: Path
) -> None:
    rows = draw(np.random.default_rng(9), (1, 20_000))[0]
    apart, fitted = (fit(within().data, 1, params=params) for params in (SMALL, GIVEN))
    assert (apart.predict(rows)[:, 1] > apart.predict(rows)[:, 0]).any(), "heads that are fitted apart do not know it"
    found = fitted.predict(rows)
    assert (found[:, 1] < found[:, 0]).all()
    assert found[:, 0].tobytes() == apart.predict(rows)[:, 0].tobytes()
    assert found[:, 2].tobytes() == apart.predict(rows)[:, 2].tobytes()
    assert_same_bits_alone_and_among_others(fitted, rows[:50])
    again = load_model("heads", tmp_path, settings=msgspec.json.decode(msgspec.json.encode(fitted.save(tmp_path))))
    assert again.predict(rows).tobytes() == found.tobytes()


def test_what_needs_another_action_is_calibrated_and_owes_its_slot_nothing() -> None:
    rows = draw(np.random.default_rng(9), (1, 20_000))[0]
    truth = 1 / (1 + np.exp(-logits_of(rows)[:, 0])) / (1 + np.exp(-1.5 * rows[:, 1]))
    apart, fitted = (heads.fit_heads(within().data, 1, params=params) for params in (SMALL, GIVEN))

    def gap(model: Heads) -> float:
        found = model.predict(rows)[:, 1]
        bins = np.array_split(np.argsort(found), 10)
        return float(np.mean([abs(found[one].mean() - truth[one].mean()) for one in bins]))

    assert gap(fitted) < 0.03
    assert gap(fitted) < gap(apart)
    assert fitted.described[1].known == int(within().data.labels[:, 0].sum())
    assert set(fitted.examination["p_share"]) == {1.0}
    assert fitted.contributions_to(rows[:2], "p_share") is None


def test_where_things_stood_is_told_too() -> None:
    """In an order by quality, what is predicted for the first slot is too high for the others."""
    fitted, data = heads.fit_heads(within().data, 1, params=GIVEN), within().data
    first = fitted.predict(data.rows)
    found, late = fitted.as_shown(first, data.positions), data.positions >= SLOTS // 2
    for column in range(2):
        happened = data.labels[late, column].mean()
        assert found[late, column].mean() == pytest.approx(happened, rel=0.12)
        assert first[late, column].mean() > 1.25 * happened
    assert found[~late & (data.positions == 0)] == pytest.approx(first[~late & (data.positions == 0)])
    assert (found[:, 1] < found[:, 0]).all()


def test_what_happened_says_that_the_action_it_needs_happened_too() -> None:
    data = within(500).data
    labels = data.labels.copy()
    labels[labels[:, 1] == 1, 0] = 0.0  # told of the share alone
    params = msgspec.structs.replace(GIVEN, least=30)
    whole, some = (
        heads.fit_heads(msgspec.structs.replace(data, labels=told), 1, params=params) for told in (data.labels, labels)
    )
    assert some.described == whole.described
    unknown = labels.copy()
    unknown[labels[:, 1] == 1, 0] = np.nan  # not yet matured: its positives alone would be no fair part
    fewer = heads.fit_heads(msgspec.structs.replace(data, labels=unknown), 1, params=params)
    assert fewer.described[0].known == int(np.sum(labels[:, 1] != 1))


def test_unknown_labels_teach_nothing() -> None:
    data = world().data
    labels = data.labels.copy()
    labels[data.rows[:, 1] > 1, 1] = np.nan  # such rows are there for another head only
    some = heads.fit_heads(msgspec.structs.replace(data, labels=labels), 1, params=SMALL)
    assert some.described[1].known == int(np.sum(data.rows[:, 1] <= 1))
    assert some.described[0] == heads.fit_heads(data, 1, params=SMALL).described[0]


def test_a_weight_stands_for_so_many_rows() -> None:
    data = world().data
    # Nine in ten rows without a click are left out, and the others stand for ten.
    kept = (data.labels[:, 0] > 0) | (np.random.default_rng(3).random(len(data.rows)) < 0.1)
    parts = {name: getattr(data, name)[kept] for name in ("rows", "labels", "positions", "times", "groups")}
    weights = np.where(parts["labels"][:, 0] > 0, 1.0, 10.0)
    thin = msgspec.structs.replace(data, randomised=None, weights=weights, **parts)
    whole, fitted = (heads.fit_heads(one, 1, params=SMALL) for one in (data, thin))
    rows = draw(np.random.default_rng(4), (1, 4_000))[0]
    unweighted = heads.fit_heads(msgspec.structs.replace(thin, weights=None), 1, params=SMALL)
    wanted = whole.predict(rows)[:, 0].mean()
    assert fitted.predict(rows)[:, 0].mean() == pytest.approx(wanted, abs=0.15)
    assert unweighted.predict(rows)[:, 0].mean() > wanted + 0.3
    assert far_off(fitted.examination["p_click"]) < 0.08


def test_contributions_add_up_to_the_log_odds_of_a_head(model: Heads) -> None:
    plain = heads.fit_heads(world().data, 1, params=msgspec.structs.replace(SMALL, calibration="sigmoid"))
    rows = world().data.rows[:20]
    for place, name in enumerate(plain.heads):
        found = plain.contributions_to(rows, name)
        assert found is not None
        p = plain.predict(rows)[:, place]
        assert found.sum(axis=1) == pytest.approx(np.log(p / (1 - p)))
    assert model.contributions_to(rows, "p_click") is None
    with pytest.raises(ConfigError, match=r"contributions_to, head: 'p_clck'. Expected 'p_click' \(closest match\)"):
        plain.contributions_to(rows, "p_clck")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "heads.json").unlink(), r"heads.json: a file that cannot be read \(FileNotFound"),
        (lambda folder: (folder / "heads.json").write_bytes(b"{"), r"heads.json: a file that cannot be read \(Decode"),
        (lambda folder: (folder / "head-1.txt").unlink(), r"head-1.txt: a file that cannot be read \(No such file"),
        (lambda folder: (folder / "head-0.txt").write_bytes(b"tree"), r"head-0.txt: 4 bytes that do not fit the hash"),
    ],
)
def test_damage_is_named(model: Heads, tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    settings = model.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=rf"model file {message}"):
        heads.load(tmp_path, settings)


def test_rows_of_another_width_are_refused(model: Heads) -> None:
    with pytest.raises(ModelError, match=r"prediction: an array of shape \(2, 3\). Expected rows × 4 features"):
        model.predict(np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (HeadsParams(examined=("p_clik",)), r"heads parameters, examined: 'p_clik'. Expected 'p_click' \(closest"),
        (HeadsParams(given={"p_shar": "p_click"}), r"heads parameters, given: 'p_shar'. Expected 'p_share' \(closest"),
        (HeadsParams(given={"p_share": "p_clik"}), r"heads parameters, given, p_share: 'p_clik'. Expected 'p_click'"),
        (HeadsParams(given={"p_click": "p_share"}), r"heads parameters, given, p_click: 'p_share'. Expected "),
        (HeadsParams(leaves=65), r"heads parameters, leaves: 65. Expected at most 64. Grow smaller trees"),
        (HeadsParams(rising=("qualty",)), r"boosted parameters, rising: feature 'qualty'"),
    ],
)
def test_parameters_that_name_nothing_or_ask_too_much_are_refused(params: HeadsParams, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        heads.fit_heads(world(slates=50).data, 1, params=params)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("labels", np.full((500, 3), 0.5)),
        ("labels", np.zeros((500, 2))),
        ("rows", np.full((500, 4), np.inf)),
        ("positions", np.full(500, -1)),
        ("groups", np.zeros(500, np.int64)),
    ],
)
@pytest.mark.parametrize("fit", [heads.fit_heads, heads.fit_logistic_heads])
def test_what_cannot_be_learnt_from_is_refused(
    fit: Callable[[HeadsTrainingSet, int], object], name: str, value: Floats
) -> None:
    data = msgspec.structs.replace(world(slates=50).data, **{name: value})
    with pytest.raises(DataError, match=r"training set of heads: 500 rows of (50|1) slates .* Expected two slates or"):
        fit(data, 1)


def test_the_logistic_baseline_speaks_of_the_first_slot_too(tmp_path: Path) -> None:
    data = world().data
    fitted = heads.fit_logistic_heads(data, 1, params=SMALL)
    rows = draw(np.random.default_rng(9), (1, 5_000))[0]
    truth = 1 / (1 + np.exp(-logits_of(rows)))
    found = fitted.predict(rows)
    assert np.corrcoef(found[:, 0], truth[:, 0])[0, 1] > 0.8
    assert found[:, 0].mean() == pytest.approx(truth[:, 0].mean(), abs=0.05)
    blind = heads.fit_logistic_heads(data, 1, params=msgspec.structs.replace(SMALL, examined=()))
    assert blind.predict(rows)[:, 0].mean() < 0.8 * truth[:, 0].mean()
    assert isinstance(fitted.models[2], Prior)
    assert_same_bits_alone_and_among_others(fitted, rows[:50])
    again = load_model("heads", tmp_path, settings=fitted.save(tmp_path))
    assert isinstance(again, SimpleHeads)
    assert again.predict(rows).tobytes() == found.tobytes()


def test_the_popularity_baseline_looks_at_its_column_only() -> None:
    fitted = heads.fit_logistic_heads(world().data, 1, params=SMALL, columns=("rate",))
    rows = world().data.rows[:100].copy()
    first = fitted.predict(rows)
    rows[:, [0, 1, 3]] = 7.0
    assert fitted.predict(rows).tobytes() == first.tobytes()
    assert np.all(np.diff(first[np.argsort(rows[:, 2]), 0]) >= 0)
    with pytest.raises(ConfigError, match=r"logistic heads, columns: 'ratte'. Expected 'rate' \(closest match\)"):
        heads.fit_logistic_heads(world().data, 1, columns=("ratte",))


def test_a_curve_without_rows_is_the_prior_and_one_without_hits_stays_finite() -> None:
    none = np.zeros((SLOTS, 3))
    assert examination.fit_curve(none, none, prior=TRUTH, step=0.1) == pytest.approx(TRUTH)
    rows = np.full((SLOTS, 3), 50.0)
    hits = none.copy()
    hits[:3] = 10.0
    found = examination.fit_curve(hits, rows, prior=np.zeros(SLOTS), step=0.5)
    assert found[0] == 0.0
    assert found[1:3] == pytest.approx([0.0, -0.05], abs=0.3)
    assert np.all(np.diff(found[3:]) < 0)
    assert found[-1] > -12


def test_a_curve_from_many_rows_is_the_truth_whatever_was_believed() -> None:
    levels = np.array([-3.0, -1.0, 0.5])
    rows = np.random.default_rng(0).integers(100_000, 200_000, (SLOTS, 3)).astype(float)
    hits = rows / (1 + np.exp(-(TRUTH[:, None] + levels)))
    found = examination.fit_curve(hits, rows, prior=np.linspace(0, 3, SLOTS), step=0.5)
    assert found == pytest.approx(TRUTH, abs=0.01)
