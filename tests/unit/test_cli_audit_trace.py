"""`patchwarden audit trace`: the story in order, each line with its proven place; a node that lies about one is found out."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger import bodies
from ledger.actions import SetThreshold
from ledger.keyspace import identity_key, organisation_key, patch_key, proposal_key
from ledger.proofs import build_receipt
from ledger.transaction import decode_transaction_untrusted
from node.cli import audit_trace
from node.cli.audit_trace import run_trace, trace_lines
from node.cli.command import Session
from node.cli.errors import CommandError
from node.cli.output import Output
from node.documents import transaction_document
from tests.testkit import patches
from tests.testkit.ledger import Chain
from wire import canonical_json


class ChainClient:
    """A node that answers from a chain in memory, with the documents of a real one, and lies when told to."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.swapped: dict[str, str] = {}
        self.moved = 0
        self.is_reversed = False
        self.pages = 0

    def call(self, method: str, **params: Any) -> Any:
        match method:
            case "genesis.get":
                return {"genesis": base64.b64encode(self.chain.genesis.document).decode()}
            case "receipt.get":
                tx_id = self.swapped.get(params["tx_id"], params["tx_id"])
                return build_receipt(self.chain.store, bytes.fromhex(tx_id)).to_json()
            case "history":
                self.pages += 1
                return self._history(**params)
        raise AssertionError(method)

    def _history(self, subject: str, id: str, limit: int, **where: int) -> list[dict[str, Any]]:
        view = self.chain.view
        keys = {
            "organisation": organisation_key,
            "patch": lambda name: patch_key(bytes.fromhex(name)),
            "proposal": lambda name: proposal_key(bytes.fromhex(name)),
        }
        key = keys.get(subject, identity_key)(id)
        start = (where["from"], where["from_index"])
        places = [each for each in view.history(key) if (each.height, each.index) >= start][:limit]
        answer = []
        for each in places:
            block = view.block(each.height)
            assert block is not None
            transaction = decode_transaction_untrusted(block.transactions[each.index])
            signer = view.identity_of_key(transaction.signer_key_id)
            name = signer.identity_id if signer else None
            document = transaction_document(transaction, signer=name, height=each.height + self.moved, index=each.index)
            answer.append({**document, "time_ms": block.header.time_ms})
        return answer[::-1] if self.is_reversed else answer

    def stream(self, method: str, **params: Any) -> Iterator[Any]:
        raise AssertionError(method)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    chain.register_patch_people()
    data = patches.approve(patches.make_patch())
    patch_id = chain.publish(data)
    chain.attest(data, "bob@beta")
    first = chain.submit(bodies.DeploymentIntent(1, bytes(32), "site", patch_id, bytes(32), b"{}"), "web1@acme").tx_id
    body = bodies.DeploymentOutcome(2, first, "site", patch_id, first, "SUCCESS", bytes(32), b"\x01" * 32, b"{}")
    chain.submit(body, "web1@acme")
    report = bodies.HostReport("drift", "site", b"")
    chain.commit(*(chain.sign(report, "web1@acme") for _ in range(5)))
    return chain


@pytest.fixture
def client(chain: Chain) -> ChainClient:
    return ChainClient(chain)


def story(client: ChainClient, subject: str, name: str) -> dict[str, Any]:
    return run_trace(Session(Output(as_json=True), _client=client), subject, name, None)


def test_each_subject_has_its_story_with_proven_places(chain: Chain, client: ChainClient) -> None:
    (patch,) = chain.view.patches()
    for subject, name, count in (
        ("patch", patch.patch_id.hex(), 4),
        ("host", "web1@acme", 8),
        ("identity", "bob@beta", 2),
        ("organisation", "acme", 12),
    ):
        document = story(client, subject, name)
        assert (document["valid"], document["complete"], len(document["events"])) == (True, True, count), subject
        places = [each["log_index"] for each in document["events"]]
        assert places == sorted(set(places))
        for each in document["events"]:
            location = chain.view.location(bytes.fromhex(each["tx_id"]))
            assert location is not None
            assert (each["height"], each["index"], each["log_index"]) == (
                location.height,
                location.index,
                location.log_index,
            )
            assert each["certified_height"] >= each["height"]
    lines = trace_lines(story(client, "host", "web1@acme"))
    assert lines[-2].startswith("     10.4  ")
    assert "log 13, certified by block 10" in lines[-2]
    assert lines[-1].startswith("8 records, every receipt verified")


