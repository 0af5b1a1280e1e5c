"""Frames that no node would send, to a live gossip node whose neighbours are of both kinds: nothing escapes.

A longer run is ``python -m bench fuzz 1000000``; see `bench.fuzz_gossip` for one that coverage guides.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zproto
from bench.fuzz_gossip import CONFIG, LINKS, Frames, Step, Target, run_input, send, steps_in
from zdisco._core.actions import Drop
from zdisco._core.errors import MalformedMessage
from zdisco._core.gossip.frames import decode

FRAMES = 10_000


@pytest.mark.parametrize("seed", [1, 2])
def test_no_frame_harms_a_node_and_each_that_is_none_is_counted(seed: int) -> None:
    target = Target(zproto.read)
    send(target, Random(seed), FRAMES)
    assert target.frames >= FRAMES
    # They got far enough to matter.
    assert target.drops[Drop.MALFORMED_GOSSIP] == target.rejected > FRAMES / 4
    assert target.drops[Drop.TABLE_FULL] > 100
    assert target.deliveries > 100
    # And the node serves who comes.
    assert target.node.status.tuples <= CONFIG.max_tuples
    target.full = False
    sent = target.sent
    target.meet()
    assert target.sent > sent


def test_most_frames_at_random_are_damaged_and_many_still_make_sense() -> None:
    made = Frames(Random(3))
    good = 0
    for _ in range(1_000):
        try:
            decode(made.frame())
        except MalformedMessage:
            continue
        good += 1
    assert 300 < good < 800


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_any_input_of_a_fuzzer_is_survived(data: bytes) -> None:
    run_input(data)


def test_an_input_of_a_fuzzer_is_a_list_of_steps() -> None:
    frame, other = bytes([0xFF, 1, 3]), bytes([Step.UP.value, 0, 0])
    data = frame + b"\0\2ab" + other + b"\0\0" + frame + b"\0\5short"
    begun = (Step.FRAME, LINKS[1], b"\xaa\xa0\3\1")
    assert list(steps_in(data)) == [
        (*begun[:2], begun[2] + b"ab"),
        (Step.UP, LINKS[0], b""),
        (*begun[:2], begun[2] + b"short"),
    ]
    assert not list(steps_in(frame + b"\0"))
