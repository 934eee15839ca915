"""The throw-away process in which policy text is parsed for the first time. Run as a module; not for import by the agent.

Reads one JSON object from standard input: ``{"schema": text, "policies": [[name, text], …], "requests": [[request, entities], …]}``.
Writes ``{"errors": [[code, name, message], …], "document": the set in Cedar's JSON form}``. Anything that goes wrong in a way Cedar does
not report (a stack that overflows, memory or time that runs out) ends this process, which is what it is for.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
from typing import Any

import cedarpy

from agent.limits import POLICY_CHILD_MEMORY_BYTES_MAX, POLICY_CHILD_SECONDS_MAX, POLICY_CHILD_STACK_BYTES


def check(question: dict[str, Any]) -> dict[str, Any]:
    """Return every error of the set, and the set as one JSON document when there is none."""
    try:
        schema = cedarpy.Schema.from_str(question["schema"])
    except ValueError as error:
        return {"errors": [["syntax", "", f"does not parse: {error}"]]}
    errors: list[list[str]] = []
    parsed: dict[str, Any] = {}
    for name, text in question["policies"]:
        try:
            parsed[name] = _check_policy(name, text, schema)
        except _RefusedError as refused:
            errors.append([refused.code, name, str(refused)])
    document = {"staticPolicies": parsed, "templates": {}, "templateLinks": []}
    if not errors:
        policies = cedarpy.PolicySet.from_json_str(json.dumps(document))
        for request, entities in question["requests"]:
            result = cedarpy.is_authorized(request, policies, entities, schema)
            errors += [["invalid", "", f"does not fit the facts: {error}"] for error in result.diagnostics.errors]
    return {"errors": errors, "document": document}


def _check_policy(name: str, text: str, schema: cedarpy.Schema) -> Any:
    try:
        document = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        raise _RefusedError("syntax", f"does not parse: {error}") from None
    policies = list(document["staticPolicies"].values())
    if len(policies) != 1 or document["templates"]:
        raise _RefusedError("syntax", f"must be exactly one policy without slots, not {len(policies)}")
    (policy,) = policies
    if policy.get("annotations", {}).get("id") != name:
        raise _RefusedError("name", f'must carry the annotation @id("{name}")')
    result = cedarpy.validate_policies(text, schema)
    if not result.validation_passed:
        raise _RefusedError("invalid", f"does not fit the schema: {'; '.join(each.error for each in result.errors)}")
    return policy


class _RefusedError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def main() -> None:
    """Answer one question and end."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (POLICY_CHILD_SECONDS_MAX, POLICY_CHILD_SECONDS_MAX))
    resource.setrlimit(resource.RLIMIT_AS, (POLICY_CHILD_MEMORY_BYTES_MAX, POLICY_CHILD_MEMORY_BYTES_MAX))
    question = json.load(sys.stdin)
    answers: list[dict[str, Any]] = []
    threading.stack_size(POLICY_CHILD_STACK_BYTES)
    thread = threading.Thread(target=lambda: answers.append(check(question)))
    thread.start()
    thread.join()
    json.dump(answers[0], sys.stdout)


if __name__ == "__main__":
    main()