def test_a_proposal_has_its_story_with_every_vote() -> None:
    chain = Chain()
    chain.adopt(SetThreshold("two-thirds"))
    (proposal,) = chain.view.proposals()
    document = story(ChainClient(chain), "proposal", proposal.proposal_id.hex())
    name = proposal.proposal_id.hex()[:12]
    assert [(each["summary"], each["signer"], each["receipt"]) for each in document["events"]] == [
        ("proposed set-threshold", "ada@acme", "valid"),
        (f"voted for proposal {name}", "ada@acme", "valid"),
        (f"voted for proposal {name}", "ben@beta", "valid"),
    ]


def test_long_stories_come_page_by_page(client: ChainClient, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = story(client, "organisation", "acme")
    monkeypatch.setattr(audit_trace, "PAGE", 3)
    client.pages = 0
    assert story(client, "organisation", "acme") == whole
    assert client.pages == 5
    monkeypatch.setattr(audit_trace, "EVENTS_MAX", 4)
    cut = story(client, "organisation", "acme")
    assert (len(cut["events"]), cut["complete"]) == (4, False)
    assert "these are the first 4" in trace_lines(cut)[-2]


def test_receipt_of_another_transaction_is_no_proof(chain: Chain, client: ChainClient) -> None:
    first, second, *_ = [each["tx_id"] for each in story(client, "host", "web1@acme")["events"]]
    client.swapped = {second: first}
    document = story(client, "host", "web1@acme")
    assert document["valid"] is False
    assert "cli.trace.other_receipt" in document["events"][1]["receipt"]
    lines = trace_lines(document)
    assert "NOT PROVEN" in lines[1]
    assert lines[-1] == "NOT EVERY RECEIPT HOLDS"


def test_places_that_receipts_do_not_prove_are_told(client: ChainClient) -> None:
    client.moved = 3
    document = story(client, "host", "web1@acme")
    assert document["valid"] is False
    assert "cli.trace.other_place" in document["events"][0]["receipt"]


def test_node_that_tells_out_of_order_is_refused(client: ChainClient) -> None:
    client.is_reversed = True
    with pytest.raises(CommandError) as caught:
        story(client, "host", "web1@acme")
    assert caught.value.code == "cli.trace.order"
    client.is_reversed = False
    with pytest.raises(CommandError) as caught:
        story(client, "identity", "nobody@acme")
    assert caught.value.code == "cli.trace.not_found"


def test_documented_story_is_the_real_one(chain: Chain, client: ChainClient, repository_root: Path) -> None:
    (patch,) = chain.view.patches()
    page = (repository_root / "docs" / "operations" / "cli.md").read_text()
    command = f"$ patchwarden audit trace patch {patch.patch_id.hex()} --home /srv/v1 --genesis genesis.json\n"
    shown = page.partition(command)[2].partition("```")[0]
    document = story(client, "patch", patch.patch_id.hex())
    assert shown.splitlines() == trace_lines(document)


def test_a_report_says_what_is_wrong_and_never_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    forged = "a\n     15.0  2026-11-22 22:45:00  SUCCESS for 1234567890ab on db (record 1), by web1@acme"
    chain = Chain()
    chain.register_patch_people()
    for document in (
        {"paths_count": 1, "paths": [forged]},
        {"paths_count": 0, "problem": "the target's directory cannot be found", "problem_code": "agent.target.missing"},
    ):
        body = canonical_json.encode({"version": 1, "tree_digest": None, "recorded_tree_digest": "00" * 32, **document})
        chain.submit(bodies.HostReport("drift", "db", body), "web1@acme")
    document = story(ChainClient(chain), "host", "web1@acme")
    Output(as_json=False).emit(document, trace_lines(document))
    drift, gone = capsys.readouterr().out.splitlines()[-3:-1]
    assert r"1 paths differ, such as a\n     15.0" in drift
    assert gone.count("the target's directory cannot be found [agent.target.missing]") == 1
    assert "paths differ" not in gone
