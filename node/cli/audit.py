"""`patchwarden audit`: what an auditor does, trusting the founding document alone."""

from __future__ import annotations

from node.cli.command import group
from node.cli.lazy import Place

audit = group(
    "Replay the chain, trace one thing, export history.\n\nNothing that a node says is believed: everything is derived again from the "
    "founding document.",
    {
        "replay": Place("node.cli.audit_replay:replay", "Derive the whole chain again and report what does not hold."),
        "replay-decision": Place(
            "node.cli.audit_replay_decision:replay_decision", "Judge recorded decisions again, from the ledger alone."
        ),
        "blame": Place("node.cli.audit_blame:blame", "Name who is guilty when two histories contradict each other."),
        "verify-blame": Place("node.cli.audit_blame:verify", "Verify a proof against a validator offline."),
        "accuse": Place("node.cli.audit_blame:accuse", "Put a proof against a validator on record."),
        "trace": Place("node.cli.audit_trace:trace", "Tell the story of one patch, host, identity or organisation."),
        "export": Place(
            "node.cli.audit_export:export",
            "Write the chain as an archive, or its transactions as JSON lines, CSV or Parquet.",
        ),
    },
)
