"""How a run ends early."""

from __future__ import annotations


class ViolationError(Exception):
    """Something that must hold does not. The code names the rule; two runs fail alike when their codes are the same."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class MachineEndedError(BaseException):
    """The simulated machine or its process ends here. Not an Exception, so that nothing in the product catches it."""
