"""History goes into the log in the order in which it was known; a bad row costs itself and no other."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import duckdb
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.shop import HEADER, MAPPING, NOW, payment

from decalog.clock import DAY, HOUR, ManualClock, time_us
from decalog.data.importing import import_rows
from decalog.data.mapping import DataMap, read_map
from decalog.decisions import decode_decision
from decalog.errors import ConfigError, DataError, DecalogError
from decalog.events import Record, decode_event
from decalog.home import Home
from decalog.ingest import Ingest, Rates
from decalog.outcomes import decode_outcome
from decalog.systems.fraud.schema import SCHEMA
from decalog.tables import Tables

Write = Callable[..., Path]


def records(ingest: Ingest, kind: str) -> list[Record]:
    return [record for record in ingest.log.read() if record.kind == kind]


def mapped(text: str) -> DataMap:
    return read_map(text, SCHEMA)


def test_rows_become_events_with_exact_amounts_tokens_and_sealed_names(
    write: Write, mapping: DataMap, ingest: Ingest
) -> None:
    report = import_rows(write(payment(0, amount="19.99"), payment(1, currency="USD")), mapping, ingest=ingest)
    assert (report.rows, report.accepted, report.rejected) == (2, 2, {})
    first, second = (decode_event(record.body) for record in records(ingest, "event"))
    assert first.attributes["amount_minor"] == 1999
    assert (second.attributes["currency"], second.attributes["amount_minor"]) == ("USD", 250)
    assert first.attributes["basket"] == 0.0
    assert set(first.entities) == {"card", "device", "merchant"}
    assert b"A. Person" not in b"".join(record.body for record in ingest.log.read())


def test_each_row_keeps_its_own_known_time_and_outcomes_come_later(
    write: Write, mapping: DataMap, ingest: Ingest
) -> None:
    lines = [payment(number, disputed="yes" if number == 3 else "no") for number in range(48)]
    import_rows(write(*reversed(lines)), mapping, ingest=ingest)
    events, (outcome,) = records(ingest, "event"), records(ingest, "outcome")
    start = time_us("2026-01-01T00:00:00Z")
    assert [record.known_time for record in events] == [start + hour * HOUR for hour in range(48)]
    assert [record.id for record in events] == [f"p{number}" for number in range(48)]
    assert outcome.known_time == start + 3 * HOUR + 30 * DAY
    body = decode_outcome(outcome.body)
    assert (body.target, body.kind, body.source, body.value) == ("p3", "chargeback", "issuer", 1.0)


def test_a_column_of_known_times_is_kept_and_what_lies_ahead_of_the_present_is_known_now(
    write: Write, ingest: Ingest
) -> None:
    by_column = mapped(MAPPING.replace('delay = "30d"', 'known_time = { column = "name" }'))
    report = import_rows(
        write(
            payment(0, disputed="yes", name="2026-02-01T00:00:00Z"),
            payment(1, disputed="yes", name="2025-12-01T00:00:00Z"),
            payment(2, disputed="yes", name=""),
            payment(3, disputed="no", name=""),
        ),
        by_column,
        ingest=ingest,
    )
    assert [record.known_time for record in records(ingest, "outcome")] == [time_us("2026-02-01T00:00:00Z")]
    assert report.rejected == {"chargeback": 2}
    assert "known before it happened" in report.examples["chargeback"][0]
    assert "an empty cell" in report.examples["chargeback"][1]
    import_rows(write(payment(9, at="2026-05-30T00:00:00Z", disputed="yes")), mapped(MAPPING), ingest=ingest)
    assert records(ingest, "outcome")[-1].known_time == NOW


def test_the_import_leaves_the_clock_as_it_was_and_a_table_stamped_with_the_present(
    write: Write, mapping: DataMap, ingest: Ingest
) -> None:
    clock = ingest.log.clock
    import_rows(write(payment(0)), mapping, ingest=ingest)
    assert ingest.log.clock is clock
    assert (ingest.log.known_time, ingest.log.durable) == (NOW, ingest.log.position)
    content = Tables(ingest.log).get("fraud", "import")
    assert (content["source"], content["rows"], content["rejected"]) == ("payments.csv", 1, {})


def test_importing_twice_changes_nothing(write: Write, mapping: DataMap, ingest: Ingest) -> None:
    path = write(payment(0, disputed="yes"), payment(1), "broken", payment(2))
    import_rows(path, mapping, ingest=ingest)
    position = ingest.log.position
    again = import_rows(path, mapping, ingest=ingest)
    assert (again.accepted, again.duplicates, again.outcomes) == (0, 3, 1)
    assert ingest.log.position == position


def test_records_stamped_later_than_they_were_known_are_counted(write: Write, mapping: DataMap, ingest: Ingest) -> None:
    import_rows(write(payment(30)), mapping, ingest=ingest)
    report = import_rows(write(payment(0), payment(1)), mapping, ingest=ingest)
    assert report.late == 2
    assert "2 records are stamped later than they were known" in report.text()
    assert records(ingest, "event")[-1].known_time == NOW


BAD_ROWS = {
    "too few fields": ("p0,1", "field_count", "2 fields where the header has 10"),
    "an open quote": ('p0,"2026', "quotes", "a quote that is not closed"),
    "latin-1": (b"p0,\xe9", "encoding", "bytes that are not utf-8"),
    "a NUL": (b"p0,\x00", "null_byte", "a NUL byte"),
    "unknown currency": (payment(0, currency="EURO"), "currency", "no ISO 4217 code. Expected 'EUR' (closest match)"),
    "no currency": (payment(0, currency=""), "currency", "an empty cell"),
    "a currency without a rate": (payment(0, currency="CHF"), "currency", "there is no rate to EUR"),
    "JPY with decimals": (payment(0, currency="JPY"), "amount_minor", "JPY has no minor unit"),
    "EUR with three places": (payment(0, amount="1.005"), "amount_minor", "at most 2 decimal places"),
    "a negative amount": (payment(0, amount="-3.00"), "amount_minor", "a negative amount"),
    "NaN": (payment(0, amount="NaN"), "amount_minor", "NaN or infinity"),
    "infinity": (payment(0, amount="-inf"), "amount_minor", "NaN or infinity"),
    "an amount in words": (payment(0, amount="€ 3"), "amount_minor", "no decimal number"),
    "an absurd exponent": (payment(0, amount="1e999999999"), "amount_minor", "no decimal number"),
    "an absurd amount": (payment(0, amount="99999999999999"), "amount_minor", "int"),
    "no amount": (payment(0, amount=""), "missing_amount_minor", "no amount_minor"),
    "a future time": (payment(0, at="2031-01-01T00:00:00Z"), "event_time", "a time in the future"),
    "a time without an offset": (payment(0, at="2026-01-01 00:00:00"), "event_time", "a time without an offset"),
    "no time": (payment(0, at="soon"), "event_time", "no time that can be read"),
    "a time before 1970": (payment(0, at="1066-10-14T00:00:00Z"), "event_time", "a time before 1970"),
    "an empty time": (payment(0, at=""), "event_time", "an empty cell"),
    "no id": (payment(0, payment=""), "id", "an empty cell"),
    "the same key, another body": (payment(1, amount="7.00"), "conflict", "logged before with another body"),
    "a million characters": (payment(0, card="x" * 1_000_000), "card", "str"),
    "control characters": (payment(0, card="a\x07b"), "card", "control characters"),
    "a label nobody listed": (payment(0, disputed="maybe"), "chargeback", "a value that the mapping does not list"),
    "a signal in words": (payment(0, basket="large"), "basket", "no finite number"),
    "an infinite signal": (payment(0, basket="inf"), "basket", "no finite number"),
}


@pytest.mark.parametrize(("bad", "reason", "words"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_goes_to_quarantine_and_every_other_row_is_logged(
    bad: str | bytes, reason: str, words: str, *, write: Write, mapping: DataMap, ingest: Ingest
) -> None:
    report = import_rows(write(payment(1), payment(2), bad, payment(3), payment(4)), mapping, ingest=ingest)
    assert (report.rows, report.accepted, report.rejected) == (5, 4, {reason: 1})
    (example,) = report.examples[reason]
    assert example.startswith("payments.csv line 4")
    assert words in example
    assert f"1 × {reason}, such as: payments.csv line 4" in report.text()
    assert [record.id for record in records(ingest, "event")] == ["p1", "p2", "p3", "p4"]
    (rejected,) = records(ingest, "rejected")
    assert rejected.reason == reason


def test_missing_devices_empty_signals_and_unicode_names_are_no_reason_to_refuse(
    write: Write, mapping: DataMap, ingest: Ingest
) -> None:
    path = write(
        payment(0, device="", basket="", name="Zoë Đặng 王 🙂"),
        payment(1, basket="nan", card=" c 1 ", name='"A, ""B"""'),
    )
    report = import_rows(path, mapping, ingest=ingest)
    first, second = (decode_event(record.body) for record in records(ingest, "event"))
    assert report.rejected == {}
    assert "device" not in first.entities
    assert "basket" not in {**first.attributes, **second.attributes}
    assert second.entities["card"] == ingest.log.vault.token("card", "c 1")


