"""The signals that end a command: raised where something can be closed, held back where something would be lost."""

from __future__ import annotations

import os
import signal

import pytest

from node.cli.signals import StopRequestedError, deaf_to_signals, ending_signals, shielded

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def raise_signal(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", NUMBERS)
def test_signal_is_raised_in_the_body(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(StopRequestedError), ending_signals():
        raise_signal(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", NUMBERS)
def test_shielded_body_ends_before_the_signal_is_raised(number: signal.Signals) -> None:
    reached = []

    def body() -> None:
        with ending_signals():
            with shielded():
                raise_signal(number)
                reached.append("inner")
            reached.append("never")

    with pytest.raises(StopRequestedError):
        body()
    assert reached == ["inner"]


def test_nested_shields_raise_once_at_the_outermost() -> None:
    reached = []

    def body() -> None:
        with ending_signals():
            with shielded():
                with shielded():
                    raise_signal(signal.SIGTERM)
                reached.append("between")
            reached.append("never")

    with pytest.raises(StopRequestedError):
        body()
    assert reached == ["between"]


def test_signal_of_a_former_body_is_not_raised_in_the_next() -> None:
    def body() -> None:
        with ending_signals(), shielded():
            raise_signal(signal.SIGTERM)
            raise ValueError("own")

    with pytest.raises(ValueError, match="own"):
        body()
    with ending_signals(), shielded():
        pass


def test_error_of_a_shielded_body_is_kept() -> None:
    with pytest.raises(ValueError, match="own"), ending_signals(), shielded():
        raise ValueError("own")


@pytest.mark.parametrize("number", NUMBERS)
def test_ending_is_not_interrupted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with deaf_to_signals():
        raise_signal(number)
    assert signal.getsignal(number) is before


def test_stop_is_what_ctrl_c_is() -> None:
    assert issubclass(StopRequestedError, KeyboardInterrupt)
