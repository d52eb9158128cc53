"""How far a window is from its baseline: distances, tests, and when a feature has moved.

For a number, ``F`` and ``G`` are the shares at or below x.  For a category, ``p`` and ``q`` are the
shares of each value; for PSI and Jensen-Shannon, of bins cut at the baseline's deciles (repeated
deciles once, so that a value that many rows share has a bin of its own).

====================  ======================================================  ===================
metric                formula                                                 unit, source
====================  ======================================================  ===================
``ks``                ``max |F - G|``                                         0 to 1
``ks_p_value``        Kolmogorov's limit ``Q(D sqrt(nm / (n + m)))``          probability
``wasserstein``       area between ``F`` and ``G``                            the feature's own
``wasserstein_std``   the same, by the baseline's standard deviation          1
``psi``               ``sum (q - p) ln(q / p)``, shares floored at 1e-4       1; floor is ours
``jensen_shannon``    distance: root of the divergence, base 2                0 to 1
``linf_simple``       ``max |F - G|``, or ``max |p - q|`` over all values     Deequ
``linf_robust``       ``max(0, linf_simple - 1.8 sqrt((n + m) / (n m)))``     Deequ
``chi_square``        of the two rows of counts, small categories merged      1
``chi_square_p``      its upper tail                                          probability
====================  ======================================================  ===================

**When a feature has moved.**  One test at 5 % over twenty features raises an alarm in most healthy
windows, and over a million rows a test finds what nobody would care about.  So a metric is flagged
only if it is *large*, beyond its threshold, and the change *sure*: the feature's p-value survives
Benjamini-Hochberg at the false discovery rate asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.errors import InvalidInput, did_you_mean
from featurestore.monitor.columns import Column, Number, Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PSI_FLOOR = 1e-4
"""A bin that one side never saw counts as one row in ten thousand; the open code floors nothing."""

ROBUST_C = 1.8
"""``c(alpha)`` for alpha 0.003: Knuth, The Art of Computer Programming 2, 3.3.1, equation 15."""

BINS = 10

THRESHOLDS = {
    "ks": 0.1,
    "wasserstein_std": 0.1,
    "psi": 0.2,
    "jensen_shannon": 0.1,
    "linf_robust": 0.1,
}
"""What counts as large, where nothing else is said; PSI's 0.2 is the custom of credit scoring."""

METRICS = (
    "ks", "ks_p_value", "wasserstein", "wasserstein_std", "psi", "jensen_shannon", "linf_simple",
    "linf_robust", "chi_square", "chi_square_p_value",
)  # fmt: skip
FDR = 0.05


@dataclass(frozen=True)
class Metric:
    """One measured value.

    Attributes
    ----------
    feature, metric : str
        What of what; the feature is "" for the whole window.
    value : float
        NaN where it cannot be had.
    threshold : float or None
        What it was held to.
    flagged : bool
        Whether that was broken.
    """

    feature: str
    metric: str
    value: float
    threshold: float | None = None
    flagged: bool = False


# ── distances ────────────────────────────────────────────────────────────────────────────────


def compare(base: Column, window: Column) -> dict[str, float]:
    """Return every metric that two columns of one kind have; none of an empty or unlike one.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from featurestore.monitor.columns import column_of
    >>> then = column_of("x", pa.chunked_array([[0, 1, 2, 3]]))
    >>> now = column_of("x", pa.chunked_array([[1, 2, 3, 4]]))
    >>> found = compare(then, now)
    >>> found["ks"], found["wasserstein"]
    (0.25, 1.0)
    """
    if isinstance(base, Number) and isinstance(window, Number):
        return _compare_numbers(base, window) if base.values.size and window.values.size else {}
    if isinstance(base, Text) and isinstance(window, Text):
        return _compare_texts(base.counts, window.counts) if base.counts and window.counts else {}
    return {}


