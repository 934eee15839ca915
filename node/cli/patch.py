"""`patchwarden patch`: the patch file from its making to its verification."""

from __future__ import annotations

from node.cli.command import group
from node.cli.lazy import Place

patch = group(
    "Create, attest, seal, publish and verify patch files.\n\nA patch file is an ordinary patch: `git am`, `git apply` and "
    "`patch -p1` take it as it is. What proves it travels inside.",
    {
        "create": Place("node.cli.patch_create:create", "Sign a diff together with its provenance."),
        "import": Place("node.cli.patch_import:import_patch", "Make somebody's diff exact for a tree, ready to sign."),
        "attest": Place("node.cli.patch_attest:attest", "Add your signed verdict."),
        "seal": Place("node.cli.patch_attest:seal", "Close the file: nothing can be added or taken away."),
        "publish": Place("node.cli.patch_ledger:publish", "Record a patch and its attestations, and store the file."),
        "withdraw": Place("node.cli.patch_ledger:withdraw", "Stop every agent from applying a patch."),
        "fetch": Place("node.cli.patch_ledger:fetch", "Get a published patch file."),
        "list": Place("node.cli.patch_ledger:list_patches", "List published patches."),
        "status": Place("node.cli.patch_show:status", "Show what the ledger has about a published patch."),
        "show": Place("node.cli.patch_show:show", "Show what a patch file or a published patch says."),
        "extract": Place("node.cli.patch_show:extract", "Print the provenance as one JSON document."),
        "verify": Place("node.cli.patch_verify:verify", "Check everything, step by step."),
        "lint": Place("node.cli.patch_show:lint", "Look for what a reviewer could overlook."),
    },
)
