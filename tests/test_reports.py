from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from decalog.metrics import Measurement
from decalog.reports import Completeness, Contender, MetricInfo, Report, Support, Unmeasured

MODEL = Contender(
    name="boosted",
    role="model",
    values={"roc_auc": Measurement(0.9, 0.8, 0.95, 100), "net_loss": Measurement(123_456.4, 1_000.0, 200_000.0, 100)},
    missing=(Unmeasured("card_precision", "tokens of the entity 'card'"),),
    saved_per_1000=Measurement(50.0, -10.0, 90.0, 100),
    actions={"allow": 0.975, "block": 0.025},
)
NOTHING = Contender(
    name="always allow",
    role="baseline",
    values={"net_loss": Measurement(200_000.0, 1.0, 2.0, 100)},
    missing=(),
    saved_per_1000=Measurement(0.0, 0.0, 0.0, 100),
    actions={"allow": 1.0},
)
REPORT = Report(
    system="fraud",
    noun="payment",
    position=1_234,
    known_time=1_000_000,
    trained_at=0,
    train=Completeness(80, 80, 8, {"silence": 72, "chargeback": 8}),
    test=Completeness(20, 20, 2, {"silence": 18, "chargeback": 2}),
    gap=7,
    delay_left_out=True,
    labels=Completeness(200, 124, 10, {"silence": 114, "chargeback": 10, "immature": 70, "unobserved": 6}),
    support=Support(100, 3, 10, 50_000, 20_000),
    late=0,
    currency="EUR",
    metrics=(
        MetricInfo("roc_auc", "model", "how well it ranks", "P(p⁺ > p⁻)", "probability", "higher"),
        MetricInfo("card_precision", "model", "cards", "hits / k", "share", "higher"),
        MetricInfo("net_loss", "business", "money", "1000 · mean cost", "minor units", "lower"),
    ),
    contenders=(NOTHING, MODEL),
)


def test_markdown_tells_parts_values_money_and_what_is_missing() -> None:
    text = REPORT.markdown()
    assert text.startswith("# fraud at log position 1,234, known by 1970-01-01T00:00:01Z\n")
    assert (
        "Labels: 62 % of 200 labels are known, 10 positive (matured without a report 114, chargeback 10, "
        "still awaited 70, unknown after the action that was taken 6)." in text
    )
    assert (
        "- Support: of 100 decisions, 3 were let through by chance and stand for others like them; 10 (10.0%, 40.0% of "
        "the money) are excluded: their action hid the outcome with certainty, so that nothing here holds for them."
    ) in text
    assert "- Gap: 7 payments whose labels were still awaited then." in text
    assert "| boosted | 0.9000 (0.8000 to 0.9500) | – |" in text
    assert (
        "| boosted | 1,234.56 EUR (10.00 to 2,000.00) | 0.50 EUR (-0.10 to 0.90) | allow 97.5 %, block 2.5 % |" in text
    )
    assert "| always allow (baseline) | 2,000.00 EUR" in text
    assert "- card_precision cannot be measured here: it needs tokens of the entity 'card'" in text


def test_a_contender_stands_only_in_the_tiers_it_has_values_of() -> None:
    model, product, business = REPORT.tables()
    assert [row[0] for row in model.rows] == ["boosted"]
    assert product.rows == ()
    assert [row[0] for row in business.rows] == ["always allow (baseline)", "boosted"]


def test_a_split_without_a_gap_and_late_requests_are_said_openly() -> None:
    plain = msgspec.structs.replace(REPORT, delay_left_out=False, late=3)
    assert "Take the figures as optimistic." in plain.markdown()
    assert "Left out: 3 payments that came too late for exact features." in plain.markdown()
    assert "optimistic" not in REPORT.markdown()


def test_money_follows_the_currencys_minor_unit() -> None:
    yen = msgspec.structs.replace(REPORT, currency="JPY")
    assert "123,456 JPY (1,000 to 200,000)" in yen.markdown()


def test_json_reads_back_as_the_same_report() -> None:
    assert msgspec.json.decode(REPORT.to_json(), type=Report) == REPORT


def test_rich_shows_the_same_tables() -> None:
    screen = Console(file=io.StringIO(), width=200)
    screen.print(REPORT)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "Is the prediction right?" in shown
    assert "0.9000 (0.8000 to 0.9500)" in shown
    assert "In brackets: 95 % intervals." in shown


def test_a_contender_is_found_by_name() -> None:
    assert REPORT.contender("boosted") is MODEL
    with pytest.raises(KeyError):
        REPORT.contender("none")


def test_the_brief_report_has_the_parts_and_one_line_a_contender() -> None:
    stage = Contender(name="stage", role="model", values={"recall": Measurement(0.5, 0.4, 0.6, 9)}, missing=())
    lines = msgspec.structs.replace(REPORT, contenders=(NOTHING, stage, MODEL)).brief().splitlines()
    assert lines[0] == "fraud at log position 1,234, known by 1970-01-01T00:00:01Z"
    assert lines[-3].split() == ["roc_auc", "net_loss", "saved", "a", "1,000"]
    assert " ".join(lines[-2].split()) == (
        "always allow (baseline) – 2,000.00 EUR (0.01 to 0.02) 0.00 EUR (0.00 to 0.00)"
    )
    assert lines[-1].startswith("boosted")
    assert "0.9000 (0.8000 to 0.9500)" in lines[-1]
    assert lines[-1].endswith("0.50 EUR (-0.10 to 0.90)")
