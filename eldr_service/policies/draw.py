"""Stateless randomness: a draw is a function of the seed and the decision's number.

Dry runs therefore change nothing, and equal seeds and bookings give equal placements anywhere.
"""

_64_BITS = (1 << 64) - 1


def uniform_index(seed: int, number: int, n: int, stream: int = 0) -> int:
    """Draw one of 0 to n - 1, uniformly (to within n / 2**64).

    Parameters
    ----------
    seed : int
        Taken modulo 2**64, like `number` and `stream`.
    number : int
        The decision's number, `RequestView.number`.
    n : int
        At least 1.
    stream : int
        Draws of one decision with different streams are independent.
    """
    bits = 0
    for word in (seed, stream, number):
        bits = _scramble(bits + word + 0x9E3779B97F4A7C15)  # so that zeros are scrambled too
    return bits * n >> 64


def _scramble(word: int) -> int:
    """Map 64 bits to 64 bits, one to one; each in flips about half of those out (SplitMix64's)."""
    word &= _64_BITS
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _64_BITS
    word = (word ^ word >> 27) * 0x94D049BB133111EB & _64_BITS
    return word ^ word >> 31
