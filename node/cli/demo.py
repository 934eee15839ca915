"""`patchwarden demo`: the whole story on this machine, with real processes, and every sentence of it checked.

A network of three organisations, a program with a hole on a host, a patch that closes it, a refusal because approvals are missing, the
approvals, a tampered copy, the application, the records with their receipts, and an audit of the whole chain.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import CONTEXT, Command, Session
from node.cli.errors import EXIT_INTERRUPTED, EXIT_NO, CommandError
from node.cli.output import short
from node.cli.params import FILE

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from node.cli.demo_stage import Stage, Teller
    from node.cli.devnet_layout import Layout, Node

TEMPORARY_PREFIX: Final = "patchwarden-demo-"
NETWORK: Final = "net"
"""The network's directory in the demonstration's."""
TARGET: Final = "parcel"
PROGRAM_DIRECTORY: Final = "parcel-1.4"
EXECUTABLE: Final = ("bin/parcel", "tests/check")
PROGRAM_SECONDS_MAX: Final = 30
HOSTILE: Final = b"parcel 1\nfile 5 ../escaped\nevil\n\nend\n"
"""A parcel that names a file outside the directory that it is unpacked into."""


@click.command(
    "demo",
    cls=Command,
    context_settings=dict(CONTEXT),
    examples=(
        "patchwarden demo",
        "patchwarden demo --archive chain.archive",
        "patchwarden demo --keep --dir /tmp/story",
    ),
)
@click.option(
    "--keep", is_flag=True, help="Leave the network running and its directory in place; `devnet stop` ends it."
)
@click.option("--archive", type=FILE, metavar="FILE", help="Also write the chain's archive to FILE.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where to work; must be empty or not there. Default: a temporary directory.",
)
@click.pass_obj
def demo(session: Session, keep: bool, archive: Path | None, directory: Path | None) -> None:
    """The whole story on this machine: four validators of three organisations, one host, one patch.

    Everything is real: processes, libp2p, LevelDB, signatures, files. Exit code 0 only if every step was really so.
    """
    from node.cli.demo_stage import Teller
    from node.cli.signals import ending_signals

    begin = time.monotonic()
    place, is_ours = _workplace(directory)
    teller = Teller(session.output, place)
    told = False
    try:
        with ending_signals():
            layout = _tell(teller, place, keep=keep, archive=None if archive is None else archive.absolute())
            told = True
    except KeyboardInterrupt:
        session.output.note("interrupted; everything has stopped")
        click.get_current_context().exit(EXIT_INTERRUPTED)
    finally:
        if not (told and keep):
            _clean_up(place, is_ours)
    seconds = time.monotonic() - begin
    document = {
        "ok": True,
        "seconds": round(seconds, 1),
        "steps": teller.steps,
        "network": layout.to_json() if keep else None,
        "directory": str(layout.directory) if keep else None,
        "archive": None if archive is None else str(archive),
    }
    checks = sum(len(step["checks"]) for step in teller.steps)
    session.output.emit(
        document, ["", f"All of it was so: {checks} checks in {seconds:.0f} seconds.", *_left(layout, keep, archive)]
    )


def _left(layout: Layout, keep: bool, archive: Path | None) -> list[str]:
    lines = (
        []
        if archive is None
        else [f"The chain's archive: {archive}. Replay it: patchwarden audit replay --archive {archive}"]
    )
    if keep:
        lines += [
            f"The network goes on: {', '.join(f'{node.name} {node.rpc}' for node in layout.nodes)}",
            f"Look at it:  {layout.nodes[0].explorer} in a browser, or patchwarden devnet status --dir {layout.directory}",
            f"End it:      patchwarden devnet stop --dir {layout.directory}",
        ]
    else:
        lines.append("The processes have stopped and the files are gone; `--keep` leaves them.")
    return lines


def _workplace(directory: Path | None) -> tuple[Path, bool]:
    """Return an empty directory to work in, and whether it was made for this."""
    from node.cli.devnet_layout import check_sockets_fit

    if directory is None:
        place = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
        try:
            check_sockets_fit(place / NETWORK)
        except CommandError:
            # A temporary directory deep down, as build systems have them: sockets need a shorter path.
            place.rmdir()
            place = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir="/tmp"))
        return place, True
    directory = directory.absolute()
    if directory.exists() and any(directory.iterdir()):
        raise click.UsageError(f"--dir {directory} is not empty")
    is_ours = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    return directory, is_ours


def _clean_up(place: Path, is_ours: bool) -> None:
    for entry in list(place.iterdir()):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    if is_ours:
        place.rmdir()


def _tell(teller: Teller, place: Path, *, keep: bool, archive: Path | None) -> Layout:
    """Tell the story; what it returns is the network as it was."""
    from node.cli.demo_stage import Stage, network_beside

    teller.chapter("Three organisations run a network")
    teller.say("acme, beta and gamma trust nobody alone: four validators agree on one ledger; web1 is a host of acme.")
    with network_beside(place / NETWORK, keep=keep) as layout:
        stage = Stage(teller, layout)
        _show_network(stage)
        tree = _install_program(stage, place)
        patch = _make_patch(stage, place)
        patch_id = _publish(stage, patch)
        _be_refused(stage, patch, tree)
        _vouch(stage, patch)
        _try_tampered(stage, patch, tree)
        _apply(stage, patch, patch_id, tree)
        _trace(stage, patch_id)
        _audit(stage, archive or place / "chain.archive")
    return layout


def _show_network(stage: Stage) -> None:
    from node.cli.devnet_network import read_status

    teller, layout = stage.teller, stage.layout
    statuses = [read_status(node) for node in layout.nodes]
    own_processes = {status["pid"] for status in statuses} == {node.pid for node in layout.nodes}
    leader = next((status["name"] for status in statuses if status["role"] == "leader"), None)
    teller.check(
        own_processes and leader is not None and len({status["chain_id"] for status in statuses}) == 1,
        f"{len(layout.validators)} validators and {len(layout.hosts)} host run as processes of their own, and {leader} leads",
    )
    first = layout.validators[0]
    found = stage.run("identity", "list", "--rpc", first.rpc)
    roles = {each["identity"]: each["roles"] for each in found}
    teller.check(
        roles.get("alice@acme") == ["developer"]
        and roles.get("bob@beta") == ["attestor:security-review"]
        and roles.get("carol@gamma") == ["attestor:qa"]
        and roles.get("web1@acme") == ["host"],
        "the ledger knows alice@acme (developer), bob@beta (security review), carol@gamma (qa) and the host web1@acme",
    )


def _install_program(stage: Stage, place: Path) -> Path:
    teller = stage.teller
    teller.chapter("A program with a hole runs on web1")
    tree = place / "srv" / TARGET
    _write_tree(resources.files("node.cli").joinpath("demo_data", PROGRAM_DIRECTORY), tree)
    escaped = tree.parent / "escaped"
    code = _run_program(tree, "unpack", tree.parent / "out", HOSTILE)
    teller.check(
        code == 0 and escaped.read_bytes() == b"evil\n",
        "its `unpack` writes outside its directory when a parcel says so",
    )
    escaped.unlink()
    shutil.rmtree(tree.parent / "out")
    host = stage.layout.hosts[0]
    added = stage.run("agent", "target", "add", TARGET, tree, "--component", TARGET, "--home", host.home)
    teller.check(
        added["tree_digest"] == _tree_digest(tree), f"web1's agent guards it; its tree is {short(added['tree_digest'])}"
    )
    return tree


def _make_patch(stage: Stage, place: Path) -> Path:
    teller = stage.teller
    teller.chapter("Alice fixes it and signs what she did")
    work = place / "alice" / PROGRAM_DIRECTORY
    _write_tree(resources.files("node.cli").joinpath("demo_data", PROGRAM_DIRECTORY), work)
    mail, diff, patch = place / "alice" / "fix.mail", place / "alice" / "fix.diff", place / "fix.patch"
    mail.write_bytes(resources.files("node.cli").joinpath("demo_data", "fix.patch").read_bytes())
    imported = stage.run("patch", "import", mail, "--base", work, "--out", diff)
    lines = f"+{imported['lines_added']} -{imported['lines_removed']}"
    teller.check(
        imported["files"] == 4 and not imported["moved_hunks"], f"the diff is exact: {imported['files']} files, {lines}"
    )
    _apply_diff(diff, work)
    teller.check(_run_tests(work) == 0, "the test suite passes in her tree, the new test for the hole included")
    alice = stage.layout.person("alice@acme")
    created = stage.run(
        "patch", "create", "--diff", diff, "--base", work, "--category", "security-update", "--component", TARGET,
        "--author", "Alice Example <alice@acme.example>", "--key", alice.key, "--out", patch,
    )  # fmt: skip
    verified = stage.run("patch", "verify", patch)
    teller.check(
        verified["valid"] and verified["patch_id"] == created["patch_id"],
        f"one file carries diff, reason, build environment, test suite and her signature: patch {short(created['patch_id'])}",
    )
    if (git := shutil.which("git")) is not None:
        fresh = place / "alice" / "fresh"
        _write_tree(resources.files("node.cli").joinpath("demo_data", PROGRAM_DIRECTORY), fresh)
        command = [git, "apply", "--check", str(patch)]
        done = subprocess.run(command, cwd=fresh, capture_output=True, timeout=PROGRAM_SECONDS_MAX, check=False)
        teller.check(done.returncode == 0, "git takes the same file as an ordinary patch")
    return patch


def _publish(stage: Stage, patch: Path) -> str:
    teller, first = stage.teller, stage.layout.validators[0]
    alice = stage.layout.person("alice@acme")
    published = stage.run("patch", "publish", patch, "--key", alice.key, "--rpc", first.rpc)
    teller.check(
        published["stored"] and published["published"]["height"] == published["published_height"],
        f"the ledger has her statement since height {published['published_height']}",
    )
    stage.wait_height(stage.layout.hosts[0], published["published_height"])
    patch_id: str = published["patch_id"]
    return patch_id


def _be_refused(stage: Stage, patch: Path, tree: Path) -> None:
    teller, host = stage.teller, stage.layout.hosts[0]
    teller.chapter("web1 refuses: nobody has vouched for it yet")
    before = _tree_digest(tree)
    refused = stage.run("agent", "apply", patch, "--target", TARGET, "--home", host.home, expect=EXIT_NO)
    rules = [rule for rule, _ in refused["decision"]["forbidden_by"]]
    teller.check(
        refused["code"] == "ERROR_POLICY_DENIED", f"the answer is {refused['code']}", otherwise=refused["message"]
    )
    teller.check(
        rules == ["security-review-approval", "two-independent-approvals"],
        f"the refusal names its rules: {', '.join(rules)}",
    )
    for sentence in refused["decision"]["missing"]:
        teller.say(f"  missing: {sentence}")
    teller.check(len(refused["decision"]["missing"]) == 2, "and says what is missing")
    teller.check(_tree_digest(tree) == before and refused["intent_tx"] is None, "the tree on web1 is untouched")
    stage.wait_delivered(host)


def _vouch(stage: Stage, patch: Path) -> None:
    teller, layout = stage.teller, stage.layout
    teller.chapter("Two people of other organisations vouch")
    heights = []
    for identity, role, comment in (
        ("bob@beta", "security-review", "every way out of the directory is closed"),
        ("carol@gamma", "qa", "suite run on Debian 12, all tests pass"),
    ):
        person, node = layout.person(identity), _validator_of(layout, identity)
        attested = stage.run(
            "patch", "attest", patch, "--role", role, "--verdict", "approve", "--comment", comment, "--key", person.key, "--rpc", node.rpc,
        )  # fmt: skip
        recorded = attested["recorded"]
        teller.check(
            attested["identity"] == identity and recorded is not None,
            f"{identity} approves as {role}, on the ledger at height {recorded['height'] if recorded else '-'}",
        )
        heights.append(recorded["height"])
    for node in layout.nodes:
        stage.wait_height(node, max(heights))
    verified = stage.run("patch", "verify", patch, "--rpc", layout.validators[0].rpc)
    passed = [step for step in verified["steps"] if step["result"] == "passed"]
    teller.check(
        verified["valid"] and passed == verified["steps"],
        f"{len(passed)} steps of verification pass, in the file and on the ledger",
        otherwise=str(verified["steps"]),
    )


def _try_tampered(stage: Stage, patch: Path, tree: Path) -> None:
    teller, host = stage.teller, stage.layout.hosts[0]
    teller.chapter("Somebody changes one word of the signed file")
    tampered = patch.with_name("tampered.patch")
    tampered.write_bytes(patch.read_bytes().replace(b'or ".." in parts', b'or "::" in parts', 1))
    before = _tree_digest(tree)
    refused = stage.run("agent", "apply", tampered, "--target", TARGET, "--home", host.home, expect=EXIT_NO)
    teller.check(
        refused["code"] == "ERROR_INVALID_SIGNATURE" and refused["reason"] == "provenance.signature.body",
        f"web1 answers {refused['code']} before it looks at anything else",
        otherwise=refused["message"],
    )
    teller.check(_tree_digest(tree) == before, "the tree on web1 is untouched")


def _apply(stage: Stage, patch: Path, patch_id: str, tree: Path) -> None:
    from provenance.verify import verify_patch_untrusted

    teller, host = stage.teller, stage.layout.hosts[0]
    teller.chapter("web1 applies it")
    before = _tree_digest(tree)
    explained = stage.run("agent", "explain", patch, "--target", TARGET, "--home", host.home)
    teller.check(
        explained["code"] == "SUCCESS" and _tree_digest(tree) == before,
        f"asked, the agent would now allow it ({', '.join(explained['decision']['allowed_by'])}); nothing has changed",
    )
    applied = stage.run("agent", "apply", patch_id, "--target", TARGET, "--home", host.home)
    teller.check(
        applied["code"] == "SUCCESS",
        "the agent fetched the published file by its digest, decided, announced, applied, recorded",
    )
    metadata = verify_patch_untrusted(patch.read_bytes()).metadata
    from hashlib import sha256

    signed = {component.path: component.post.sha256 for component in metadata.affected_components if component.post}
    found = {path: sha256((tree / path).read_bytes()).hexdigest() for path in signed}
    teller.check(found == signed, f"each of the {len(signed)} changed files has the digest that Alice signed")
    teller.check(
        applied["tree_before"] == before and applied["tree_after"] == _tree_digest(tree),
        f"the tree went from {short(applied['tree_before'])} to {short(applied['tree_after'])}, as the record says",
    )
    code = _run_program(tree, "unpack", tree.parent / "out", HOSTILE)
    teller.check(
        code != 0 and not (tree.parent / "escaped").exists(), "the hole is closed: the same parcel is refused now"
    )
    teller.check(_run_tests(tree) == 0, "the program's test suite passes on web1")
    stage.wait_delivered(host)
    teller.check(applied["outcome_tx"] is not None, f"the outcome is on the ledger: {short(applied['outcome_tx'])}")


def _trace(stage: Stage, patch_id: str) -> None:
    teller, layout = stage.teller, stage.layout
    teller.chapter("Anybody can trace what happened")
    node = layout.validators[1]
    records = stage.run(
        "audit", "trace", "host", layout.hosts[0].identity, "--rpc", node.rpc, "--genesis", layout.genesis
    )
    story = stage.run("audit", "trace", "patch", patch_id, "--rpc", node.rpc, "--genesis", layout.genesis)
    for event in story["events"]:
        teller.say(f"  height {event['height']:>3}  {event['summary']}, by {event['signer']}")
    kinds = [event["kind"] for event in story["events"]]
    expected = [
        "patch.publish",
        "deployment.outcome",  # the refusal for want of approvals
        "patch.attest",
        "patch.attest",
        "deployment.intent",
        "deployment.outcome",
    ]
    teller.check(
        kinds == expected,
        "publication, refusal, two approvals, intent, outcome: in this order",
        otherwise=", ".join(kinds),
    )
    count = len(story["events"]) + len(records["events"])
    teller.check(
        story["valid"] and records["valid"] and story["genesis_given"],
        f"each of these and of the host's {len(records['events'])} records has a receipt: {count} hold with the founding document alone",
    )


def _audit(stage: Stage, archive: Path) -> None:
    teller, layout = stage.teller, stage.layout
    teller.chapter("An auditor derives the whole chain again")
    node = layout.validators[2]
    replayed = stage.run("audit", "replay", "--rpc", node.rpc, "--genesis", layout.genesis)
    count = f"{replayed['blocks']} blocks and {replayed['transactions']} transactions"
    teller.check(
        replayed["valid"] and replayed["certified_height"] == replayed["height"] > 0,
        f"{count}: every link, root, signature, state and certificate holds",
        otherwise=str(replayed["findings"][:2]),
    )
    height = replayed["height"]
    for each in layout.nodes:
        stage.wait_height(each, height)
    blocks = [stage.run("block", "show", str(height), "--rpc", each.rpc) for each in layout.nodes]
    teller.check(
        {block["block_hash"] for block in blocks} == {replayed["block_hash"]},
        f"all {len(blocks)} nodes tell the same block {height}: {short(replayed['block_hash'])}",
    )
    exported = stage.run("audit", "export", "--format", "archive", "--rpc", node.rpc, "--out", archive)
    again = stage.run("audit", "replay", "--archive", archive, "--genesis", layout.genesis)
    teller.check(
        again["valid"] and again["blocks"] == exported["blocks"] >= replayed["blocks"],
        f"the archive ({exported['bytes']} bytes) replays to the same on its own, without any node",
    )


def _validator_of(layout: Layout, identity: str) -> Node:
    """Return a validator of this person's organisation: people talk to their own nodes."""
    from node.cli.devnet_layout import ORGANISATIONS

    names = [name for name, _ in ORGANISATIONS]
    return layout.validators[names.index(identity.partition("@")[2])]


