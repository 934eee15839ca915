"""The test suite's hash: what sha256sum and sort give, and a difference for every difference."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from provenance.errors import InvalidMetadataError
from provenance.limits import PATH_BYTES_MAX
from provenance.test_suite import METHOD_TREE, SuiteFile, ValidationTests, hash_test_suite
from wire.hashing import Digest, sha256

FILES = {
    b"test_b.py": SuiteFile(0o100644, sha256(b"b")),
    b"sub/test_a.py": SuiteFile(0o100755, sha256(b"a")),
    b"caf\xe9.txt": SuiteFile(0o100644, sha256(b"")),
}


def refusal_code(files: dict[bytes, SuiteFile]) -> str:
    with pytest.raises(InvalidMetadataError) as caught:
        hash_test_suite(files)
    return caught.value.code


def test_the_hash_is_of_the_list_that_the_method_describes() -> None:
    listing = (
        b"patchwarden-tree-sha256/1\n"
        + b"100644 %s caf\xe9.txt\0" % hashlib.sha256(b"").hexdigest().encode()
        + b"100755 %s sub/test_a.py\0" % hashlib.sha256(b"a").hexdigest().encode()
        + b"100644 %s test_b.py\0" % hashlib.sha256(b"b").hexdigest().encode()
    )
    assert hash_test_suite(FILES) == ValidationTests(hashlib.sha256(listing).hexdigest(), 3, METHOD_TREE)


def test_coreutils_give_the_same_hash(tmp_path: Path) -> None:
    contents = {b"z.py": b"z", b"a b.py": b"", b"sub/x.py": b"x\n", b"sub.py": b"y"}
    for path, content in contents.items():
        target = tmp_path / path.decode()
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o644)
    script = (
        "find . -type f -printf '%P\\0' | LC_ALL=C sort -z |"
        ' (printf "patchwarden-tree-sha256/1\\n"; while IFS= read -r -d "" f; do'
        ' printf "100644 %s %s\\0" "$(sha256sum < "$f" | cut -d" " -f1)" "$f"; done) | sha256sum'
    )
    done = subprocess.run(("bash", "-c", script), cwd=tmp_path, capture_output=True, check=True)
    files = {path: SuiteFile(0o100644, sha256(content)) for path, content in contents.items()}
    assert done.stdout.split()[0].decode() == hash_test_suite(files).sha256


def test_every_difference_changes_the_hash() -> None:
    first = hash_test_suite(FILES).sha256
    changes: list[dict[bytes, SuiteFile]] = [
        {**FILES, b"test_b.py": SuiteFile(0o100755, sha256(b"b"))},
        {**FILES, b"test_b.py": SuiteFile(0o100644, sha256(b"c"))},
        {**FILES, b"more": SuiteFile(0o100644, sha256(b""))},
        {path: file for path, file in FILES.items() if path != b"test_b.py"},
        {(b"x" if path == b"test_b.py" else path): file for path, file in FILES.items()},
    ]
    assert len({first, *(hash_test_suite(change).sha256 for change in changes)}) == len(changes) + 1


def test_the_order_of_files_does_not_matter() -> None:
    assert hash_test_suite(dict(reversed(FILES.items()))) == hash_test_suite(FILES)


@pytest.mark.parametrize(
    "path", [b"", b"/etc/passwd", b"a//b", b"a/", b"./a", b"a/../b", b"a\0b", b"x" * (PATH_BYTES_MAX + 1)]
)
def test_a_path_that_is_not_plain_is_refused(path: bytes) -> None:
    assert refusal_code({path: SuiteFile(0o100644, sha256(b""))}) == "provenance.suite.path"


def test_other_refusals_have_their_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal_code({}) == "provenance.suite.empty"
    assert refusal_code({b"a": SuiteFile(0o120000, sha256(b""))}) == "provenance.suite.mode"
    assert refusal_code({b"a": SuiteFile(0o100644, Digest(b"short"))}) == "provenance.suite.digest"
    monkeypatch.setattr("provenance.test_suite.TEST_FILES_MAX", 2)
    assert refusal_code(FILES) == "provenance.suite.too_many"
