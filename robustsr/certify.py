"""The mathematics of certificates: what a smoothed upscaler can be moved by, from finitely many draws.

One output value is a random X(x) = clamp(f(x + sigma G)), G standard normal. Moving x by delta moves Phi^-1 of every
probability about X by at most ||delta||_2 / sigma (Neyman-Pearson). So, for every ||delta||_2 < eps and r = eps/sigma,
each median of X(x + delta) lies between the percentiles of X(x) at Phi(-r) and Phi(r) (Chiang et al. 2020; CertSR,
lemma 4.1), whatever X's distribution, atoms included. Order statistics of n independent draws bound percentiles.

alpha, beta: probabilities of failure. ``eps`` and ``sigma`` in [0, 1] units; what ||delta|| is taken over, the whole
picture or a receptive field, changes nothing here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from .types import RobustSRError

Scope = Literal["value", "simultaneous"]
Form = Literal["cdf", "simple"]

MOST_DRAWS = 10**7


def ranks(n: int, r: float, alpha: float) -> tuple[int, int] | None:
    """Ranks (k_lo, k_hi), from 1, of the order statistics of ``n`` independent draws that bound the median at r.

    X_(k_lo) exceeds the percentile at Phi(-r) with probability at most alpha/2, X_(k_hi) falls below the one at
    Phi(r) likewise; exact binomial, both ranks the tightest: k_lo = max{k : P(Bin(n, Phi(-r)) <= k-1) <= alpha/2},
    k_hi = n+1-k_lo. None, abstained: no rank will do.
    """
    below = special.bdtr(np.arange(n), n, special.ndtr(-r))
    k = int(np.searchsorted(below, alpha / 2, side="right"))
    return (k, n + 1 - k) if k else None


def draws_needed(r: float, alpha: float) -> int | None:
    """The smallest n with ``ranks(n, r, alpha)``: Phi(r)^n <= alpha/2. None: more than ``MOST_DRAWS``."""
    log_p = float(special.log_ndtr(r))
    estimate = math.log(alpha / 2) / log_p if log_p else math.inf
    if estimate > MOST_DRAWS:
        return None
    n = max(1, math.floor(estimate) - 1)
    while special.bdtr(0, n, special.ndtr(-r)) > alpha / 2:  # as in ranks, to the last bit
        n += 1
    return n


def largest_radius(n: int, alpha: float) -> float:
    """The largest r that ``n`` draws bound: Phi^-1((alpha/2)^(1/n)); negative: not even the median itself."""
    return float(special.ndtri_exp(math.log(alpha / 2) / n))


def slack(shipped: int, beta: float) -> float:
    """What to add to r so that the median of ``shipped`` independent draws is bounded, not only the true median.

    s = Phi^-1(p'), P(Bin(shipped, p') <= floor(shipped/2)) = beta: where a draw stays below a bound with probability
    p', that median, of an odd or even number, exceeds it with probability ``beta`` at most. 0 for beta 0: no claim.
    """
    if beta == 0:
        return 0.0
    m = shipped // 2
    return -float(special.ndtri(special.betaincinv(shipped - m, m + 1, beta)))


def band(n: int, alpha: float) -> float:
    """sqrt(ln(2/alpha) / 2n): with probability 1 - alpha the mean of ``n`` draws in [0, 1] is that near to its
    expectation (Hoeffding), and their empirical distribution to the true one everywhere (Dvoretzky-Kiefer-Wolfowitz,
    with Massart's constant). Two-sided already.
    """
    return math.sqrt(math.log(2 / alpha) / (2 * n))


@dataclass(frozen=True)
class Claim:
    """What is asked for: the numbers of a certificate over ``values`` output values, and all that follows from them.

    The bounds come from ``n`` draws, the picture from ``shipped`` other ones. Scope "value": each value keeps its
    bounds with probability 1 - alpha - 2 beta, so that is the least expected share of covered values. Scope
    "simultaneous": all do together with that probability (Bonferroni: alpha/2N and beta/N on each side).
    ``beta`` 0: the claim is about the true median or mean alone, the shipped picture is but an estimate of it.
    ``form`` is how a mean is bounded. RobustSRError: numbers that make no sense.
    """

    sigma: float
    eps: float
    n: int = 1000
    shipped: int = 101
    alpha: float = 0.05
    beta: float = 0.025
    scope: Scope = "simultaneous"
    reduce: Literal["median", "mean"] = "median"
    form: Form = "cdf"
    values: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 1:
            raise RobustSRError(f"--sigma must be above 0 and at most 1 (pixel values are in [0, 1]), got {self.sigma}")
        if not 0 < self.eps < math.inf:
            raise RobustSRError(f"--eps must be positive, got {self.eps}")
        if not 1 <= self.n <= MOST_DRAWS or not 1 <= self.shipped <= MOST_DRAWS:
            raise RobustSRError(f"--samples and --ship must be 1 to {MOST_DRAWS:,}, got {self.n} and {self.shipped}")
        if not (0 < self.alpha < 1 and 0 <= self.beta < 0.5 and self.alpha + 2 * self.beta < 1):
            raise RobustSRError(
                f"--alpha must be above 0, --beta at least 0, and alpha + 2 beta, the probability of failure, below 1; "
                f"got {self.alpha} and {self.beta}"
            )
        for name, value, known in (
            ("scope", self.scope, ("value", "simultaneous")),
            ("reduce", self.reduce, ("median", "mean")),
            ("form", self.form, ("cdf", "simple")),
        ):
            if value not in known:
                raise RobustSRError(f"{name} must be {' or '.join(known)}, got {value!r}")

    @property
    def failure(self) -> float:
        """The probability that the claim about the shipped picture is wrong, at most."""
        return self.alpha + 2 * self.beta

    @property
    def r(self) -> float:
        return self.eps / self.sigma

    @property
    def alpha_each(self) -> float:
        """alpha for one output value, both sides together."""
        return self.alpha / (self.values if self.scope == "simultaneous" else 1)

    @property
    def beta_each(self) -> float:
        """beta for one output value, on each side."""
        return self.beta / (self.values if self.scope == "simultaneous" else 1)

    @property
    def slack(self) -> float:
        """Added to r for the shipped median; 0 for means, which have a ``margin`` instead."""
        return slack(self.shipped, self.beta_each) if self.reduce == "median" else 0.0

    @property
    def margin(self) -> float:
        """Added to both sides of the mean's bounds for the shipped mean (Hoeffding, beta on each side)."""
        if self.reduce == "median" or self.beta == 0:
            return 0.0
        return math.sqrt(math.log(1 / self.beta_each) / (2 * self.shipped))

    def ranks(self) -> tuple[int, int] | None:
        """The ranks behind the median's bounds; None: too few draws, or a mean."""
        return ranks(self.n, self.r + self.slack, self.alpha_each) if self.reduce == "median" else None

    def refuse_too_few(self) -> None:
        """RobustSRError: ``n`` draws bound nothing; the message names the n that suffices."""
        if self.reduce == "mean" or self.ranks():
            return
        needed = draws_needed(self.r + self.slack, self.alpha_each)
        reach = (largest_radius(self.n, self.alpha_each) - self.slack) * self.sigma
        ways = [f"--samples {needed}"] if needed and needed <= MOST_DRAWS else []
        if reach > 0:
            ways.append(f"--eps {math.floor(reach * 1e4) / 1e4:g}")
        which = "all at once" if self.scope == "simultaneous" else "each by itself"
        instead = f"{' or '.join(ways)} suffices" if ways else "no number of draws suffices"
        raise RobustSRError(
            f"{self.n} draws give no bound for eps {self.eps:g} at sigma {self.sigma:g}, alpha {self.alpha:g} over "
            f"{self.values:,} values {which} (r = {self.r:.3g}, and {self.slack:.3g} for a picture made of "
            f"{self.shipped} draws): {instead}; fewer draws do with a larger --sigma or --ship"
        )
