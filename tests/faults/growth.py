"""A network grows from one validator to many and shrinks back to one by votes of its organisations, under load."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from ledger import bodies
from ledger.actions import Action
from ledger.validator_actions import AddLearner, PromoteLearner, RemoveValidator
from node.config import NodeConfig
from tests.faults.clients import Workload
from tests.faults.cluster import WAIT_STEP_S, Cluster, running_cluster
from tests.faults.ending import Result, judge, read_logs, settle_nodes
from tests.faults.history import Recorder, longest_gap_s
from tests.faults.machine import HarnessError
from tests.faults.node import Node
from tests.faults.watch import BlockLedger, Sampler
from wire.errors import PatchwardenError

STEP_S_MAX: Final = 180.0
BUSY: Final = "configuration_busy"
VOTERS: Final = ("ada@acme", "ben@beta")
"""A majority of the three founding organisations."""
_DEFAULTS: Final = NodeConfig(name="x")
ELECTION_TIMEOUT_S: Final = 2 * _DEFAULTS.election_ticks * _DEFAULTS.tick_ms / 1000
"""The longest that a node waits for a silent leader, by default."""


def measure_growth(directory: Path, largest: int, seed: int) -> Result:
    """Add and promote validators up to `largest`, then remove them in an order by chance, until one is left; print each step."""
    result = Result()
    chance = random.Random(f"growth {seed}")
    cluster = Cluster(directory / "nodes", validators=1, spares=largest - 1)
    with closing(Recorder(directory / "history.jsonl")) as recorder, running_cluster(cluster):
        blocks = BlockLedger(cluster.nodes)
        workload = Workload(
            cluster, recorder, seed=seed, clients=3, pause_s=0.02, loaders=1, batch=10, batch_interval_s=0.2
        )
        sampler = Sampler(cluster, lambda: workload.acknowledged)
        for part in (blocks, sampler, workload):
            part.start()
        time.sleep(2)
        steps: list[tuple[str, int, int]] = []

        def step(text: str, do: Callable[[], str]) -> None:
            begin_ns = time.monotonic_ns()
            more = do()
            end_ns = time.monotonic_ns()
            steps.append((text, begin_ns, end_ns))
            gap_s = longest_gap_s(recorder.returns_ns, begin_ns, end_ns)
            result.add(
                f"{text}{more}: {(end_ns - begin_ns) / 1e9:.1f} s, longest time without an acknowledgement {gap_s:.2f} s; "
                f"{len(cluster.validators)} validators, load average {os.getloadavg()[0]:.1f}"
            )
            time.sleep(1)

        while len(cluster.validators) < largest:
            step(f"add validator {len(cluster.validators) + 1}", lambda: _add(cluster))
        while len(cluster.validators) > 1:
            node = chance.choice(cluster.validators)
            step(f"remove {node.name}", lambda node=node: _remove(cluster, node))  # type: ignore[misc]
        workload.stop()
        sampler.stop()
        blocks.stop()
        result.violations += blocks.violations
        settle_nodes(cluster)
        judge(cluster, recorder, result)
    gaps = [longest_gap_s(recorder.returns_ns, begin_ns, end_ns) for _, begin_ns, end_ns in steps]
    within = sum(gap <= ELECTION_TIMEOUT_S for gap in gaps)
    again = ", ".join(f"{count} {code}" for code, count in workload.answers.most_common(12))
    result.add(f"{workload.acknowledged} transactions acknowledged; tried again: {again or 'none'}")
    result.add(
        f"{within} of {len(gaps)} steps within one election timeout ({ELECTION_TIMEOUT_S:g} s) without an acknowledgement; "
        f"longest {max(gaps):.2f} s"
    )
    result.add(f"{sampler.load_text()} on {os.cpu_count()} processors")
    read_logs(cluster, result)
    return result


def _add(cluster: Cluster) -> str:
    """Add a learner, start it, let it catch up, promote it; return what there is to say about it."""
    node, validator = cluster.add_spare()
    _decide(cluster, AddLearner(validator))
    node.start()
    node.wait_up()
    height = cluster.height_seen
    cluster.wait_for(lambda: _height(node) >= height, f"{node.name} has caught up", STEP_S_MAX)
    cluster.take_in(node)
    _decide(cluster, PromoteLearner(node.name))
    names = {each.name for each in cluster.validators}
    for each in cluster.validators:
        cluster.wait_for(lambda each=each: _voters(each) == names, f"{each.name} knows {sorted(names)}", STEP_S_MAX)  # type: ignore[misc]
    return f" ({node.name})"


def _remove(cluster: Cluster, node: Node) -> str:
    """Remove a validator and end it when it says that it is none any more; return what there is to say about it."""
    led = cluster.find_leader() is node
    _decide(cluster, RemoveValidator(node.name))
    cluster.take_away(node)
    names = {each.name for each in cluster.validators}
    for each in cluster.validators:
        cluster.wait_for(lambda each=each: _voters(each) == names, f"{each.name} knows {sorted(names)}", STEP_S_MAX)  # type: ignore[misc]
    cluster.wait_for(
        lambda: bool((node.status() or {}).get("removed")), f"{node.name} says that it is removed", STEP_S_MAX
    )
    if (code := node.stop()) != 0:
        raise HarnessError(f"{node.name} ended with {code} after its removal")
    return ", which led" if led else ""


def _decide(cluster: Cluster, action: Action) -> None:
    """Propose an action and vote for it until it is executed."""
    proposal = cluster.sign(bodies.ProposalCreate(action, "grow or shrink"), VOTERS[0])
    cluster.submit(proposal)
    end = time.monotonic() + STEP_S_MAX
    for voter in VOTERS:
        while True:
            try:
                cluster.submit(cluster.sign(bodies.ProposalVote(proposal.tx_id, True), voter))
            except HarnessError as error:
                # The change before is not finished: the interface asks to vote again then.
                if BUSY not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(WAIT_STEP_S)
            else:
                break


def _height(node: Node) -> int:
    height: int = (node.status() or {"height": -1})["height"]
    return height


def _voters(node: Node) -> set[str] | None:
    """Return who votes as the node sees it; None while a change is under way there, or it does not answer."""
    try:
        members = node.call("validators")
    except PatchwardenError:
        return None
    kinds = {member["membership"] for member in members}
    if kinds & {"incoming", "outgoing"}:
        return None
    return {member["name"] for member in members if member["membership"] == "voter"}
