"""What is learned of each model's tokens: bounded both ways, shared, and not to be lied out of shape."""

from __future__ import annotations

import mmap
import os
import struct

import pytest

from llmgw._core.estimate import Estimator
from llmgw._core.segment import ESTIMATES_BYTES, Segment

FRAME = 8


@pytest.fixture
def estimator(segment):
    return Estimator(segment)


@pytest.fixture
def estimate(estimator):
    return estimator.find("gpt-4o-mini")


def learn(estimate, times, prompt_bytes, input_tokens, output_tokens=0):
    for _ in range(times):
        estimate.learn(prompt_bytes, input_tokens, output_tokens)


def test_before_anything_is_learned_two_bytes_are_a_token_and_a_frame_comes_on_top(estimate):
    assert [estimate.input_tokens(size) for size in (0, 1, 2, 1000)] == [
        FRAME,
        FRAME + 1,
        FRAME + 1,
        FRAME + 500,
    ]
    assert estimate.samples == 0


def test_an_unsent_max_tokens_has_a_first_estimate(estimate):
    assert estimate.output_tokens(-1, 1, -1) == 1024


def test_below_twenty_samples_an_estimate_only_rises(estimate):
    learn(estimate, 19, 1000, 200, 50)
    assert (estimate.input_tokens(1000), estimate.output_tokens(-1, 1, -1)) == (FRAME + 500, 1024)
    learn(estimate, 1, 1000, 200, 50)
    assert 200 <= estimate.input_tokens(1000) <= 220
    assert 50 <= estimate.output_tokens(-1, 1, -1) <= 64


def test_the_first_samples_raise_an_estimate_at_once(estimate):
    estimate.learn(1000, 908, 5000)
    assert 908 <= estimate.input_tokens(1000) <= 970
    assert 5000 <= estimate.output_tokens(-1, 1, -1) <= 6000


def test_prompts_of_other_sizes_are_learned_apart(estimate):
    learn(estimate, 50, 100, 380)
    learn(estimate, 50, 10_000, 2500)
    assert estimate.input_tokens(100) >= 380
    assert 2500 <= estimate.input_tokens(10_000) <= 2700
    assert estimate.input_tokens(100_000) == FRAME + 50_000, "of this size nothing is known yet"


def test_a_denser_mix_is_followed_within_ten_requests_and_a_lighter_one_within_some_thousand(estimate):
    learn(estimate, 1000, 1000, 250)
    learn(estimate, 10, 1000, 750)
    assert estimate.input_tokens(1000) >= 750
    learn(estimate, 500, 1000, 250)
    learn(estimate, 3500, 1000, 250)
    assert 250 <= estimate.input_tokens(1000) <= 280


def test_one_odd_prompt_among_thousands_changes_nothing(estimate):
    learn(estimate, 2000, 1000, 250, 100)
    before = (estimate.input_tokens(1000), estimate.output_tokens(-1, 1, -1))
    estimate.learn(1000, 4000, 100_000)
    learn(estimate, 40, 1000, 250, 100)
    assert (estimate.input_tokens(1000), estimate.output_tokens(-1, 1, -1)) == before


def test_no_flood_takes_an_estimate_below_a_token_in_eight_bytes_or_above_four_a_byte(estimate):
    learn(estimate, 5000, 8000, 1)
    assert FRAME + 1000 <= estimate.input_tokens(8000) <= FRAME + 1100
    learn(estimate, 5000, 8000, 400_000)
    assert estimate.input_tokens(8000) == FRAME + 32_000


@pytest.mark.parametrize(
    "nonsense",
    [float("nan"), float("inf"), 0, -1, -(2**63), 2**63, 10**30, 2**40 + 1, None, "9", 1.5, True - 1],
)
def test_reported_nonsense_teaches_nothing(estimator, estimate, nonsense):
    learn(estimate, 100, 1000, 250, 100)
    before = (estimate.input_tokens(1000), estimate.output_tokens(-1, 1, -1))
    learn(estimate, 200, 1000, nonsense, nonsense)
    learn(estimate, 200, nonsense, 250, nonsense)
    assert (estimate.input_tokens(1000), estimate.output_tokens(-1, 1, -1)) == before
    new = estimator.find("never-heard-of")
    learn(new, 30, nonsense, nonsense, nonsense)
    assert (new.samples, new.input_tokens(1000)) == (0, FRAME + 500)


def test_more_tokens_than_any_prompt_can_have_are_no_sample(estimate):
    learn(estimate, 100, 1000, 250)
    learn(estimate, 100, 1000, 10**9)
    assert (estimate.samples, estimate.input_tokens(1000) <= 280) == (100, True)


def test_max_tokens_counts_where_it_is_sent_and_the_models_maximum_bounds_it(estimate):
    learn(estimate, 100, 1000, 250, 700)
    assert estimate.output_tokens(16, 1, -1) == 16
    assert estimate.output_tokens(0, 1, 4096) == 0
    assert estimate.output_tokens(2**31 - 1, 1, 4096) == 4096
    assert estimate.output_tokens(-1, 1, 256) == 256


