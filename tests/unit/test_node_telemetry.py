"""Logs are one JSON object a line, metrics have their documented names, clock and chance keep their promises."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog

from node import clock
from node.telemetry import LEVELS, Metrics, configure_logging, timed


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    stream = io.StringIO()
    yield stream
    structlog.reset_defaults()
    root.handlers, root.level = handlers, level


def test_ours_and_the_libraries_lines_are_json(lines: io.StringIO) -> None:
    configure_logging(level="info", stream=lines)
    structlog.get_logger("node.test").info("link up", peer="12D3", count=3)
    logging.getLogger("some.library").warning("slow %s", "disk")
    try:
        raise ValueError("why")
    except ValueError:
        structlog.get_logger("node.test").exception("it failed")
    first, second, third = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert (first["event"], first["level"], first["peer"], first["count"]) == ("link up", "info", "12D3", 3)
    assert first["timestamp"].endswith("Z")
    assert (second["event"], second["level"]) == ("slow disk", "warning")
    assert "ValueError: why" in third["exception"]


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_below_the_level_is_dropped(lines: io.StringIO, level: str) -> None:
    configure_logging(level=level, stream=lines)
    log = structlog.get_logger("node.test")
    for name in LEVELS:
        getattr(log, name)("said")
    assert [json.loads(line)["level"] for line in lines.getvalue().splitlines()] == list(LEVELS[LEVELS.index(level) :])


def test_a_terminal_gets_plain_lines(lines: io.StringIO) -> None:
    configure_logging(stream=lines, as_json=False)
    structlog.get_logger("node.test").info("link up", peer="12D3")
    assert "link up" in lines.getvalue()
    assert not lines.getvalue().startswith("{")


def test_libp2p_says_nothing_about_ordinary_ends(lines: io.StringIO) -> None:
    configure_logging(stream=lines)
    record = logging.LogRecord("root", logging.WARNING, "/x/libp2p/network/connection.py", 1, "Error closing", (), None)
    logging.getLogger().handle(record)
    assert lines.getvalue() == ""


@dataclass
class Executed:
    tx_ids: tuple[bytes, ...]


def test_metrics_have_their_names() -> None:
    metrics = Metrics()
    blocks: Any = [Executed((b"1", b"2")), Executed(())]
    metrics.committed(blocks)
    metrics.leader_changes.inc()
    metrics.decisions.labels("SUCCESS").inc()
    with timed(metrics.persist_seconds):
        pass
    metrics.observe_node(height=7, replica_age_ms=1500, mempool=3, peers_connected=2, is_leader=True, term=4)
    text = metrics.text().splitlines()
    for line in (
        "patchwarden_blocks_committed_total 2.0",
        "patchwarden_transactions_committed_total 2.0",
        "patchwarden_leader_changes_total 1.0",
        'patchwarden_agent_decisions_total{result="SUCCESS"} 1.0',
        "patchwarden_persist_duration_seconds_count 1.0",
        "patchwarden_height 7.0",
        "patchwarden_replica_age_seconds 1.5",
        "patchwarden_mempool_transactions 3.0",
        "patchwarden_peers_connected 2.0",
        "patchwarden_is_leader 1.0",
        "patchwarden_term 4.0",
    ):
        assert line in text
    assert Metrics().text() != metrics.text(), "two nodes in one process have their own counters"


def test_chance_stays_in_its_range_and_time_moves_on() -> None:
    assert {clock.entropy(3) for _ in range(200)} == {0, 1, 2}
    assert all(0.5 <= clock.jittered(1.0) <= 1.0 for _ in range(200))
    assert len(clock.random_bytes(16)) == 16
    assert clock.random_bytes(16) != clock.random_bytes(16)
    before = clock.monotonic_ms()
    assert clock.monotonic_ms() >= before
    assert abs(clock.Clock().now_ms() - clock.now_ms()) < 1000
    assert clock.Clock().monotonic_ms() >= before
