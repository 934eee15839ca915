"""docs/spec/diff.md names every code that the diff engine and the import can refuse with, and none that it cannot."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SECTIONS = {
    "diff": (("diff", "diff_reader", "diff_hunks", "diff_paths", "diff_binary"), "## 4.", "## 5."),
    "apply": (("diff_apply",), "## 5.", "## 6."),
    "make": (("diff_make",), "## 6.", "## 7."),
    "import": (("imports", "import_reader", "import_rebase", "import_series"), "### 7.5", "## 8."),
}


@pytest.mark.parametrize("family", SECTIONS)
def test_the_published_codes_are_the_codes_of_the_source(family: str, repository_root: Path) -> None:
    modules, begin, end = SECTIONS[family]
    source = "".join((repository_root / "provenance" / f"{module}.py").read_text() for module in modules)
    codes = set(re.findall(rf'"provenance\.{family}\.([a-z0-9_]+)"', source))
    codes |= set(re.findall(r'\b_?refusal\(\s*"([a-z0-9_]+)"', source))
    if family == "diff":
        # The reader's table of known foreign headers carries its rules as data.
        codes |= {"copy", "rewrite", "binary"}
    text = (repository_root / "docs" / "spec" / "diff.md").read_text()
    section = text[text.index(begin) : text.index(end, text.index(begin))]
    if family == "make":
        section = section[section.index("Class `MakeRefusedError`") :]
        published = set(re.findall(r"`([a-z_]+)` \(", section))
    else:
        published = {
            code
            for row in re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
            for code in re.findall(r"`([a-z0-9_]+)`", row)
        }
    assert codes == published