def compare_all(
    base: Mapping[str, Column], window: Mapping[str, Column]
) -> dict[str, dict[str, float]]:
    """Return the metrics of every column that both sides have, one after the other."""
    return {name: compare(base[name], window[name]) for name in base if name in window}


def _compare_numbers(base: Number, window: Number) -> dict[str, float]:
    from featurestore.kernels.drift import distances

    n, m = base.values.size, window.values.size
    ks, wasserstein = distances(base.values, window.values)
    then, now = binned(base, window)
    return {
        "ks": ks,
        "ks_p_value": kolmogorov(ks * math.sqrt(n * m / (n + m))),
        "wasserstein": wasserstein,
        "wasserstein_std": _by_spread(wasserstein, base.std),
        "psi": psi(then, now),
        "jensen_shannon": jensen_shannon(then, now),
        "linf_simple": ks,
        "linf_robust": robust(ks, n, m),
    }


def _by_spread(distance: float, std: float) -> float:
    """Return a distance in standard deviations of the baseline; of a constant, all or nothing."""
    if distance == 0:
        return 0.0
    return distance / std if std > 0 else math.inf


def _compare_texts(base: Mapping[str, int], window: Mapping[str, int]) -> dict[str, float]:
    values = list(dict.fromkeys([*base, *window]))
    then, now = ([side.get(value, 0) for value in values] for side in (base, window))
    n, m = sum(then), sum(now)
    linf = max(abs(a / n - b / m) for a, b in zip(then, now, strict=True))
    statistic, p_value = chi_square(then, now)
    return {
        "psi": psi(then, now),
        "jensen_shannon": jensen_shannon(then, now),
        "linf_simple": linf,
        "linf_robust": robust(linf, n, m),
        "chi_square": statistic,
        "chi_square_p_value": p_value,
    }


def edges_of(base: Number, bins: int = BINS) -> list[float]:
    """Return where the bins of a column are cut: its inner quantiles, each once."""
    return sorted({base.quantile(k / bins) for k in range(1, bins)})


def binned(base: Number, window: Number, bins: int = BINS) -> tuple[list[int], list[int]]:
    """Return how many values of each side lie in ``(-inf, e1], (e1, e2], ..., (ek, inf)``."""
    import numpy as np

    edges = edges_of(base, bins)

    def counts(values: np.ndarray) -> list[int]:
        below = np.searchsorted(values, edges, side="right")
        return np.diff(below, prepend=0, append=values.size).tolist()  # type: ignore[no-any-return]

    return counts(base.values), counts(window.values)


def psi(then: Sequence[int], now: Sequence[int]) -> float:
    """Return the population stability index of two rows of counts."""
    n, m = sum(then), sum(now)
    total = 0.0
    for a, b in zip(then, now, strict=True):
        p, q = max(a / n, PSI_FLOOR), max(b / m, PSI_FLOOR)
        total += (q - p) * math.log(q / p)
    return total


def jensen_shannon(then: Sequence[int], now: Sequence[int]) -> float:
    """Return the Jensen-Shannon distance of two rows of counts: 0 the same, 1 disjoint."""
    n, m = sum(then), sum(now)
    divergence = 0.0
    for a, b in zip(then, now, strict=True):
        p, q = a / n, b / m
        middle = (p + q) / 2
        divergence += sum(s * math.log2(s / middle) / 2 for s in (p, q) if s > 0)
    return math.sqrt(max(0.0, divergence))


def robust(linf: float, n: int, m: int) -> float:
    """Return L-infinity less what two samples of one distribution may well show."""
    return max(0.0, linf - ROBUST_C * math.sqrt((n + m) / (n * m)))


# ── tests ────────────────────────────────────────────────────────────────────────────────────


