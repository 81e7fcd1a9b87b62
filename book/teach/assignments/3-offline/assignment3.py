"""Assignment 3: your instance and the visible checks. Reading this file is allowed."""

from __future__ import annotations

import numpy as np
from checks import draw, near, nonnegative, numbers, passed, policy


def instance(student: str) -> dict:
    """A student's own instance: 3 prompts, 4 answers, 2 features; a true parameter."""
    rng = draw(student, "assignment3")
    angle = rng.uniform(0, 2 * np.pi)
    shape = np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    strength = np.round(rng.uniform(0.5, 1.0, 3), 3)
    theta = turn @ np.array([1.0, np.round(rng.uniform(-0.2, 0.2), 3)])
    return {"d0": np.full(3, 1 / 3), "pi0": np.full((3, 4), 0.25),
            "phi": strength[:, None, None] * (shape @ turn.T), "theta": theta, "B": 2.0,
            "beta": float(np.round(rng.uniform(0.1, 0.3), 3)), "rho": 1.5, "reg": 0.1}


def _example():
    rng = np.random.default_rng(5)
    phi = rng.normal(size=(2, 3, 2))
    V = np.array([[9.0, 1.0], [1.0, 2.0]])
    return {"theta_hat": np.array([0.6, -0.4]), "V": V, "rho": 0.8, "phi": phi, "beta": 0.5,
            "pi0": np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]), "d0": np.array([0.4, 0.6])}


def check_pessimistic_value(pessimistic_value):
    """Zero at the reference, decreasing in the radius."""
    e = _example()
    nu = e["d0"] @ np.einsum("sk,skd->sd", e["pi0"], e["phi"])

    def at(law, rho):
        return float(numbers(pessimistic_value(law, e["theta_hat"], e["V"], rho, nu, e["phi"],
                                               e["beta"], e["pi0"], e["d0"]), (), "the value"))

    near(at(e["pi0"], 0.8), 0.0, "the value of the reference, measured from its own features,",
         atol=1e-12)
    other = np.array([[0.1, 0.1, 0.8], [0.6, 0.2, 0.2]])
    assert at(other, 2.0) < at(other, 1.0) < at(other, 0.0), (
        "a larger set of parameters must lower the value: it is the worst case over the set")
    passed("q1")


def check_cautious(cautious):
    """A policy; the plug-in at radius 0; another one at a large radius."""
    e = _example()
    nu = np.einsum("sk,skd->sd", e["pi0"], e["phi"])

    def at(rho):
        return policy(cautious(e["theta_hat"], e["V"], rho, nu, e["phi"], e["beta"], e["pi0"]),
                      (2, 3))

    score = e["pi0"] * np.exp(e["phi"] @ e["theta_hat"] / e["beta"])
    assert np.allclose(at(0.0), score / score.sum(axis=1, keepdims=True)), (
        "at radius 0 the estimate is trusted, and the policy should be the plug-in")
    assert not np.allclose(at(2.0), at(0.0), atol=1e-3), "the radius has no influence on your policy"
    passed("q2")


def check_best_in_expectation(best_in_expectation):
    """A policy; the plug-in at radius 0; the reference at a huge radius."""
    e = _example()
    nu = e["d0"] @ np.einsum("sk,skd->sd", e["pi0"], e["phi"])

    def at(rho):
        return policy(best_in_expectation(e["theta_hat"], e["V"], rho, nu, e["phi"], e["beta"],
                                          e["pi0"], e["d0"]), (2, 3))

    score = e["pi0"] * np.exp(e["phi"] @ e["theta_hat"] / e["beta"])
    assert np.allclose(at(1e-6), score / score.sum(axis=1, keepdims=True), atol=1e-3), (
        "at radius 0 the policy should be the plug-in")
    assert np.allclose(at(50.0), e["pi0"], atol=1e-3), (
        "when nothing is known, and features are measured from the reference, stay at the reference")
    passed("q3")


def check_certificate(certificate):
    """Nonnegative, zero at radius 0, growing."""
    e = _example()

    def at(rho):
        return float(nonnegative(numbers(
            certificate(e["V"], rho, e["phi"], e["beta"], e["d0"]), (), "the bound"), "the bound"))

    assert at(1e-9) < 1e-9, "at radius 0 nothing can be lost"
    assert at(1.0) < at(2.0) < at(200.0), "the bound must grow with the radius"
    passed("q4")


def check_difference(difference):
    """Three numbers in order."""
    mean, low, high = numbers(difference(0.1, 200, 60, np.random.default_rng(1)), (3,))
    assert low < mean < high, "the estimate must lie between its limits"
    passed("q5")
