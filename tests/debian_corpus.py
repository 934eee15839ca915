"""Hundreds of real Debian patches on their whole way, against `patch -F0`: `python -m tests.debian_corpus --patches 500`.

Every patch of each package, in the order of its series: imported for the tree as GNU patch has left it, signed, attested twice,
verified, published, and applied by an agent over a running network. At the end the agent's tree and GNU patch's are compared file by file.
A refused patch is named with its code and with what GNU patch does to it; the series goes on from GNU patch's tree, on another target.

Sources come from the archive that this machine's apt is configured for; a package that it does not give is named and left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from provenance.diff import FileState
from tests.testkit import patches
from tests.testkit.appliers import TOOL_SECONDS_MAX, read_tree, write_tree
from tests.testkit.debian import QuiltPatch, SourceArchive, SourcePackage, SourceUnavailableError
from tests.testkit.debian_pipeline import Signed, add_target, apply, import_and_sign, publish_all
from tests.testkit.scene import Scene, running_scene
from wire.errors import RejectedError

PACKAGES = (
    *(
        "cron",
        "glib2.0",
        "exim4",
        "openssh",
        "curl",
        "util-linux",
        "libxml2",
        "gnupg2",
        "systemd",
        "cups",
        "tiff",
        "bash",
        "file",
        "cpio",
    ),
    *(
        "groff",
        "krb5",
        "postfix",
        "openldap",
        "busybox",
        "patch",
        "shadow",
        "wpa",
        "screen",
        "vim",
        "sqlite3",
        "xz-utils",
        "freetype",
    ),
    *(
        "isc-dhcp",
        "procps",
        "tar",
        "sudo",
        "ncurses",
        "grep",
        "bc",
        "nano",
        "pam",
        "findutils",
        "gawk",
        "coreutils",
        "xterm",
    ),
)
PATCH = ("patch", "--fuzz=0", "--force", "--silent", "--no-backup-if-mismatch")


@dataclass
class Refusal:
    """A patch that is not taken over."""

    name: str
    code: str
    message: str
    gnu_accepts: bool


@dataclass
class Segment:
    """Patches that follow each other without a gap, and the trees around them."""

    before: dict[str, FileState]
    signed: list[Signed] = field(default_factory=list)
    after: dict[str, FileState] = field(default_factory=dict)
    """What GNU patch has made by then."""


@dataclass
class Result:
    """What became of one package."""

    package: SourcePackage
    segments: list[Segment] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    notes: int = 0

    @property
    def accepted(self) -> list[Signed]:
        return [each for segment in self.segments for each in segment.signed]

    @property
    def moved(self) -> int:
        """Patches with at least one hunk that has moved."""
        return sum(bool(each.rebased.moves) for each in self.accepted)


def gnu_patch(root: Path, patch: QuiltPatch) -> bool:
    """Return whether GNU patch takes the whole patch without fuzz; only then the tree is changed."""
    for options in (("--dry-run",), ()):
        command = (*PATCH, f"-p{patch.strip}", *options)
        done = subprocess.run(
            command, cwd=root, input=patch.data, capture_output=True, timeout=TOOL_SECONDS_MAX, check=False
        )
        if done.returncode != 0:
            assert options, f"{patch.name}: GNU patch fails where it said that it would not: {done.stdout!r}"
            return False
    return True


def import_package(package: SourcePackage, root: Path, left: int) -> Result:
    """Return the package's patches as signed files until `left` are accepted; GNU patch's tree is at `root`."""
    result = Result(package)
    tree = dict(package.base)
    write_tree(root, tree)
    segment = Segment(dict(tree))
    component = f"pkg:deb/debian/{package.name}@{package.version}#corpus"
    for patch in package.patches:
        if len(result.accepted) + len(segment.signed) >= left:
            break
        try:
            signed = import_and_sign(
                patch, tree.get, component, release_counter=len(result.accepted) + len(segment.signed) + 1
            )
        except RejectedError as error:
            accepts = gnu_patch(root, patch)
            result.refusals.append(Refusal(patch.name, error.code, error.message, accepts))
            if accepts:
                segment.after = tree
                result.segments.append(segment)
                tree = read_tree(root)
                segment = Segment(dict(tree))
            continue
        assert gnu_patch(root, patch), f"{package.name} {patch.name}: accepted here, refused by GNU patch"
        segment.signed.append(signed)
        tree = dict(tree)
        for path, state in signed.rebased.post.items():
            found = _read(root / path)
            assert found == state, f"{package.name} {patch.name}: {path} is not what GNU patch makes of it"
            if state is None:
                del tree[path]
            else:
                tree[path] = state
    segment.after = read_tree(root)
    assert segment.after == tree, f"{package.name}: a file beside the touched ones differs from GNU patch's tree"
    result.segments.append(segment)
    return result


def _read(path: Path) -> FileState | None:
    if not path.exists():
        return None
    return FileState(0o100755 if path.stat().st_mode & 0o100 else 0o100644, path.read_bytes())


def deploy(scene: Scene, result: Result) -> None:
    """Publish the package's patches and have the agent apply them; its trees must be GNU patch's."""
    component = f"pkg:deb/debian/{result.package.name}@{result.package.version}#corpus"
    publish_all(scene.cluster, result.accepted)
    scene.wait_level()
    for number, segment in enumerate(each for each in result.segments if each.signed):
        target = f"{result.package.name.replace('.', '-')}-{number}"
        root = add_target(scene, target, segment.before, component)
        for signed in segment.signed:
            apply(scene, target, signed)
        assert read_tree(root) == segment.after, f"{target}: the agent's tree is not GNU patch's"


def run(names: Sequence[str], count: int, folder: Path, scene: Scene | None) -> list[Result]:
    """Return the results of so many packages that `count` patches are accepted."""
    archive = SourceArchive(_made(folder / "apt"))
    results: list[Result] = []
    accepted = 0
    for name in names:
        if accepted >= count:
            break
        begin = time.monotonic()
        try:
            package = archive.fetch(name)
        except SourceUnavailableError as error:
            print(f"{name}: not to be had here: {str(error)[:120]}", file=sys.stderr, flush=True)
            continue
        result = import_package(package, folder / "gnu" / name, count - accepted)
        if scene is not None:
            deploy(scene, result)
        results.append(result)
        accepted += len(result.accepted)
        seconds = time.monotonic() - begin
        print(
            f"{name}: {len(result.accepted)} accepted, {accepted} in all, {seconds:.1f} s", file=sys.stderr, flush=True
        )
    return results


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def table(results: Sequence[Result]) -> str:
    """Return what was found as Markdown: one line a package, then every refusal."""
    lines = [
        "| package | version | patches | accepted | with moved hunks | refused |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    rows = [
        (
            each.package.name,
            each.package.version,
            len(each.accepted) + len(each.refusals),
            len(each.accepted),
            each.moved,
            len(each.refusals),
        )
        for each in results
    ]
    total = tuple(sum(int(row[column]) for row in rows) for column in range(2, 6))
    lines += [f"| {' | '.join(map(str, row))} |" for row in (*rows, (f"{len(rows)} packages", "", *total))]
    refusals = [(each.package.name, refusal) for each in results for refusal in each.refusals]
    lines += ["", "| refused with | patches | of these accepted by `patch -F0` |", "| --- | ---: | ---: |"]
    for code, count in sorted(Counter(refusal.code for _, refusal in refusals).items()):
        both = sum(refusal.gnu_accepts for _, refusal in refusals if refusal.code == code)
        lines.append(f"| `{code}` | {count} | {both} |")
    lines += ["", "| refused patch | code | `patch -F0` | why |", "| --- | --- | --- | --- |"]
    for name, refusal in refusals:
        accepts = "accepts" if refusal.gnu_accepts else "refuses"
        why = refusal.message.replace("|", "\\|")
        lines.append(f"| {name} {refusal.name} | `{refusal.code}` | {accepts} | {why} |")
    return "\n".join(lines)


def main() -> None:
    """Run as the command line says and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.debian_corpus", description=__doc__)
    parser.add_argument("--patches", type=int, default=500, help="accepted patches after which to stop")
    parser.add_argument(
        "--no-agent",
        action="store_true",
        help="import, sign, attest and verify only; compare the trees without a network",
    )
    parser.add_argument(
        "packages", nargs="*", metavar="PACKAGE", help="source packages; without one, those of the list"
    )
    arguments = parser.parse_args()
    names = arguments.packages or PACKAGES
    with tempfile.TemporaryDirectory(prefix="patchwarden-corpus-") as name:
        folder = Path(name)
        try:
            if arguments.no_agent:
                results = run(names, arguments.patches, folder, None)
            else:
                with running_scene(folder, patches.BEFORE, validators=3) as scene:
                    results = run(names, arguments.patches, folder, scene)
        except SourceUnavailableError as error:
            print(f"Debian's sources cannot be had here: {error}", file=sys.stderr)
            raise SystemExit(77) from None
        print(table(results))


if __name__ == "__main__":
    main()
