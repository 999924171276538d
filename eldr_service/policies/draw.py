"""Chance without state: a draw is a function of the seed and of the decision's number.

So a dry run changes nothing, and the same seed and bookings give the same placements anywhere.
"""

_64_BITS = (1 << 64) - 1


def uniform_index(seed: int, number: int, n: int, stream: int = 0) -> int:
    """Draw one of 0 to n - 1, each as likely (to within n / 2**64).

    Parameters
    ----------
    seed : int
        Taken modulo 2**64, as `number` and `stream` are.
    number : int
        Of the decision, `RequestView.number`.
    n : int
        At least 1.
    stream : int
        Draws of one decision that differ in this are independent.
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
