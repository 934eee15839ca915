"""`--signer`: another program signs, and nothing of what it does is believed before it is checked."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from node.errors import SignerError, SignerUnavailableError
from node.signer import ALGORITHM_VARIABLE, KEY_ID_VARIABLE, CommandSigner, signer_command
from provenance.verify import verify_patch_untrusted
from tests.faults.flood import children_of
from tests.testkit.cli import refused, run_json
from wire.errors import PatchwardenError
from wire.keys import Algorithm, PrivateKey, private_key_from_seed

KEY = private_key_from_seed(Algorithm.ED25519, bytes(range(32)))
LONG = bytes(range(256)) * 4096  # A mebibyte: more than a pipe holds, so writing and reading must go on together.


def program(path: Path, text: str) -> str:
    """Write a Python program and return the command line that runs it."""
    path.write_text(text)
    return f"{shlex.quote(sys.executable)} -S {shlex.quote(str(path))}"


def signer_of(tmp_path: Path, text: str, key: PrivateKey = KEY, timeout_s: float = 20.0) -> CommandSigner:
    return CommandSigner(signer_command(program(tmp_path / "signer.py", text)), key.public_key, timeout_s)


def refusal(signer: CommandSigner, message: bytes = b"message") -> PatchwardenError:
    with pytest.raises(PatchwardenError) as caught:
        signer.sign(message)
    return caught.value


@pytest.mark.parametrize("message", [b"", b"\x00\xff one", LONG], ids=["empty", "short", "long"])
def test_message_goes_in_unchanged_and_the_signature_comes_out(tmp_path: Path, message: bytes) -> None:
    seen, signature = tmp_path / "seen", KEY.sign(message)
    text = (
        f"import sys; open({str(seen)!r}, 'wb').write(sys.stdin.buffer.read()); sys.stdout.buffer.write({signature!r})"
    )
    assert signer_of(tmp_path, text).sign(message) == signature
    assert seen.read_bytes() == message


def test_program_is_told_which_key_and_algorithm(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    text = (
        "import os, sys\n"
        f"open({str(seen)!r}, 'w').write(os.environ['{KEY_ID_VARIABLE}'] + ' ' + os.environ['{ALGORITHM_VARIABLE}'])\n"
        f"sys.stdout.buffer.write({KEY.sign(b'message')!r})\n"
    )
    signer_of(tmp_path, text).sign(b"message")
    assert seen.read_text() == f"{KEY.public_key.key_id_hex} ed25519"


def test_program_need_not_read_what_it_does_not_want(tmp_path: Path) -> None:
    text = f"import sys; sys.stdin.close(); sys.stdout.buffer.write({KEY.sign(LONG)!r})"
    assert signer_of(tmp_path, text).sign(LONG) == KEY.sign(LONG)


@pytest.mark.parametrize(
    "output",
    [
        b"",
        KEY.sign(b"another message"),
        private_key_from_seed(Algorithm.ED25519, bytes(32)).sign(b"message"),
        KEY.sign(b"message") + b"\n",
        KEY.sign(b"message")[:-1],
    ],
    ids=["nothing", "another message", "another key", "with a line end", "cut"],
)
def test_what_is_not_the_signature_is_refused(tmp_path: Path, output: bytes) -> None:
    error = refusal(signer_of(tmp_path, f"import sys; sys.stdout.buffer.write({output!r})"))
    assert (type(error), error.code) == (SignerError, "node.signer.bad_signature")


def test_failure_of_the_program_is_told_even_if_it_wrote_a_signature(tmp_path: Path) -> None:
    text = f"import sys; sys.stdout.buffer.write({KEY.sign(b'message')!r}); sys.stdout.flush(); sys.exit(7)"
    error = refusal(signer_of(tmp_path, text))
    assert (error.code, "got 7" in error.message) == ("node.signer.failed", True)


def test_endless_output_is_cut_off(tmp_path: Path) -> None:
    text = "import sys\nwhile True: sys.stdout.buffer.write(bytes(65536))"
    assert refusal(signer_of(tmp_path, text)).code == "node.signer.too_long"


@pytest.mark.parametrize(
    "text",
    [
        "import time; time.sleep(600)",
        "import os, time; os.close(1); time.sleep(600)",
        "import subprocess, sys; subprocess.Popen(['sleep', '2']); sys.exit(0)",
    ],
    ids=["says nothing", "closes its output and stays", "leaves a child that holds the pipe"],
)
def test_program_that_does_not_end_in_time_is_ended(tmp_path: Path, text: str) -> None:
    error = refusal(signer_of(tmp_path, text, timeout_s=0.4))
    assert (type(error), error.code) == (SignerUnavailableError, "node.signer.timeout")


@pytest.mark.skipif(
    not os.path.exists(f"/proc/self/task/{os.getpid()}/children"),
    reason="the system does not tell a process's children",
)
def test_what_a_program_started_ends_with_it_when_it_runs_over_time(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    text = f"""import os, subprocess, time
inner = "import os, subprocess, time; own = subprocess.Popen(['sleep', '600'], start_new_session=True); "
inner += "open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{own.pid}} end'); time.sleep(600)"
subprocess.Popen([{sys.executable!r}, '-I', '-S', '-c', inner])
time.sleep(600)"""
    error = refusal(signer_of(tmp_path, text, timeout_s=5.0))
    assert error.code == "node.signer.timeout"
    # A machine too slow to have started them in time has nothing to end.
    text = pids.read_text() if pids.exists() else ""
    found = text.split()[:2] if text.endswith("end") else []
    deadline = time.monotonic() + 30
    for pid in map(int, found):
        while is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before, children = sorted(os.listdir("/proc/self/fd")), children_of(os.getpid())
    refusal(signer_of(tmp_path, "import time; time.sleep(600)", timeout_s=0.3))
    refusal(signer_of(tmp_path, "import sys; sys.exit(1)"))
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert children_of(os.getpid()) == children


def test_no_shell_sees_the_command(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    line = program(tmp_path / "signer.py", f"import sys; open({str(seen)!r}, 'w').write(sys.argv[1]); sys.exit(1)")
    refusal(CommandSigner(signer_command(f"{line} '$(id); `id` > x'"), KEY.public_key))
    assert seen.read_text() == "$(id); `id` > x"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "node.signer.command"),
        ("   ", "node.signer.command"),
        ("'open quote", "node.signer.command"),
        ("./here", "node.signer.command"),
        ("bin/here --now", "node.signer.command"),
        ("/bin/true\0", "node.signer.command"),
        ("/nowhere/at/all", "node.signer.not_found"),
        ("no-such-program-anywhere", "node.signer.not_found"),
        ("/etc/passwd", "node.signer.not_found"),  # not executable
    ],
)
def test_command_that_names_no_program_is_refused(text: str, code: str) -> None:
    with pytest.raises(SignerError) as caught:
        signer_command(text)
    assert caught.value.code == code


def test_relative_directories_of_path_are_not_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "mine").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f".::{tmp_path.name}")
    with pytest.raises(SignerError, match="no such program"):
        signer_command("mine")
    monkeypatch.setenv("PATH", f".:{tmp_path}")
    assert signer_command("mine a 'b c'") == (str(tmp_path / "mine"), "a", "b c")


def test_program_that_the_system_cannot_run_is_told(tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    strange.write_text("#!/nowhere/interpreter\n")
    strange.chmod(0o755)
    assert refusal(CommandSigner(signer_command(str(strange)), KEY.public_key)).code == "node.signer.not_started"


def make_patch(tmp_path: Path, *signing: object, code: int = 0) -> Path:
    """Run `patch create` with these options about the key."""
    (tmp_path / "base" / "tests").mkdir(parents=True, exist_ok=True)
    (tmp_path / "base" / "tests" / "test_a").write_text("true\n")
    (tmp_path / "base" / "a.txt").write_text("one\ntwo\nthree\n")
    diff = tmp_path / "a.diff"
    diff.write_text("diff --git a/a.txt b/a.txt\n--- a/a.txt\n+++ b/a.txt\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n")
    out = tmp_path / "a.patch"
    arguments = ("patch", "create", "--diff", diff, "--base", tmp_path / "base", "--reason", "two is 2",
                 "--category", "bug-fix", "--author", "Alice <a@b.example>", "--out", out, *signing)  # fmt: skip
    if code:
        raise AssertionError(refused(*arguments, code=code))
    run_json(*arguments)
    return out


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_signs_a_patch_and_an_attestation_with_a_p256_key(tmp_path: Path) -> None:
    key = tmp_path / "p256.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key], check=True
    )
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", tmp_path / "p256.pub"], check=True)
    signing = ("--key", tmp_path / "p256.pub", "--signer", f"openssl dgst -sha256 -sign {key}")
    patch = make_patch(tmp_path, *signing)
    author = verify_patch_untrusted(patch.read_bytes()).author_key
    assert author.algorithm is Algorithm.P256
    other = tmp_path / "bob.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", other], check=True
    )
    subprocess.run(["openssl", "pkey", "-in", other, "-pubout", "-out", tmp_path / "bob.pub"], check=True)
    review = ("patch", "attest", patch, "--role", "security-review", "--verdict", "approve", "--identity", "bob@beta")
    run_json(*review, "--key", tmp_path / "bob.pub", "--signer", f"openssl dgst -sha256 -sign {other}")
    (attestation,) = verify_patch_untrusted(patch.read_bytes()).attestations
    assert attestation.identity == "bob@beta"


def test_signer_of_another_key_leaves_no_patch_behind(tmp_path: Path) -> None:
    mallory = private_key_from_seed(Algorithm.ED25519, bytes(32))
    pem = tmp_path / "mallory.pem"
    pem.write_bytes(mallory.to_pem(None))
    line = program(tmp_path / "signer.py", f"import sys; sys.stdout.buffer.write({mallory.sign(b'x')!r})")
    with pytest.raises(AssertionError, match=r"node\.signer\.bad_signature"):
        make_patch(tmp_path, "--key", KEY.public_key.did, "--signer", line, code=1)
    assert not (tmp_path / "a.patch").exists()


def test_options_about_signers_exclude_others(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x\n")
    secret.chmod(0o600)
    private = tmp_path / "private.pem"
    private.write_bytes(KEY.to_pem(None))
    private.chmod(0o600)
    make_patch(tmp_path, "--key", private)
    create = ("patch", "seal", tmp_path / "a.patch", "--identity", "a@b")
    signer = ("--signer", "/bin/true")
    assert refused(*create, "--key", private, *signer) == "cli.key.private"
    assert refused(*create, "--key", KEY.public_key.did, *signer, "--passphrase-file", secret, code=2) == "cli.usage"
    assert refused(*create, "--key", private, "--signer-timeout", "5", code=2) == "cli.usage"
    assert refused(*create, "--key", KEY.public_key.did, *signer) == "node.signer.bad_signature"
    slow = ("--signer", "/bin/sleep 600", "--signer-timeout", "0.2")
    assert refused(*create, "--key", KEY.public_key.did, *slow, code=3) == "node.signer.timeout"
