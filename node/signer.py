"""Signing by another program: a key that never enters this process, on a token, in an agent, behind an approval.

The program is started once for each signature, without a shell. It reads the message from its standard input until the end and writes the
signature, and nothing else, to its standard output; standard error stays the terminal's. What comes back is verified before anything is
done with it, so a program that signs with another key, or something else, cannot do harm.

Source: docs/spec/signer.md.
"""

from __future__ import annotations

import os
import selectors
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from node.clock import monotonic_ms
from node.errors import SignerError, SignerUnavailableError
from wire.keys import PublicKey
from wire.limits import SIGNATURE_BYTES_MAX

SIGNER_SECONDS: Final = 60.0
"""How long a signature may take unless the caller says otherwise: a person must find the token and touch it."""
KEY_ID_VARIABLE: Final = "PATCHWARDEN_SIGNER_KEY_ID"
ALGORITHM_VARIABLE: Final = "PATCHWARDEN_SIGNER_ALGORITHM"
"""What the program is told beside the message: which key, and which algorithm."""

_CHUNK_BYTES: Final = 64 * 1024


class CommandSigner:
    """A `wire.keys.Signer` that asks a program for each signature.

    Args:
        command: The program's absolute path and its arguments, as `signer_command` returns them.
        public_key: The key that its signatures must hold under.
        timeout_s: How long one signature may take.
    """

    def __init__(self, command: Sequence[str], public_key: PublicKey, timeout_s: float = SIGNER_SECONDS) -> None:
        """Remember whom to ask; nothing is started yet."""
        self._command = tuple(command)
        self._public_key = public_key
        self._timeout_ms = int(timeout_s * 1000)

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies what `sign` returns."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """Return the program's signature of `message`, which holds under `public_key`.

        Raises:
            SignerError: ``node.signer.not_started``, ``node.signer.failed``, ``node.signer.too_long``, ``node.signer.bad_signature``.
            SignerUnavailableError: ``node.signer.timeout``.
        """
        environment = {
            **os.environ,
            KEY_ID_VARIABLE: self._public_key.key_id_hex,
            ALGORITHM_VARIABLE: self._public_key.algorithm.value,
        }
        try:
            process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0
            )
        except OSError as error:
            raise SignerError(
                "node.signer.not_started", f"{self._command[0]} cannot be started: {error.strerror}"
            ) from error
        try:
            deadline_ms = monotonic_ms() + self._timeout_ms
            signature = self._exchange(process, message, deadline_ms)
            status = self._wait(process, deadline_ms)
        finally:
            self._end(process)
        if status != 0:
            raise SignerError(
                "node.signer.failed",
                f"{self._command[0]} ended without a signature",
                hint="see what it said on standard error",
                expected="exit status 0",
                actual=status if status > 0 else f"signal {-status}",
            )
        if not self._public_key.is_valid(message, signature):
            raise SignerError(
                "node.signer.bad_signature",
                f"what {self._command[0]} wrote is no signature of this message under this key",
                hint="--key must name the public key of the key that it signs with; the output must be the signature and nothing else",
                expected=f"{self._public_key.algorithm} signature by {self._public_key.key_id_hex}",
                actual=f"{len(signature)} bytes",
            )
        return signature

    def _exchange(self, process: subprocess.Popen[bytes], message: bytes, deadline_ms: int) -> bytes:
        """Return what the program wrote until it closed its output, having been given the message as fast as it reads."""
        assert process.stdin is not None and process.stdout is not None, "both were asked for as pipes"  # noqa: PT018
        rest = memoryview(message)
        answer = b""
        with selectors.DefaultSelector() as selector:
            for pipe, event in ((process.stdin, selectors.EVENT_WRITE), (process.stdout, selectors.EVENT_READ)):
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, event)
            while process.stdout in {key.fileobj for key in selector.get_map().values()}:
                left_ms = deadline_ms - monotonic_ms()
                ready = selector.select(left_ms / 1000) if left_ms > 0 else []
                if left_ms <= 0:
                    raise self._too_late()
                for key, _ in ready:
                    if key.fileobj is process.stdin:
                        rest = _write_some(process.stdin, rest)
                        if not rest:
                            selector.unregister(process.stdin)
                            process.stdin.close()
                        continue
                    data = os.read(process.stdout.fileno(), _CHUNK_BYTES)
                    answer += data
                    if not data:
                        selector.unregister(process.stdout)
                    if len(answer) > SIGNATURE_BYTES_MAX:
                        raise SignerError(
                            "node.signer.too_long",
                            f"{self._command[0]} writes more than a signature",
                            hint="its output must be the signature's bytes, not base64, not PEM, no line end",
                            expected=f"at most {SIGNATURE_BYTES_MAX} bytes",
                        )
        return answer

    def _wait(self, process: subprocess.Popen[bytes], deadline_ms: int) -> int:
        try:
            return process.wait(max(0.0, (deadline_ms - monotonic_ms()) / 1000))
        except subprocess.TimeoutExpired:
            raise self._too_late() from None

    def _too_late(self) -> SignerUnavailableError:
        return SignerUnavailableError(
            "node.signer.timeout",
            f"{self._command[0]} gave no signature within {self._timeout_ms / 1000:g} s",
            hint="is the token plugged in and unlocked? --signer-timeout allows more time",
        )

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        """Leave neither the process nor a pipe behind; with one that did not end, nothing that it started.

        It stays in this process's group, so that it may ask a person at the terminal. What one that has ended left is its own business.
        """
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None, "both were asked for as pipes"
            with suppress(OSError):
                pipe.close()
        if process.poll() is None:
            for pid in _stopped_family(process.pid):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def _stopped_family(pid: int) -> list[int]:
    """Return a child of this process and everything that it has started, each stopped before its children are looked up.

    What is stopped starts nothing more and reaps nothing, so that no number can be another process's by now.
    """
    family, ahead = [], [pid]
    while ahead:
        each = ahead.pop()
        with suppress(ProcessLookupError, PermissionError):
            os.kill(each, signal.SIGSTOP)
        family.append(each)
        with suppress(OSError):  # It is gone, or this system does not tell.
            for task in os.listdir(f"/proc/{each}/task"):
                with open(f"/proc/{each}/task/{task}/children", encoding="ascii") as file:
                    ahead += map(int, file.read().split())
    return family


def signer_command(text: str) -> tuple[str, ...]:
    """Return program and arguments of a `--signer`: split like a shell's words, and no shell ever sees them.

    The program is an absolute path, or a name that is looked up in the absolute directories of ``PATH``.

    Raises:
        SignerError: ``node.signer.command`` (no words, an open quote, a relative path), ``node.signer.not_found``.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SignerError("node.signer.command", f"the signer is no command line: {str(error).lower()}") from None
    if not words or "\0" in text:
        raise SignerError("node.signer.command", "the signer names no program", expected="PROGRAM [ARGUMENT…]")
    name = words[0]
    if "/" in name and not name.startswith("/"):
        raise SignerError(
            "node.signer.command",
            "the signer's program depends on the current directory",
            expected="an absolute path, or a name in PATH",
            actual=name,
        )
    # A relative directory in PATH would let whoever prepared the current directory choose the program.
    places = os.pathsep.join(each for each in os.get_exec_path() if Path(each).is_absolute())
    found = shutil.which(name, path=places)
    if found is None:
        raise SignerError("node.signer.not_found", "there is no such program to sign with", actual=name)
    return (found, *words[1:])


def _write_some(pipe: IO[bytes], data: memoryview) -> memoryview:
    try:
        return data[os.write(pipe.fileno(), data[:_CHUNK_BYTES]) :]
    except BrokenPipeError:
        return data[:0]  # It has read what it wanted; whether that was enough, its signature tells.
    except BlockingIOError:
        return data
