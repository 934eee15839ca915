"""The template gallery: policies for the usual regimes, each with cases that show every one of its rules.

A template is a folder of `policies/gallery`: ``about.md`` (a title, an empty line, what it demands), policies, and ``cases.json``. Its
policies come on top of the default set's; one with the same name takes that one's place. Where two templates contradict each other, a
folder ``with-OTHER`` in one of them holds what takes the place of the other's policies when both are chosen, and cases of the two
together. ``whole.json`` are cases in which all templates are satisfied.

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
_WHOLE: Final = "whole.json"
_BESIDE: Final = "with-"
_POLICY_SUFFIX: Final = ".cedar"


@dataclass(frozen=True, slots=True)
class Beside:
    """What a template says differently of another one when both are chosen."""

    other: str
    """Name of the other template."""
    policies: tuple[tuple[str, str], ...]
    """Name and text, sorted by name; each takes the place of a policy of the other template."""
    cases: bytes
    """JSON: they hold for the default set with both templates on it."""


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
    beside: tuple[Beside, ...] = ()
    """In order of name."""


def default_cases() -> bytes:
    """Return the cases of the default set."""
    return _folder().joinpath(_CASES).read_bytes()


def whole_cases() -> bytes:
    """Return the cases in which every template is satisfied: they hold for the default set with any of them on it, and with all."""
    return _folder().joinpath(_GALLERY, _WHOLE).read_bytes()


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

    The order of the templates does not count.

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
    for beside in besides(templates):
        texts.update(beside.policies)
    return schema, tuple(sorted(texts.items()))


def besides(templates: Sequence[Template]) -> tuple[Beside, ...]:
    """Return what the templates say differently of each other."""
    names = {template.name for template in templates}
    return tuple(beside for template in templates for beside in template.beside if beside.other in names)


def _read(folder: Traversable) -> Template:
    title, _, about = folder.joinpath(_ABOUT).read_text(encoding="utf-8").partition("\n\n")
    inner = sorted((entry for entry in folder.iterdir() if entry.name.startswith(_BESIDE)), key=lambda each: each.name)
    return Template(
        folder.name,
        title.strip(),
        " ".join(about.split()),
        _policies(folder),
        folder.joinpath(_CASES).read_bytes(),
        tuple(
            Beside(each.name.removeprefix(_BESIDE), _policies(each), each.joinpath(_CASES).read_bytes())
            for each in inner
        ),
    )


def _policies(folder: Traversable) -> tuple[tuple[str, str], ...]:
    texts = {
        entry.name.removesuffix(_POLICY_SUFFIX): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(_POLICY_SUFFIX)
    }
    return tuple(sorted(texts.items()))


def _folder() -> Traversable:
    return resources.files("agent").joinpath("policies")
