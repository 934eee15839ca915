"""Several nodes that a light client asks, and what becomes of those that lie: their name stands in the answer, the others are used.

Every node is asked for something that comes with a certified header. The lowest header goes first, so that every node's log must contain
what the node before it showed; and each node says what it has at the height that was seen already, so that two histories are found
even when only blocks without transactions differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from wire.errors import PatchwardenError, RejectedError, UnavailableError

if TYPE_CHECKING:
    from ledger.checkpoint import Checkpoint
    from ledger.consistency import ConsistencyProof
    from ledger.light import LightClient
    from node.cli.rpc import RpcClient

NODE_TIMEOUT_S: Final = 10.0
"""How long one node may take for one answer."""

AGREES: Final = "agrees"
BEHIND: Final = "behind"
LIED: Final = "dropped"
SILENT: Final = "no answer"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What one node was worth."""

    url: str
    """Where it was asked."""
    outcome: str
    """`AGREES`, `BEHIND` (its newest header is older than what was seen), `LIED` or `SILENT`."""
    height: int | None = None
    """The header that it showed, if that held."""
    code: str | None = None
    """Why not: the stable code."""
    reason: str | None = None
    """Why not, as a sentence."""

    def document(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "url": self.url,
            "outcome": self.outcome,
            "height": self.height,
            "code": self.code,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Asked(Generic[T]):
    """What came of asking all nodes."""

    client: LightClient
    """The client, moved as far as anybody's headers lead."""
    answers: tuple[tuple[int, T], ...]
    """Height and answer of each node that agrees, lowest first."""
    reports: tuple[NodeReport, ...]
    """One for each node, in the order in which they were named."""


class NoAnswerError(PatchwardenError):
    """The node answered with a refusal, or not at all: nothing is proven about it. Never leaves this module."""


def open_node(url: str) -> RpcClient:
    """Return a connection to the node at an HTTP address.

    Raises:
        CommandError: ``cli.rpc.url``.
    """
    from node.cli.rpc import RpcClient

    return RpcClient(url, timeout_s=NODE_TIMEOUT_S)


def ask_checkpoint(client: LightClient, node: RpcClient) -> tuple[Checkpoint, Checkpoint]:
    """Return a node's newest checkpoint; nothing is verified. Raises `NoAnswerError`, and `RejectedError` when it has not the form."""
    del client
    found = _checkpoint(node)
    return found, found


def ask_all(
    client: LightClient,
    urls: Sequence[str],
    question: Callable[[LightClient, RpcClient], tuple[Checkpoint, T]],
    judge: Callable[[LightClient, T], object] | None = None,
) -> Asked[T]:
    """Return what the nodes answer, each answer's header verified against what was seen and against the other nodes'.

    Args:
        client: Where to begin.
        urls: At least one node.
        question: Asks a node for an answer and the certified header that comes with it; verifies nothing.
        judge: Verifies the answer under that header, and raises when it does not hold.

    Raises:
        SplitViewError: Two certified headers contradict each other.
        UnavailableError: ``cli.light.no_node``: no node showed anything that holds and is not older than what was seen.
    """
    from ledger.light import SplitViewError

    reports: dict[str, NodeReport] = {}
    shown: list[tuple[Checkpoint, T, str]] = []
    nodes = {url: open_node(url) for url in dict.fromkeys(urls)}
    try:
        for url, node in nodes.items():
            try:
                checkpoint, answer = question(client, node)
            except (NoAnswerError, RejectedError) as error:
                reports[url] = _failed(url, error)
            else:
                shown.append((checkpoint, answer, url))
        answers = []
        for checkpoint, answer, url in sorted(shown, key=lambda each: each[0].height):
            try:
                helpers = [node for other, node in nodes.items() if other != url]
                moved, report = _follow(client, nodes[url], helpers, url, checkpoint)
                if judge is not None and report.outcome == AGREES:
                    judge(moved, answer)
            except SplitViewError:
                raise
            except (NoAnswerError, RejectedError) as error:
                reports[url] = _failed(url, error)
                continue
            client, reports[url] = moved, report
            if report.outcome == AGREES:
                answers.append((checkpoint.height, answer))
    finally:
        for node in nodes.values():
            node.close()
    if not answers:
        raise UnavailableError(
            "cli.light.no_node",
            "no node showed a header that holds: " + "; ".join(_sentence(reports[url]) for url in nodes),
            hint="name other nodes with --rpc",
        )
    return Asked(client, tuple(answers), tuple(reports[url] for url in nodes))


def report_lines(reports: Sequence[NodeReport]) -> list[tuple[str, str]]:
    """Return for a person what became of each node."""
    return [("node", _sentence(each)) for each in reports]


def _follow(
    client: LightClient, node: RpcClient, helpers: Sequence[RpcClient], url: str, checkpoint: Checkpoint
) -> tuple[LightClient, NodeReport]:
    """Return the client after a node's header; the node, else a helper, proves that what was seen before is part of its history."""
    from ledger.errors import ProofRefusedError

    if checkpoint.height < client.height:
        try:
            client.check(checkpoint)
        except ProofRefusedError as error:
            if error.code != "ledger.proof.configuration":
                raise
            # Older than the last change of the validators: not to be judged from here, and nothing that is used.
        return client, NodeReport(url, BEHIND, checkpoint.height)
    if 0 < client.height < checkpoint.height:
        same = _checkpoint(node, client.height)
        if same.height == client.height:
            client.check(same)
    consistency = None
    if client.needs_consistency(checkpoint.header):
        client.check(checkpoint)  # First whatever costs the node no more questions.
        consistency = _consistency(client, node, helpers, checkpoint)
    return client.advance(checkpoint, consistency), NodeReport(url, AGREES, checkpoint.height)


def _checkpoint(node: RpcClient, height: int | None = None) -> Checkpoint:
    from ledger.checkpoint import checkpoint_from_text_untrusted

    text = call(node, "checkpoint.get", height=height)
    if not isinstance(text, str):
        raise RejectedError("ledger.checkpoint.malformed", "a checkpoint is a text")
    return checkpoint_from_text_untrusted(text.encode("utf-8", "replace"))


def _consistency(
    client: LightClient, node: RpcClient, helpers: Sequence[RpcClient], checkpoint: Checkpoint
) -> ConsistencyProof:
    """Return the node's own proof, whatever it is; one of others that holds when it has none, as after pruning its log."""
    from ledger.consistency import ConsistencyProof, verify_extends

    before, after = client.head.header, checkpoint.header
    assert before is not None, "a client without a header needs no such proof"
    sizes = {"from": before.log_size, "to": after.log_size}
    try:
        value = call(node, "proofs.consistency", **sizes)
    except NoAnswerError:
        for helper in helpers:
            # A helper's bad proof is nobody's fault here: it is judged by its own header.
            with suppress(NoAnswerError, RejectedError):
                proof = ConsistencyProof.from_json_untrusted(call(helper, "proofs.consistency", **sizes))
                verify_extends(proof, before, after)
                return proof
        raise
    return ConsistencyProof.from_json_untrusted(value)


def call(node: RpcClient, method: str, **params: Any) -> Any:
    """Return a node's answer, whatever it is.

    Raises:
        NoAnswerError: It refuses, or does not answer; the code is the node's.
    """
    import httpx

    try:
        return node.call(method, **params)
    except PatchwardenError as error:
        raise NoAnswerError(error.code, error.message) from error
    except httpx.HTTPError as error:
        raise NoAnswerError("cli.rpc.unreadable", f"the answer cannot be read: {str(error).lower()}") from error


def _failed(url: str, error: PatchwardenError) -> NodeReport:
    outcome = SILENT if isinstance(error, NoAnswerError) else LIED
    return NodeReport(url, outcome, None, error.code, error.message)


def _sentence(report: NodeReport) -> str:
    height = "" if report.height is None else f", at height {report.height}"
    why = "" if report.code is None else f": {report.reason} [{report.code}]"
    return f"{report.url} {report.outcome}{height}{why}"
