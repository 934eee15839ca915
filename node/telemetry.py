"""What a node says about itself while it runs: one JSON line for each event worth a line, and metrics in Prometheus' form.

Metric names follow etcd's manner. A counter costs 0.8 µs, a histogram 1.8 µs, a log line 15 µs: logs are for what happens seldom.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from ledger.transition import Executed

LEVELS: Final = ("debug", "info", "warning", "error")

DISK_BUCKETS_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024)
HEARTBEAT_BUCKETS_S: Final = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.032, 0.04, 0.05),
    *(0.064, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0),
)
BLOCK_BUCKETS: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)


def configure_logging(*, level: str = "info", stream: TextIO | None = None, as_json: bool = True) -> None:
    """Send every log line of this process, ours and the libraries', to `stream` (standard error) from now on.

    Args:
        level: One of `LEVELS`; what is below is dropped before it costs anything.
        stream: Where the lines go.
        as_json: One JSON object a line, for machines; otherwise aligned text, for a terminal.
    """
    target = sys.stderr if stream is None else stream
    threshold = getattr(logging, level.upper())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=target.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=target),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(_is_worth_a_line)
    root = logging.getLogger()
    root.handlers = [handler]
    # Libraries' remarks below a warning are about their own insides.
    root.setLevel(max(threshold, logging.WARNING))


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Drop what libp2p reports through the root logger: it takes the ordinary end of a connection for an error."""
    return "/libp2p/" not in record.pathname


class Metrics:
    """The counters of one node, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(name, what, labels, namespace="patchwarden", registry=self.registry)

        def gauge(name: str, what: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(name, what, labels, namespace="patchwarden", registry=self.registry)

        def histogram(name: str, what: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, what, namespace="patchwarden", registry=self.registry, buckets=buckets)

        self.leader_changes = counter("leader_changes", "Elections that this node won or learnt of")
        self.proposals = counter("proposals", "Blocks that this node proposed as leader")
        self.reads_at_once = counter(
            "reads_at_once", "Linearizable reads answered without a round, by a lease or alone"
        )
        self.consensus_messages_dropped = counter(
            "consensus_messages_dropped", "Consensus messages beyond the inbox's bound"
        )
        self.consensus_alarms = counter("consensus_alarms", "What an honest network never shows; the log has each")
        self.persists = counter("persists", "Synced writes of the log")
        self.persist_seconds = histogram(
            "persist_duration_seconds", "Time of one synced write of the log", DISK_BUCKETS_S
        )
        self.commit_seconds = histogram(
            "commit_duration_seconds", "Time of one synced write of committed blocks", DISK_BUCKETS_S
        )
        self.snapshots_installed = counter("snapshots_installed", "How often this node went on from a peer's snapshot")
        self.heartbeat_seconds = histogram(
            "heartbeat_duration_seconds",
            "From a leader's heartbeat, or its question whether it still leads, to a follower's answer",
            HEARTBEAT_BUCKETS_S,
        )
        self.blocks_refused = counter("blocks_refused", "Blocks that the ledger refused")
        self.blocks_committed = counter("blocks_committed", "Blocks committed by this node")
        self.transactions_committed = counter("transactions_committed", "Transactions committed by this node")
        self.block_transactions = histogram("block_transactions", "Transactions in a committed block", BLOCK_BUCKETS)
        self.transactions_refused = counter("transactions_refused", "Transactions refused at admission", ("code",))
        self.decisions = counter("agent_decisions", "Decisions of the agent", ("result",))
        self.strangers_refused = gauge("strangers_refused", "Connections of non-members turned away since the start")
        self.scrub_rows = gauge("scrub_rows", "Rows of the store read since the start, to find damage")
        self.scrub_passes = gauge("scrub_passes", "How often every row of the store was read since the start")
        self.scrub_damaged = gauge("scrub_damaged_rows", "Damaged rows found since the start")
        self.scrub_repaired = gauge("scrub_repaired_rows", "Damaged rows repaired since the start")
        self.scrub_waiting = gauge("scrub_waiting_rows", "Damaged rows that wait for a peer's help")
        self.checkpoints_compared = gauge(
            "checkpoints_compared", "Checkpoints of peers compared with this node's chain since the start"
        )
        self.split_views = gauge("split_views", "Contradictions found between certified histories; an emergency")
        self.sync_sources = gauge("sync_sources", "Peers from which this node takes blocks now")
        self.sync_peers_dropped = counter(
            "sync_peers_dropped", "How often a peer was left alone because what it sent does not hold", ("code",)
        )
        self.sync_peers_failed = counter("sync_peers_failed", "How often a peer gave no blocks", ("code",))
        self.observers = gauge("observers", "Observers that this node feeds with blocks now")
        self.observers_redirected = gauge(
            "observers_redirected", "Questions for a slot answered with other observers' addresses since the start"
        )
        self.sent_bytes = gauge("sent_bytes", "Bytes sent to peers since the start", ("stream",))
        self.patch_bytes = counter("patch_bytes", "Bytes of patch files that peers were sent, or sent", ("direction",))
        self.patch_peers_dropped = counter(
            "patch_peers_dropped", "How often a peer was left alone while a patch file was fetched", ("code",)
        )
        self.patch_files_removed = counter("patch_files_removed", "Patch files removed because nobody needs them here")
        self.patch_places = gauge("patch_places", "Peers that are taking a patch file from this node now")
        self.patch_redirected = gauge(
            "patch_redirected", "Questions for a patch file that had to go elsewhere since the start"
        )
        self.patch_spare_copies = gauge(
            "patch_spare_copies", "Copies of patch files that a validator gave beyond the usual ones since the start"
        )
        self.patch_store_bytes = gauge("patch_store_bytes", "Bytes of the patch files that are kept")
        self.certificate_days_left = gauge(
            "certificate_days_left", "Days until the first certificate of an organisation expires; negative after it"
        )
        self.certificates_expiring = gauge(
            "certificates_expiring", "Certificates on the ledger that expire within 90 days or have expired", ("kind",)
        )
        self._height = gauge("height", "Height of the last committed block")
        self._term = gauge("term", "Consensus term")
        self._is_leader = gauge("is_leader", "1 while this node leads")
        self._replica_age = gauge("replica_age_seconds", "Age of the last committed block")
        self._mempool = gauge("mempool_transactions", "Transactions that wait for a block")
        self._peers = gauge("peers_connected", "Peers with a connection")

    def committed(self, blocks: Sequence[Executed]) -> None:
        """Count blocks that became durable and committed."""
        self.blocks_committed.inc(len(blocks))
        for block in blocks:
            self.transactions_committed.inc(len(block.tx_ids))
            self.block_transactions.observe(len(block.tx_ids))

    def observe_node(
        self, *, height: int, replica_age_ms: int, mempool: int, peers_connected: int, is_leader: bool, term: int
    ) -> None:
        """Set what is a state, not an event; called when somebody asks for the metrics."""
        self._height.set(height)
        self._replica_age.set(replica_age_ms / 1000)
        self._mempool.set(mempool)
        self._peers.set(peers_connected)
        self._is_leader.set(1 if is_leader else 0)
        self._term.set(term)

    def text(self) -> str:
        """Return every metric in Prometheus' text format."""
        return generate_latest(self.registry).decode("utf-8")


@contextmanager
def timed(histogram: Histogram) -> Iterator[None]:
    """Observe in `histogram` how long the block took, seconds; also when it raised."""
    start = perf_counter()
    try:
        yield
    finally:
        histogram.observe(perf_counter() - start)
