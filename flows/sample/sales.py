"""A series for the sample: what a made-up shop sold each month, with a trend and a season."""

import math
import random

NUM_MONTHS = 144


def draw_sales(num_months: int = NUM_MONTHS, seed: int = 1) -> list[dict[str, str | int]]:
    """``num_months`` observations from January 2012 on; a share of noise of 3 % is drawn."""
    rng = random.Random(seed)
    rows: list[dict[str, str | int]] = []
    for month in range(num_months):
        trend = 120 * 1.008**month
        season = 1 + 0.25 * math.sin(2 * math.pi * (month % 12 - 3) / 12)
        value = round(trend * season * (1 + rng.gauss(0, 0.03)))
        rows.append({"time": f"{2012 + month // 12}-{month % 12 + 1:02d}", "value": value})
    return rows
