"""Fit the polynomials of csrc/cpu/vec_math.h; prints C++ constants and the error that float32 evaluation reaches.

    python tools/fit_vec_math.py

exp(r) = 1 + r + r^2 q(r) on |r| <= ln(2)/2; erf(z) = z p(u), u = z^2 * kErfScale - 1 in [-1, 1], on |z| <= kErfMax;
log(1 + t) = s + s v l(v), s = 2 t / (2 + t), v = s^2, on 0 <= t <= 1: the series of the inverse hyperbolic tangent;
gelu(x) = x (1/2 + t g(t^2)), t = x cut to its range, where the result is rounded (activation_amx.h).
All are minimax fits of the relative error (gelu: of the absolute one), found by Lawson's iteration: a least-squares fit
in the Chebyshev basis whose weights grow where the error is large. Only numpy is needed.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.polynomial import chebyshev

EXP_DEGREE = 4  # of q: total degree 6
ERF_DEGREE = 15
LOG1P_DEGREE = 3  # of l
GELU_DEGREE = 8  # of g
GELU_MAX = 4.4  # the best for this degree
ERF_MAX = 3.875  # 1 - erf is 4e-8 here, below one float32 step; exact in binary


def lawson_fit(u: np.ndarray, target: np.ndarray, weight: np.ndarray, degree: int, rounds: int = 80) -> np.ndarray:
    """Monomial coefficients, lowest first, of the polynomial in u that minimises max |weight * (p(u) - target)|."""
    basis = chebyshev.chebvander(u, degree)
    lawson = np.ones_like(u)
    best, best_error = np.zeros(degree + 1), math.inf
    for _ in range(rounds):
        scale = np.sqrt(lawson) * weight
        coefficients = np.linalg.lstsq(basis * scale[:, None], target * scale, rcond=None)[0]
        error = np.abs(weight * (basis @ coefficients - target))
        if error.max() < best_error:
            best, best_error = coefficients, error.max()
        lawson *= error / error.max() + 1e-3
        lawson /= lawson.mean()
    return np.asarray(chebyshev.cheb2poly(best))


def rounded_fit(u: np.ndarray, target: np.ndarray, weight: np.ndarray, degree: int) -> np.ndarray:
    """lawson_fit with float32 coefficients: each is rounded in turn and the higher ones are fitted to what remains."""
    terms = np.zeros(degree + 1, dtype=np.float32)
    rest = target.copy()
    for k in range(degree + 1):
        power = u**k
        terms[k] = lawson_fit(u, rest / power, weight * np.abs(power), degree - k)[0]
        rest -= float(terms[k]) * power
    return terms


def nodes(n: int = 1500) -> np.ndarray:
    """Chebyshev nodes: dense at the ends, where the error of a fit peaks."""
    return np.asarray(np.cos(np.pi * (np.arange(n) + 0.5) / n))


def fit_exp() -> np.ndarray:
    """q, lowest power first. (exp(r) - 1 - r) / r^2 is summed as a series: the closed form cancels near 0."""
    half = math.log(2) / 2 * 1.001
    u = nodes()
    r = u * half
    q = sum(r**k / math.factorial(k + 2) for k in range(16))
    return rounded_fit(r, np.asarray(q), r**2 / np.exp(r), EXP_DEGREE)


def fit_erf() -> np.ndarray:
    """p, lowest power of u first."""
    u = nodes()
    z = np.sqrt((u + 1) / 2) * ERF_MAX
    erf = np.array([math.erf(value) for value in z])
    return rounded_fit(u, erf / z, z / erf, ERF_DEGREE)


def fit_log1p() -> np.ndarray:
    """l, lowest power first: (atanh(s / 2) * 2 / s - 1) / v, summed as a series, which does not cancel near 0."""
    v = (nodes() + 1) / 2 * (2 / 3) ** 2
    series = sum((v / 4) ** k / (4 * (2 * k + 3)) for k in range(40))
    return rounded_fit(v, np.asarray(series), v, LOG1P_DEGREE)


def fit_gelu() -> np.ndarray:
    """g, lowest power of t^2 first; 1/2 at the end, so that gelu(-GELU_MAX) is nothing: g = end + (u - 1) rest(u)."""
    u = nodes()
    t = np.sqrt((u + 1) / 2) * GELU_MAX
    exact = np.array([math.erf(value / math.sqrt(2)) / 2 for value in t])
    end = 0.5 / GELU_MAX
    rest = lawson_fit(u, (exact / t - end) / (u - 1), t**2 * (1 - u), GELU_DEGREE - 1, rounds=400)
    in_u = np.polynomial.Polynomial([-1, 1]) * np.polynomial.Polynomial(rest) + end
    return np.asarray(in_u(np.polynomial.Polynomial([-1, 2 / GELU_MAX**2])).coef)


def gelu32(coefficients: np.ndarray, x: np.ndarray) -> np.ndarray:
    """gelu_rounded in numpy."""
    low = np.maximum(np.float32(-GELU_MAX), x)
    t = np.minimum(np.float32(GELU_MAX), low)
    half = (t.astype(np.float64) * horner32(coefficients, t * t, fma=True) + 0.5).astype(np.float32)
    return np.asarray(low * half)


def horner32(coefficients: np.ndarray, x: np.ndarray, *, fma: bool) -> np.ndarray:
    """Float32 evaluation, each step rounded once (fma) or twice (the portable path)."""
    total = np.full_like(x, np.float32(coefficients[-1]))
    for c in coefficients[-2::-1]:
        if fma:  # the product of two float32 is exact in float64
            total = (total.astype(np.float64) * x + np.float64(np.float32(c))).astype(np.float32)
        else:
            total = total * x + np.float32(c)
    return total


def estrin32(coefficients: np.ndarray, x: np.ndarray, *, fma: bool) -> np.ndarray:
    """The same in the order of vec_estrin: neighbours first, then pairs, then fours."""

    def multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return (a.astype(np.float64) * b + c.astype(np.float64)).astype(np.float32) if fma else a * b + c

    terms = [np.full_like(x, np.float32(c)) for c in coefficients]
    while len(terms) > 1:
        terms = [multiply_add(terms[i + 1], x, terms[i]) for i in range(0, len(terms), 2)]
        x = x * x
    return terms[0]


def erf32(coefficients: np.ndarray, z: np.ndarray, *, fma: bool) -> np.ndarray:
    """vec_erf in numpy."""
    scale = np.float32(2 / ERF_MAX**2)
    square = z * z
    u = (square.astype(np.float64) * scale - 1).astype(np.float32) if fma else square * scale - np.float32(1)
    return np.asarray(z * estrin32(coefficients, u, fma=fma))


def pin_end(coefficients: np.ndarray) -> np.ndarray:
    """Nudge the two lowest terms by ulps until erf(kErfMax) is exactly 1 with and without FMA.

    gelu(x) = x/2 (1 + erf) would otherwise leave a residue that grows with |x| where the true value is 0.
    """
    end = np.array([ERF_MAX], dtype=np.float32)
    for steps in sorted(range(-8, 9), key=abs):
        for first in sorted(range(-8, 9), key=abs):
            trial = coefficients.copy()
            trial[0] += steps * np.spacing(trial[0])
            trial[1] += first * np.spacing(trial[1])
            if all(erf32(trial, end, fma=fma)[0] == 1 for fma in (False, True)):
                return np.asarray(trial)
    raise RuntimeError("no nearby coefficients give erf(kErfMax) = 1")


def show(name: str, coefficients: np.ndarray) -> None:
    """Print one C++ array."""
    lines = ", ".join(f"{c:.9e}f" for c in coefficients.astype(np.float32))
    print(f"constexpr float {name}[] = {{{lines}}};")


def main() -> None:
    """Fit, print, measure."""
    q, p = fit_exp(), pin_end(fit_erf())
    show("kExpTerms", q)
    show("kErfTerms", p)
    logarithm = fit_log1p()
    show("kLog1pTerms", logarithm)
    gelu = fit_gelu()
    show("kGeluTerms", gelu)
    x = np.linspace(-12, 12, 1_000_001).astype(np.float32)
    true_gelu = np.array([value / 2 * math.erfc(-value / math.sqrt(2)) for value in x.astype(np.float64)])
    error = np.abs(gelu32(gelu, x) - true_gelu)
    middle = np.abs(x) < 3
    print(f"gelu: largest error {error.max():.2e}, mean square below 3 {np.sqrt((error[middle] ** 2).mean()):.2e}")
    print(f"constexpr float kErfMax = {ERF_MAX}f, kErfScale = {np.float32(2 / ERF_MAX**2):.9e}f;")

    r = np.linspace(-0.34657, 0.34657, 200001).astype(np.float32)
    z = np.linspace(1e-6, ERF_MAX, 200001).astype(np.float32)
    t = np.linspace(0, 1, 200001)[1:].astype(np.float32)
    exp64 = np.exp(r.astype(np.float64))
    erf64 = np.array([math.erf(float(value)) for value in z])
    for fma in (True, False):
        exp_error = np.abs((np.float32(1) + (r + r * r * horner32(q, r, fma=fma))) / exp64 - 1)
        erf_error = np.abs(erf32(p, z, fma=fma) - erf64)
        s = np.float32(2) * t / (np.float32(2) + t)
        v = s * s
        log1p_error = np.abs((s + s * v * horner32(logarithm, v, fma=fma)) / np.log1p(t.astype(np.float64)) - 1)
        print(f"// fma {fma}: log1p {log1p_error.max():.2e} relative")
        print(f"// fma {fma}: exp on the reduced range {exp_error.max():.2e} relative")
        print(f"// fma {fma}: erf {erf_error.max():.2e} absolute, {(erf_error / erf64).max():.2e} relative")


if __name__ == "__main__":
    main()