def chi_square(then: Sequence[float], now: Sequence[float]) -> tuple[float, float]:
    """Test whether two rows of counts are of one distribution; returns statistic and p-value.

    The two samples meet on equal terms, as a 2 x k table: the baseline is a sample too.  Small
    categories are merged as :func:`merged` says.  NaN, NaN for fewer than two categories.
    """
    n, m = sum(then), sum(now)
    expected = [(a + b) * min(n, m) / (n + m) for a, b in zip(then, now, strict=True)]
    first, second = merged(expected, then, now)
    if len(first) < 2:
        return math.nan, math.nan
    statistic = 0.0
    for a, b in zip(first, second, strict=True):
        for seen, share in ((a, n), (b, m)):
            wanted = (a + b) * share / (n + m)
            statistic += (seen - wanted) ** 2 / wanted
    return statistic, chi_square_tail(statistic, len(first) - 1)


def chi_square_known(base: Mapping[str, int], window: Mapping[str, int]) -> tuple[float, float]:
    """Test a window against a baseline taken for the truth, as Deequ and Model Monitor do.

    Values the baseline has not are left out (they are ``categorical_values_check``'s business),
    the expected counts scaled to the rest.  NaN, NaN for fewer than two categories.
    """
    known = [window.get(value, 0) for value in base]
    share = sum(known) / sum(base.values())
    scaled = [count * share for count in base.values()]
    expected, seen = merged(scaled, scaled, known)
    if len(expected) < 2 or not sum(seen):
        return math.nan, math.nan
    statistic = sum((s - e) ** 2 / e for s, e in zip(seen, expected, strict=True))
    return statistic, chi_square_tail(statistic, len(expected) - 1)


def merged(expected: Sequence[float], *rows: Sequence[float]) -> tuple[list[float], ...]:
    """Merge the smallest categories, as Deequ does, until a chi-square test may be made.

    That is when at most 20 % of the categories are expected fewer than 5 times (Yates, Moore and
    McCabe 1999), and of two neither fewer than 10 times (Cochran 1952).
    """
    import heapq

    cells = [(size, place) for place, size in enumerate(expected)]
    sums = [list(values) for values in zip(*rows, strict=True)]
    heapq.heapify(cells)
    small = {place for size, place in cells if size < 5}
    while len(cells) >= 2:
        enough = cells[0][0] >= 10 if len(cells) == 2 else len(small) <= int(0.2 * len(cells))
        if enough:
            break
        size, place = heapq.heappop(cells)
        larger, into = heapq.heappop(cells)
        sums[into] = [a + b for a, b in zip(sums[into], sums[place], strict=True)]
        small -= {place, into}
        if size + larger < 5:
            small.add(into)
        heapq.heappush(cells, (size + larger, into))
    kept = sorted(place for _, place in cells)
    return tuple([sums[place][row] for place in kept] for row in range(len(rows)))


def kolmogorov(x: float) -> float:
    """Return the chance that Kolmogorov's distribution exceeds x: the limit of ``sqrt(n) D``.

    Source: Marsaglia, Tsang and Wang, Evaluating Kolmogorov's distribution, 2003; the second
    series where the first converges slowly.
    """
    if x <= 0:
        return 1.0
    if x < 1.0:
        terms = (math.exp(-((2 * k - 1) ** 2) * math.pi**2 / (8 * x * x)) for k in range(1, 6))
        return max(0.0, 1.0 - math.sqrt(2 * math.pi) / x * sum(terms))
    return 2 * sum(math.exp(-2 * k * k * x * x) * (1 if k % 2 else -1) for k in range(1, 8))