def test_too_many_bad_rows_fail_the_import_before_anything_is_written(
    write: Write, mapping: DataMap, ingest: Ingest
) -> None:
    strict = msgspec.structs.replace(mapping, max_bad_share=0.2)
    path = write(payment(0), "x", payment(1), "y", payment(2))
    words = (
        r"2 of 5 rows that cannot be used: 2 × field_count \(payments.csv line 3, .*at most 20.0% .*Nothing was written"
    )
    with pytest.raises(DataError, match=words):
        import_rows(path, strict, ingest=ingest)
    assert ingest.log.position == 0
    assert import_rows(path, msgspec.structs.replace(mapping, max_bad_share=0.4), ingest=ingest).accepted == 3


def test_too_many_rows_refused_at_admission_fail_the_import_and_lose_nothing_accepted(
    write: Write, mapping: DataMap, ingest: Ingest
) -> None:
    strict = msgspec.structs.replace(mapping, max_bad_share=0.2)
    future = [payment(number, at="2031-01-01T00:00:00Z") for number in (2, 3)]
    with pytest.raises(DataError, match=r"2 of 4 rows .* The 2 rows that were accepted stay in the log"):
        import_rows(write(payment(0), *future, payment(1)), strict, ingest=ingest)
    assert [record.id for record in records(ingest, "event")] == ["p0", "p1"]
    assert ingest.log.durable == ingest.log.position


