"""COSE receipts in the hands of somebody else's libraries: `pytest -m network tests/e2e/test_cose_foreign.py`.

RFC 9942's receipts are read by @transmute/cose (of the RFC's first author), their signatures by @auth0/cose, on Node.js. Both are installed
into a temporary directory, so this needs the internet and is never part of `make test`; `tests/unit/test_ledger_cose.py` verifies the same
receipts by the RFCs' text with cbor2 and cryptography.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cbor2
import pytest

from ledger import bodies
from ledger.configuration_history import build_configuration_proof
from ledger.cose_receipt import CoseReceipts, build_cose_receipts, sign_log_root
from ledger.proofs import build_receipt
from ledger.transaction import decode_transaction_untrusted
from tests.testkit.ledger import Chain

pytestmark = pytest.mark.network

PACKAGES = ("@transmute/cose@0.2.11", "@auth0/cose@1.0.2")
TRANSACTIONS = 21
"""So that paths of every shape occur: the last leaves of a log of 21 have short ones."""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("Node.js and npm are not installed")
    directory = tmp_path_factory.mktemp("node")
    (directory / "package.json").write_text('{"private": true, "type": "module"}')
    subprocess.run(
        [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES],
        cwd=directory,
        check=True,
        capture_output=True,
    )
    shutil.copy(Path(__file__).with_name("cose_foreign.mjs"), directory / "verify.mjs")
    return directory


def verify(foreign: Path, jobs: list[dict[str, str]]) -> list[dict[str, Any]]:
    (foreign / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(["node", "verify.mjs", "jobs.json"], cwd=foreign, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def all_receipts(chain: Chain) -> list[CoseReceipts]:
    """Return the COSE receipts of every transaction under the newest header."""
    configuration = build_configuration_proof(chain.store, chain.height).configuration
    root = chain.blocks[-1].header.log_root
    signatures = {key.public_key.key_id: sign_log_root(key, chain.genesis.chain_id, root) for key in chain.node_keys}
    return [
        build_cose_receipts(
            build_receipt(chain.store, decode_transaction_untrusted(raw).tx_id, chain.height), configuration, signatures
        )
        for block in chain.blocks
        for raw in block.transactions
    ]


def jobs_of(chain: Chain, receipts: CoseReceipts, *, suffix: bytes = b"", shift: int = 0) -> list[dict[str, str]]:
    """Return what the script takes, as a stranger gets it: from the file alone, and the validators' keys by their ids."""
    container = cbor2.loads(receipts.encode())
    keys = {key.public_key.key_id: key.public_key for key in chain.node_keys}
    signers = [cbor2.loads(cbor2.loads(receipt).value[0])[4] for receipt in container[2]]
    return [
        {
            "entry": (container[1] + suffix).hex(),
            "receipt": receipt.hex(),
            "spki": keys[signers[(index + shift) % len(signers)]].spki.hex(),
        }
        for index, receipt in enumerate(container[2])
    ]


def test_foreign_libraries_verify_every_receipt_and_refuse_what_is_forged(foreign: Path) -> None:
    chain = Chain()
    chain.register("web1@acme", "host")
    for _ in range(TRANSACTIONS - 1):
        chain.submit(bodies.HostReport("inventory", "site", b"x"), "web1@acme")
    every = all_receipts(chain)
    good = [job for receipts in every for job in jobs_of(chain, receipts)]
    root = chain.blocks[-1].header.log_root.hex()
    assert verify(foreign, good) == [{"root": root}] * (3 * TRANSACTIONS)
    other_entry = jobs_of(chain, every[4], suffix=b"\x00")
    other_key = jobs_of(chain, every[4], shift=1)
    other_leaf = [{**job, "receipt": jobs_of(chain, every[5])[0]["receipt"]} for job in jobs_of(chain, every[4])[:1]]
    assert all("error" in result for result in verify(foreign, other_entry + other_key + other_leaf))