def chi_square_tail(x: float, freedom: int) -> float:
    """Return the chance that a chi-square variable of so many degrees of freedom exceeds x.

    The regularised incomplete gamma function: its series below the mean, Legendre's continued
    fraction above.  Source: Numerical Recipes, 6.2.
    """
    a, x = freedom / 2, x / 2
    if x <= 0:
        return 1.0
    scale = math.exp(-x + a * math.log(x) - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        k = a
        while abs(term) > abs(total) * 1e-16:
            k += 1
            term *= x / k
            total += term
        return max(0.0, 1.0 - total * scale)
    b = x + 1 - a
    c, d = 1e300, 1 / b
    h = d
    for i in range(1, 10_000):
        step = -i * (i - a)
        b += 2
        d = step * d + b
        d = 1 / (d if abs(d) > 1e-300 else 1e-300)
        c = b + step / c
        c = c if abs(c) > 1e-300 else 1e-300
        h *= d * c
        if abs(d * c - 1) < 1e-16:
            break
    return scale * h


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return adjusted p-values: at most ``q`` where the discovery is one at that rate.

    NaN stays NaN and does not count.  Source: Benjamini and Hochberg 1995.

    Examples
    --------
    >>> [round(p, 3) for p in benjamini_hochberg([0.01, 0.04, 0.03, 0.5])]
    [0.04, 0.053, 0.053, 0.5]
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    least = 1.0
    for rank in range(len(tested), 0, -1):
        p, place = tested[rank - 1]
        least = min(least, p * len(tested) / rank)
        adjusted[place] = least
    return adjusted


# ── what has moved ───────────────────────────────────────────────────────────────────────────


def check_thresholds(thresholds: Mapping[str, float | Mapping[str, float]]) -> None:
    """Refuse thresholds of metrics that do not exist."""
    for name, given in thresholds.items():
        named = given if not isinstance(given, (int, float)) else {name: given}
        for metric in named:
            if metric not in METRICS:
                raise InvalidInput(
                    f'"{metric}" is no drift metric.{did_you_mean(metric, METRICS)} Thresholds '
                    'are {"psi": 0.2} for all features, {"temp": {"psi": 0.3}} for one.'
                )


def threshold_of(
    thresholds: Mapping[str, float | Mapping[str, float]], feature: str, metric: str
) -> float | None:
    """Return the threshold of a metric of a feature: its own, else that of all, else ours."""
    own = thresholds.get(feature)
    if own is not None and not isinstance(own, (int, float)) and metric in own:
        return float(own[metric])
    general = thresholds.get(metric, THRESHOLDS.get(metric))
    return float(general) if isinstance(general, (int, float)) else None


def moved(
    base: Mapping[str, Column],
    window: Mapping[str, Column],
    *,
    thresholds: Mapping[str, float | Mapping[str, float]] | None = None,
    fdr: float | None = FDR,
    distances: Mapping[str, Mapping[str, float]] | None = None,
) -> list[Metric]:
    """Compare all columns that both sides have, and flag what has moved.

    Parameters
    ----------
    thresholds : mapping, optional
        ``{"psi": 0.2}`` for all features, ``{"temp": {"psi": 0.3}}`` for one; ours where neither
        says anything.
    fdr : float or None
        The false discovery rate; None to go by the thresholds alone.
    distances : mapping, optional
        What :func:`compare_all` has found, where that is there already.
    """
    given = {} if thresholds is None else thresholds
    check_thresholds(given)
    found = compare_all(base, window) if distances is None else distances
    names = [name for name, metrics in found.items() if metrics]
    raw = [p_value_of(found[name]) for name in names]
    sure = dict(zip(names, benjamini_hochberg(raw), strict=True))
    metrics = []
    for name in names:
        certain = fdr is None or math.isnan(sure[name]) or sure[name] <= fdr
        for metric, value in found[name].items():
            limit = threshold_of(given, name, metric)
            if metric.endswith("_p_value"):  # small is what alarms
                flagged = limit is not None and value < limit
            else:
                flagged = limit is not None and value > limit and certain
            metrics.append(Metric(name, metric, value, limit, flagged))
        if fdr is not None:
            metrics.append(Metric(name, "p_adjusted", sure[name], fdr))
    return metrics


def p_value_of(metrics: Mapping[str, float]) -> float:
    """Return the p-value of a comparison, whichever test its kind has."""
    return metrics.get("ks_p_value", metrics.get("chi_square_p_value", math.nan))