def test_columns_that_are_not_there_stop_the_import_before_it_starts(
    write: Write, mapping: DataMap, ingest: Ingest, tmp_path: Path
) -> None:
    path = tmp_path / "other.csv"
    path.write_text(HEADER.replace("card", "crad") + "\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"^other\.csv: 1 problem: \[request\] card names a column 'card' that is not there"
    ):
        import_rows(path, mapping, ingest=ingest)


def test_an_ingest_without_the_signals_is_refused(write: Write, mapping: DataMap, ingest: Ingest) -> None:
    bare = Ingest(SCHEMA, ingest.log, rates=Rates())
    with pytest.raises(ConfigError, match="a schema without the mapping's signals basket"):
        import_rows(write(payment(0)), mapping, ingest=bare)


def test_the_action_that_another_system_took_is_an_imported_decision_of_unknown_propensity(
    write: Write, ingest: Ingest
) -> None:
    taken = 'taken = { column = "name", values = { ok = "allow", no = "block" } }'
    mapping = mapped(MAPPING.replace('cardholder = "name"', taken))
    report = import_rows(
        write(payment(0, name="ok"), payment(1, name="no"), payment(2, name="?")), mapping, ingest=ingest
    )
    decisions = [decode_decision(record.body) for record in records(ingest, "decision")]
    assert [(d.mode, d.acted, d.choice.slots[0].propensity) for d in decisions] == [
        ("imported", "allow", None),
        ("imported", "block", None),
    ]
    assert report.rejected == {"taken": 1}


