"""The number of threads: the fastest one's, or the user's."""

import time

import pytest
import torch

from functions.training.threads import choose_threads


@pytest.fixture
def four():
    """torch would take four threads here."""
    own = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(own)


def waiting(seconds):
    """A step that takes seconds(number of threads)."""
    return lambda: time.sleep(seconds(torch.get_num_threads()))


@pytest.mark.parametrize(
    ("seconds", "fastest"),
    [
        (lambda n: 0.02 / n, 4),
        # a busy machine
        (lambda n: 0.002 if n == 1 else 0.02, 1),
        (lambda n: {1: 0.02, 2: 0.002, 4: 0.01}[n], 2),
    ],
)
def test_the_fastest_number_of_threads_is_set(four, seconds, fastest):
    found = choose_threads(waiting(seconds), environ={})
    assert found.n == torch.get_num_threads() == fastest
    assert list(found.seconds) == [1, 2, 4] and not found.asked
    assert f"{fastest} thread" in str(found) and f"4: {found.seconds[4]:.3f}" in str(found)


def test_a_number_that_is_no_power_of_two_is_tried_too():
    own = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert list(choose_threads(waiting(lambda n: 0.0), environ={}).seconds) == [1, 2, 3]
    finally:
        torch.set_num_threads(own)


def test_the_users_number_wins(four):
    found = choose_threads(waiting(lambda n: 0.002 * n), environ={"OMP_NUM_THREADS": "4"})
    assert (found.n, torch.get_num_threads(), list(found.seconds)) == (4, 4, [4])
    assert str(found) == "4 threads (OMP_NUM_THREADS says so)"
