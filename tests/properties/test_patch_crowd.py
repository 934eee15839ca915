"""A crowd fetches one file: what validators send of it has a bound whatever the crowd is like, and every honest host gets it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.distribution.limits import VALIDATOR_PLACES
from node.distribution.places import _Ration, allowance, copies_max
from node.distribution.plan import NEXT_VALIDATOR_S, STRANDED_S
from tests.testkit.patch_crowd import FANOUT, Crowd, Shape

BAD = {"slow": 0.1, "dead": 0.05, "false": 0.03, "hoards": 0.02}


def run(shape: Shape) -> Crowd:
    crowd = Crowd(shape)
    crowd.run()
    for validator in crowd.validators:
        bound = copies_max(VALIDATOR_PLACES, shape.chunks, crowd.now) * allowance(shape.chunks)
        assert validator.sent <= bound, f"{validator.name} after {crowd.now:.0f} s of {shape}"
    return crowd


@pytest.mark.parametrize("hosts", [10, 60, 150])
@pytest.mark.parametrize("bad", [{}, BAD], ids=["good", "bad"])
def test_what_validators_send_is_the_same_for_any_number_of_hosts(hosts: int, bad: dict[str, float]) -> None:
    crowd = run(Shape(hosts, **bad))
    assert crowd.is_done
    # Two copies, and a chunk or two again of what dead hosts had begun to take.
    assert crowd.copies() <= 2 * VALIDATOR_PLACES
    if not bad:
        assert crowd.copies() == VALIDATOR_PLACES
        assert sum(each.stranded for each in crowd.hosts) == 0
        asked = sum(any(v.key_id in host.asked for v in crowd.validators) for host in crowd.hosts)
        assert asked <= FANOUT * len(crowd.validators), "only those who follow a validator ask one"


@pytest.mark.parametrize("seed", [1, 2])
def test_a_crowd_that_does_not_follow_each_other_takes_as_little(seed: int) -> None:
    crowd = run(Shape(80, is_tree=False, seed=seed, **BAD))
    assert crowd.is_done
    assert crowd.copies() <= 2 * VALIDATOR_PLACES


def test_slow_uploads_cost_validators_no_more_than_their_bound() -> None:
    crowd = run(Shape(30, chunk_s=2.0, **BAD))
    assert crowd.is_done
    assert crowd.last_s() > 2 * STRANDED_S, "some wait for so long that they are stranded"
    second = max(each.sent for each in crowd.validators[1:])
    assert second == 0 or crowd.now > NEXT_VALIDATOR_S


def test_hosts_that_nobody_can_find_wait_for_their_turn() -> None:
    crowd = run(Shape(14, hidden=1.0))
    assert crowd.is_done, "who has the file gives it to each, in time"
    assert crowd.copies() == len(crowd.hosts)


def test_a_validator_without_a_ration_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Ration, "refill", lambda ration, *_: setattr(ration, "spare", 2.0))
    with pytest.raises(AssertionError, match=r" after [0-9]+ s of Shape"):
        run(Shape(14, hidden=1.0))


@settings(max_examples=25, deadline=None)
@given(
    st.builds(
        Shape,
        hosts=st.integers(1, 30),
        chunks=st.sampled_from((1, 2, 5)),
        with_file=st.integers(1, 4),
        chunk_s=st.sampled_from((0.01, 0.3, 1.0)),
        is_tree=st.booleans(),
        slow=st.sampled_from((0.0, 0.3)),
        dead=st.sampled_from((0.0, 0.2)),
        false=st.sampled_from((0.0, 0.2)),
        hoards=st.sampled_from((0.0, 0.2)),
        hidden=st.sampled_from((0.0, 0.1)),
        seed=st.integers(0, 1 << 16),
    )
)
def test_every_honest_host_gets_the_file_whatever_the_others_do(shape: Shape) -> None:
    assert run(shape).is_done