def test_an_absurd_max_tokens_is_bounded_also_where_no_maximum_is_known(estimate):
    assert estimate.output_tokens(2**31 - 1, 1, -1) == 2**20
    assert estimate.output_tokens(2**31 - 1, 128, -1) == 128 * 2**20


def test_every_choice_may_use_max_tokens(estimate):
    assert estimate.output_tokens(100, 3, 4096) == 300
    assert estimate.output_tokens(5000, 3, 4096) == 3 * 4096
    assert estimate.output_tokens(100, 0, -1) == 100
    assert estimate.output_tokens(100, 128 * 10_000, 4096) == 128_000_000


def test_any_number_of_choices_is_bounded(estimate):
    assert estimate.output_tokens(2**31 - 1, 2**62, 2**62) == 2**40


def test_the_models_context_bounds_the_input(estimate):
    assert estimate.input_tokens(10**6, 128_000) == 128_000
    assert estimate.input_tokens(1000, 128_000) == FRAME + 500


@pytest.mark.parametrize("size", [-1, -(2**62), 2**62, 2**63 - 1])
def test_no_size_overflows(estimate, size):
    learn(estimate, 30, 100_000, 400_000)
    assert FRAME <= estimate.input_tokens(size) <= 2**43
    assert estimate.input_tokens(size, 1000) <= 1000
    assert 0 <= estimate.output_tokens(size, size, 2**62) <= 2**50


def test_a_handle_is_made_once_and_the_number_kept_is_bounded(estimator):
    assert estimator.find("a") is estimator.find("a")
    handles = [estimator.find(f"m{index}") for index in range(5000)]
    assert estimator.find("m0") is handles[0]
    assert estimator.find("m4999") is not handles[4999]


def test_models_beyond_the_table_share_one_estimate_and_the_others_keep_theirs(estimator):
    estimate = estimator.find("gpt-4o-mini")
    learn(estimate, 100, 1000, 250)
    for index in range(3000):
        estimator.find(f"crowd-{index}").learn(1000, 900, 10)
    samples = [estimator.find(f"crowd-{index}").samples for index in range(3000)]
    assert samples.count(1) >= 900, "nearly all of the table is used"
    assert max(samples) == 3000 - samples.count(1), "all the rest is in one unit"
    assert estimate.input_tokens(1000) <= 280


def test_asking_takes_no_place_in_the_table(estimator):
    for index in range(3000):
        assert estimator.find(f"asked-{index}").input_tokens(10) == FRAME + 5
    learned = estimator.find("learned")
    learned.learn(1000, 900, 10)
    assert learned.samples == 1


def test_two_processes_learn_together(segment):
    mine = Estimator(segment).find("gpt-4o-mini")
    child = os.fork()
    if child == 0:
        learn(Estimator(segment).find("gpt-4o-mini"), 60, 1000, 250, 100)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert mine.samples == 60
    assert 250 <= mine.input_tokens(1000) <= 280
    learn(mine, 10, 1000, 600)
    assert mine.samples == 70


def test_many_writers_at_once_leave_a_sound_estimate(segment):
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            for index in range(400):
                Estimator(segment).find(f"m{index % 40}").learn(1000, 240 + number, 100)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    estimator = Estimator(segment)
    for index in range(40):
        estimate = estimator.find(f"m{index}")
        assert 20 <= estimate.samples <= 40, "each name has one unit; a race may lose a sample"
        assert 243 <= estimate.input_tokens(1000) <= 280


def test_what_was_learned_outlives_a_restart(path):
    segment = Segment(path, 1)
    learn(Estimator(segment).find("gpt-4o-mini"), 100, 1000, 250)
    del segment  # its last user is gone
    again = Estimator(Segment(path, 1)).find("gpt-4o-mini")
    assert (again.samples, again.input_tokens(1000) <= 280) == (100, True)


@pytest.mark.parametrize("garbage", [b"\xff" * 8, struct.pack("<d", float("nan")), struct.pack("<d", 1e300)])
def test_a_damaged_region_neither_breaks_nor_lowers_an_estimate(path, garbage):
    segment = Segment(path, 1)
    estimate = Estimator(segment).find("gpt-4o-mini")
    estimate.learn(1000, 250, 100)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        at = region_of(view)
        unit = next(i for i in range(at, at + ESTIMATES_BYTES, 8) if view[i : i + 8].strip(b"\0"))
        view[unit + 8 : unit + 1368] = garbage * 170
    assert FRAME <= estimate.input_tokens(1000, 10**6) <= FRAME + 4000
    assert 1 <= estimate.output_tokens(-1, 1, -1) <= 2**20
    learn(estimate, 2000, 1000, 250, 100)
    assert FRAME + 125 <= estimate.input_tokens(1000) <= FRAME + 4000


def region_of(view):
    at = view.find(b"estimates".ljust(16, b"\0"))
    return struct.unpack_from("<16sIIQQ", view, at)[4]
