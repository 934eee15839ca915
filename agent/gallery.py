"""The template gallery: policies for the usual regimes, each with cases that show every one of its rules.

A template is a folder of `policies/gallery`: ``about.md`` (a title, an empty line, what it demands), policies, and ``cases.json``. Its
policies come on top of the default set's; one with the same name takes that one's place.

Source: docs/spec/policy.md 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from agent.errors import PolicyRefusedError
from agent.policy_text import default_policy_set

_GALLERY: Final = "gallery"
_CASES: Final = "cases.json"
_ABOUT: Final = "about.md"
_POLICY_SUFFIX: Final = ".cedar"


@dataclass(frozen=True, slots=True)
class Template:
    """Policies for one regime."""

    name: str
    title: str
    """One line for people."""
    about: str
    """What it demands, in a paragraph."""
    policies: tuple[tuple[str, str], ...]
    """Name and text, sorted by name."""
    cases: bytes
    """JSON (`agent.policy_cases`): they hold for the default set with this template on it."""


def default_cases() -> bytes:
    """Return the cases of the default set."""
    return _folder().joinpath(_CASES).read_bytes()


def list_templates() -> tuple[Template, ...]:
    """Return every template, in order of name."""
    folders = [entry for entry in _folder().joinpath(_GALLERY).iterdir() if entry.is_dir()]
    return tuple(_read(folder) for folder in sorted(folders, key=lambda each: each.name))


def get_template(name: str) -> Template:
    """Return one template.

    Raises:
        PolicyRefusedError: ``agent.policy.template``: there is none of that name.
    """
    for template in list_templates():
        if template.name == name:
            return template
    raise PolicyRefusedError(
        "agent.policy.template", "there is no such template", expected=", ".join(each.name for each in list_templates()),
        actual=name,
    )  # fmt: skip


def with_templates(templates: Sequence[Template]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the default set with the templates on it: the schema, and each policy as (name, text) sorted by name.

    Raises:
        PolicyRefusedError: ``agent.policy.template_conflict``: two templates have a policy of the same name.
    """
    schema, policies = default_policy_set()
    texts = dict(policies)
    owner: dict[str, str] = {}
    for template in templates:
        for name, text in template.policies:
            if owner.setdefault(name, template.name) != template.name:
                raise PolicyRefusedError(
                    "agent.policy.template_conflict",
                    f"both {owner[name]} and {template.name} have a policy {name}",
                    hint="take one of them, and write the other's rule under another name",
                )
            texts[name] = text
    return schema, tuple(sorted(texts.items()))


def _read(folder: Traversable) -> Template:
    title, _, about = folder.joinpath(_ABOUT).read_text(encoding="utf-8").partition("\n\n")
    policies = {
        entry.name.removesuffix(_POLICY_SUFFIX): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(_POLICY_SUFFIX)
    }
    cases = folder.joinpath(_CASES).read_bytes()
    return Template(folder.name, title.strip(), " ".join(about.split()), tuple(sorted(policies.items())), cases)


def _folder() -> Traversable:
    return resources.files("agent").joinpath("policies")
