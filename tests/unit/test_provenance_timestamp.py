"""Timestamps: one form, the calendar's own days, and the mail's date of the same moment."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.errors import InvalidMetadataError
from provenance.timestamp import SECONDS_MAX, mail_date, seconds_from_timestamp, timestamp_from_seconds

MOMENTS = st.integers(0, SECONDS_MAX)


@given(MOMENTS)
def test_timestamps_agree_with_the_standard_library(seconds: int) -> None:
    moment = datetime.fromtimestamp(seconds, UTC)
    text = moment.strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")
    assert timestamp_from_seconds(seconds) == text
    assert seconds_from_timestamp(text) == seconds
    assert mail_date(text) == format_datetime(moment)


@pytest.mark.parametrize(
    "text",
    [
        "1970-01-01T00:00:00Z",
        "2000-02-29T23:59:59Z",
        "2024-02-29T12:00:00Z",
        "2100-03-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
    ],
)
def test_the_calendars_edges_survive_both_ways(text: str) -> None:
    assert timestamp_from_seconds(seconds_from_timestamp(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-22",
        "2026-11-22T06:50:00",
        "2026-11-22T06:50:00+00:00",
        "2026-11-22t06:50:00z",
        "2026-11-22 06:50:00Z",
        "2026-11-22T06:50:00.0Z",
        "2026-11-22T06:50:00Z\n",
        "02026-11-22T06:50:00Z",
        "2026-1-22T06:50:00Z",
        "٢٠٢٦-11-22T06:50:00Z",
        "1969-12-31T23:59:59Z",
        "2026-00-01T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-01-00T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2100-02-29T00:00:00Z",
        "2026-04-31T00:00:00Z",
        "2026-11-22T24:00:00Z",
        "2026-11-22T06:60:00Z",
        "2026-11-22T06:50:60Z",
    ],
)
def test_other_forms_and_moments_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(InvalidMetadataError) as refusal:
        seconds_from_timestamp(text, "creation_timestamp")
    assert refusal.value.code == "provenance.field.timestamp"
    assert refusal.value.details["field"] == "creation_timestamp"


@pytest.mark.parametrize("seconds", [-1, SECONDS_MAX + 1])
def test_moments_outside_four_digit_years_have_no_timestamp(seconds: int) -> None:
    with pytest.raises(InvalidMetadataError) as refusal:
        timestamp_from_seconds(seconds)
    assert refusal.value.code == "provenance.field.timestamp"
