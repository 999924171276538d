import numpy as np
import pytest

from eldr_service.lab.simulation.arrivals import (
    RecordingPicker,
    bursty_arrivals,
    poisson_arrivals,
)


def test_poisson_arrivals():
    times = poisson_arrivals(50.0, 200.0, seed=1)
    assert abs(len(times) - 10_000) < 4 * np.sqrt(10_000)
    assert times[0] >= 0
    assert times[-1] < 200
    gaps = np.diff(times)
    assert (gaps >= 0).all()
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as of exponential gaps
    assert (times == poisson_arrivals(50.0, 200.0, seed=1)).all()
    with pytest.raises(ValueError, match="positive"):
        poisson_arrivals(0.0, 1.0, seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_no_recording_is_in_flight_twice_while_another_is_free(seed):
    rng = np.random.default_rng(seed)
    picker, in_flight, taken = RecordingPicker(7, seed), [], []
    for _ in range(2000):
        if rng.random() < 0.55:
            recording = picker.take()
            assert (recording is None) == (len(in_flight) == 7)
            if recording is not None:
                assert recording not in in_flight
                in_flight.append(recording)
                taken.append(recording)
        elif in_flight:
            picker.give_back(in_flight.pop(rng.integers(len(in_flight))))
    counts = np.bincount(taken, minlength=7)
    assert counts.max() - counts.min() < 0.2 * counts.mean()


def test_rounds_are_seeded_and_whoever_is_busy_keeps_its_place():
    def rounds(seed):
        picker, taken = RecordingPicker(5, seed), []
        for _ in range(10):
            taken.append(picker.take())
            picker.give_back(taken[-1])
        return taken

    order = rounds(3)
    assert sorted(order[:5]) == sorted(order[5:]) == list(range(5))
    assert order == rounds(3) != rounds(4)

    picker = RecordingPicker(5, 3)
    first_round = [picker.take() for _ in range(5)]
    assert first_round == order[:5]
    assert picker.take() is None
    picker.give_back(order[6])
    assert picker.take() == order[6]
    picker.give_back(order[5])
    assert picker.take() == order[5]


def test_only_what_is_in_flight_can_be_given_back():
    with pytest.raises(KeyError):
        RecordingPicker(2, 0).give_back(1)


def test_in_an_open_loop_the_least_copied_goes_again():
    picker, in_flight = RecordingPicker(3, 0, again=True), []
    for _ in range(8):
        assert picker.all_in_flight == (len(in_flight) >= 3)
        in_flight.append(picker.take())
    assert sorted(np.bincount(in_flight)) == [2, 3, 3]
    picker.give_back(in_flight[0])
    picker.give_back(in_flight[0])
    assert picker.take() == in_flight[0]
    assert picker.in_flight == 7


@pytest.mark.parametrize("gap_cv", [0.5, 3.0])
def test_bursts_have_the_rate_and_the_spread_of_gaps_asked_for(gap_cv):
    times = bursty_arrivals(50.0, 4_000.0, gap_cv, 1)
    assert ((times >= 0) & (times < 4_000)).all()
    gaps = np.diff(times)
    assert (gaps >= 0).all()
    assert len(times) / 4_000 == pytest.approx(50, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(gap_cv, rel=0.1)
    np.testing.assert_array_equal(times, bursty_arrivals(50.0, 4_000.0, gap_cv, 1))


@pytest.mark.parametrize("wrong", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_bursts_of_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="must be positive"):
        bursty_arrivals(*wrong, 0)