def test_row_numbers_epoch_seconds_minor_units_decimal_commas_and_naive_times(tmp_path: Path, ingest: Ingest) -> None:
    path = tmp_path / "own.csv"
    path.write_text("t;n;cents;price;v\n10,5;01.03.2026 12:00;1234;9,90;1,5\n20;x;1;1;2\n", encoding="utf-8")
    mapping = mapped("""
    max_bad_share = 0.5
    [file]
    decimal = ","
    timezone = "Europe/Berlin"
    [request]
    id = { row_number = true, prefix = "own-" }
    event_time = { column = "n", format = "%d.%m.%Y %H:%M" }
    known_time = { column = "t", unit = "s", since = "2026-04-01T00:00:00Z" }
    amount = { column = "cents", unit = "minor", currency = "JPY" }
    [signals]
    columns = ["v"]
    """)
    wide = Ingest(SCHEMA.with_fields(mapping.signal_fields()), ingest.log, rates=Rates("EUR", {"JPY": "0.01"}))
    report = import_rows(path, mapping, ingest=wide)
    (record,) = records(ingest, "event")
    event = decode_event(record.body)
    assert (event.id, event.event_time) == ("own-1", time_us("2026-03-01T11:00:00Z"))
    assert record.known_time == time_us("2026-04-01T00:00:10.500000Z")
    assert (event.attributes["amount_minor"], event.attributes["v"]) == (1234, 1.5)
    assert report.rejected == {"event_time": 1}


def test_rows_of_nobody_with_nothing_to_seal_make_no_keys(tmp_path: Path, ingest: Ingest) -> None:
    path = tmp_path / "nobody.csv"
    path.write_text("at,amount\n" + "".join(f"{hour * 3600},1.50\n" for hour in range(50)), encoding="utf-8")
    mapping = mapped("""
    [request]
    id = { row_number = true, prefix = "n" }
    event_time = { column = "at", unit = "s", since = "2026-01-01T00:00:00Z" }
    amount = { column = "amount", unit = "major", currency = "EUR" }
    """)
    report = import_rows(path, mapping, ingest=ingest)
    subjects = {decode_event(record.body).subject for record in records(ingest, "event")}
    with contextlib.closing(sqlite3.connect(tmp_path / "home" / "vault.sqlite")) as vault:
        keys = vault.execute("SELECT count(*) FROM keys").fetchone()[0]
    assert (report.accepted, len(subjects), keys) == (50, 50, 0)


def test_keys_that_a_float_column_mangled_are_read_as_they_were_meant(ingest: Ingest, mapping: DataMap) -> None:
    frame = duckdb.connect().sql("""
        SELECT 17.0::DOUBLE AS payment, TIMESTAMPTZ '2026-01-01 00:00:00+00' AS at, 12.34::DOUBLE AS amount,
               'EUR' AS currency, 4532000000000000.0::DOUBLE AS card, NULL AS device, NULL AS shop, NULL AS name,
               'no' AS disputed, 0.1::DOUBLE AS basket
    """)
    report = import_rows(frame, mapping, ingest=ingest)
    (event,) = (decode_event(record.body) for record in records(ingest, "event"))
    assert report.accepted == 1
    assert (event.id, event.attributes["amount_minor"], event.attributes["basket"]) == ("17", 1234, 0.1)
    assert event.entities["card"] == ingest.log.vault.token("card", "4532000000000000")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40)
@given(st.lists(st.one_of(st.binary(max_size=60), st.just(payment(1).encode()), st.just(b'"')), max_size=8))
def test_whatever_bytes_a_file_holds_nothing_but_our_own_errors_comes_out(
    tmp_path_factory: pytest.TempPathFactory, mapping: DataMap, lines: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / "payments.csv"
    path.write_bytes(b"\n".join([HEADER.encode(), *lines]))
    log = Home(folder / "home").writer(ManualClock(NOW))
    ingest = Ingest(SCHEMA.with_fields(mapping.signal_fields()), log, rates=Rates())
    try:
        with contextlib.suppress(DecalogError):
            report = import_rows(path, mapping, ingest=ingest)
            assert report.rows == report.accepted + report.duplicates + sum(report.rejected.values())
    finally:
        log.store.close()
        log.vault.close()
