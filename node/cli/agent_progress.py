"""Asking a host's agent for something that may take long: how far it is is shown meanwhile, and it is waited for while it goes on.

Another connection asks how far the work has come, at first after half a second: what is done sooner costs nothing more. A node that does
not know the question yet is not asked again.

Source: docs/spec/local-protocol.md 5.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Final

from node.cli.client import NodeClient, SocketClient, open_client
from node.cli.command import Session
from node.cli.output import Stages
from wire.errors import PatchwardenError, RejectedError, UnavailableError

FIRST_POLL_S: Final = 0.5
"""How long an answer may take before anybody asks how far it is."""
POLL_INTERVAL_S: Final = 0.5
POLL_TIMEOUT_S: Final = 5.0
"""How long an answer about progress may take."""
NEWS_AGE_S_MAX: Final = 15.0
"""How old the last answer that told of work may be for a command to go on waiting."""
_CUT: Final = frozenset({"cli.rpc.timeout", "node.http.timeout", "node.local.timeout"})
"""What a request over HTTP ends with that took too long."""


def call_watched(session: Session, method: str, target: str, params: dict[str, Any]) -> Any:
    """Return what the agent answers, with its progress shown meanwhile.

    Raises:
        PatchwardenError: What the node raised.
    """
    client = session.client()
    with session.output.stages() as stages, _Watch(session, target, stages) as watch:
        if isinstance(client, SocketClient):
            client.patience = watch.is_going_on
        try:
            return client.call(method, target=target, **params)
        except UnavailableError as error:
            if error.code not in _CUT or method == "agent.explain":
                raise
            hint = f"what has begun goes on: `agent history --target {target}` tells how it ended"
            raise UnavailableError(error.code, error.message, hint=hint) from error


class _Watch:
    """Asks over a connection of its own, in a thread of its own, until the `with` ends."""

    def __init__(self, session: Session, target: str, stages: Stages) -> None:
        self._session = session
        self._target = target
        self._stages = stages
        self._over = threading.Event()
        self._news_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def is_going_on(self) -> bool:
        """Return whether the node has said lately that it works at the target."""
        return self._news_at is not None and time.monotonic() - self._news_at <= NEWS_AGE_S_MAX

    def _run(self) -> None:
        client: NodeClient | None = None
        pause = FIRST_POLL_S
        try:
            while not self._over.wait(pause):
                pause = POLL_INTERVAL_S
                try:
                    client = client or open_client(self._session, timeout_s=POLL_TIMEOUT_S)
                    answer = client.call("agent.progress", target=self._target)
                except RejectedError:
                    return  # An older node, or a target that it does not have: the request itself says so.
                except PatchwardenError:
                    if client is not None:
                        client.close()
                    client = None
                else:
                    self._show(answer)
        finally:
            if client is not None:
                client.close()

    def _show(self, answer: Any) -> None:
        work = answer.get("work") if isinstance(answer, dict) else None
        if not isinstance(work, dict) or self._over.is_set():
            return
        self._news_at = time.monotonic()
        self._stages.show(str(work["doing"]), int(work["done"]), int(work["total"]), str(work["unit"]))
