"""Quantiles and tails of the distributions that intervals and tests are read from.

SciPy has them, and comes with LightGBM; it is imported late, since a server needs none of this to decide.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from decalog.metrics import Floats

_NORMAL = NormalDist()


def normal_quantile(p: float) -> float:
    """Returns the z that a standard normal stays below with probability p, in (0, 1).

    >>> round(normal_quantile(0.975), 4)
    1.96
    """
    return _NORMAL.inv_cdf(p)


def normal_tail(z: float) -> float:
    """Returns how likely a standard normal lies at least |z| from 0, on either side.

    >>> round(normal_tail(1.96), 3)
    0.05
    """
    return 2 * _NORMAL.cdf(-abs(z))


def t_quantile(p: float, freedom: float) -> float:
    """Returns Student's t at probability p; degrees of freedom > 0, whole or not.

    >>> round(t_quantile(0.975, 10), 3)
    2.228
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, p))


def t_tail(t: float, freedom: float) -> float:
    """Returns how likely Student's t lies at least |t| from 0, on either side.

    >>> round(t_tail(2.228, 10), 3)
    0.05
    """
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -abs(t)))


def chi_squared_tail(value: npt.ArrayLike, freedom: npt.ArrayLike) -> Floats:
    """Returns how likely χ² is at least a value; without any degree of freedom it is 1.

    >>> float(chi_squared_tail(3.841, 1).round(3))
    0.05
    """
    from scipy.special import chdtrc

    degrees = np.asarray(freedom, np.float64)
    return np.where(degrees > 0, chdtrc(np.maximum(degrees, 1), value), 1.0)


def kolmogorov_tail(value: npt.ArrayLike) -> Floats:
    """Returns how likely √n · sup |F_n − F| is at least a value, for many n (Kolmogorov, 1933).

    >>> float(kolmogorov_tail(1.358).round(3))
    0.05
    """
    from scipy.special import kolmogorov

    return np.asarray(kolmogorov(value), np.float64)


def log_gamma(value: npt.ArrayLike) -> Floats:
    """Returns ln Γ(x) of positive numbers."""
    from scipy.special import gammaln

    return np.asarray(gammaln(value), np.float64)