def _write_tree(source: Traversable, target: Path, prefix: str = "") -> None:
    """Write the shipped source tree; its modes are written here, because not every way of installing keeps them."""
    target.mkdir(parents=True)
    for entry in source.iterdir():
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            _write_tree(entry, target / entry.name, f"{name}/")
        else:
            place = target / entry.name
            place.write_bytes(entry.read_bytes())
            place.chmod(0o755 if name in EXECUTABLE else 0o644)


def _apply_diff(path: Path, tree: Path) -> None:
    """Change the developer's tree as the diff says."""
    from node.cli.patch_create import split_header
    from node.cli.source_tree import SourceTree
    from provenance.diff import parse_diff_untrusted
    from provenance.diff_apply import apply_diff

    diff = parse_diff_untrusted(split_header(path.read_bytes())[1])
    for name, state in apply_diff(diff, SourceTree(tree).states(diff)).items():
        assert state is not None, "the shipped fix deletes nothing"
        (tree / name).write_bytes(state.content)


def _tree_digest(root: Path) -> str:
    """Return the git tree id (SHA-256) of a directory, computed here and not by the agent."""
    from provenance.tree_digest import blob_digest, tree_digest

    files: dict[bytes, tuple[int, Any]] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            mode = 0o100755 if path.stat().st_mode & 0o100 else 0o100644
            files[os.fsencode(path.relative_to(root))] = (mode, blob_digest(path.read_bytes()))
    return tree_digest(files).hex()


def _run_program(tree: Path, command: str, directory: Path, data: bytes) -> int:
    done = subprocess.run(
        [sys.executable, "-I", str(tree / "bin" / "parcel"), command, str(directory)],
        input=data,
        capture_output=True,
        timeout=PROGRAM_SECONDS_MAX,
        check=False,
    )
    return done.returncode


def _run_tests(tree: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-I", str(tree / "tests" / "check")],
        capture_output=True,
        timeout=PROGRAM_SECONDS_MAX,
        check=False,
    )
    return done.returncode
