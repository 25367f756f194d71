"""How far a rate is known."""

import math
import statistics


def interval(rate: float, count: int) -> tuple[float, float]:
    """95 % interval of a rate over `count` independent images (Wilson, 1927)."""
    share, z = round(rate * count) / count, statistics.NormalDist().inv_cdf(0.975)
    middle = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    low, high = ((middle + way * half) / (1 + z**2 / count) for way in (-1, 1))
    return max(0.0, low), min(1.0, high)
