"""Bad input gets a ValueError that names the hypothesis and the entry; good input gets numbers.

Every public function is described once (``CALLS``): its arguments, each with a kind and a valid
value.
From that table the tests break one argument after the other, by hand and by ``hypothesis``.
Warnings are errors here: a warning is a NaN that has not been printed yet.
"""

import dataclasses
import inspect
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import klrlhf
from klrlhf import Bandit, Comparisons, three_arms

pytestmark = pytest.mark.filterwarnings("error")
EXAMPLES = int(os.environ.get("KLRLHF_EXAMPLES", "60"))

S, K, D = 3, 4, 2
RNG = np.random.default_rng(0)
BANDIT = Bandit.random(1, S=S, K=K, d=D, beta=0.5)
PAIRS = klrlhf.all_pairs(S, K)
Z = klrlhf.pair_features(BANDIT.phi, PAIRS)
T = len(PAIRS)
DESIGN = klrlhf.policy_design(BANDIT.d0, BANDIT.pi0, klrlhf.uniform_policy(S, K))
DATA = klrlhf.sample_comparisons(BANDIT, 200, DESIGN, 2)
THETA = np.array([0.3, -0.2])
REWARD, PI0, D0 = np.array(BANDIT.reward), np.array(BANDIT.pi0), np.array(BANDIT.d0)
POLICY = RNG.dirichlet(np.ones(K), size=S)
V = klrlhf.design_matrix(DATA, 0.1)
NU, NUS = klrlhf.logged_mean(BANDIT, DATA), klrlhf.logged_means(BANDIT, DATA)


def fixed_rule(data, t):
    return DESIGN


REWARD_ARG, PI0_ARG, D0_ARG = ("reward", REWARD), ("pi0", PI0), ("d0", D0)
POLICY_ARG, BETA, COUNT = ("policy", POLICY), ("beta", 0.5), ("count", 3)
PHI, BANDIT_ARG, RADIUS = ("phi", BANDIT.phi), ("bandit", BANDIT), ("radius", 2.0)
ESTIMATE = {"bandit": BANDIT_ARG, "theta_hat": ("theta", THETA), "V": ("matrix", V),
            "rho": ("nonnegative", 2.0)}
CALLS = {
    "sharp_hoeffding": {"t": ("nonnegative-any", 1.5)},
    "sigmoid": {"t": ("real-any", 1.5)},
    "log_sigmoid": {"t": ("real-any", 1.5)},
    "sigmoid_slope": {"t": ("real-any", 1.5)},
    "expm1_minus": {"t": ("real-any", 1.5)},
    "log_ratio_excess": {"u": ("real-any", 1.5)},
    "log_mean_exp": {"values": ("vector", np.ones(3)), "log_weights": ("logs", -np.ones(3)),
                     "axis": ("axis", -1)},
    "bregman_kl_terms": {"log_p": ("logs", -np.ones(3)), "log_q": ("logs", -np.ones(3))},
    "log_gibbs_policy": {"reward": REWARD_ARG, "beta": BETA, "pi0": PI0_ARG},
    "gibbs_policy": {"reward": REWARD_ARG, "beta": BETA, "pi0": PI0_ARG},
    "log_partition": {"reward": REWARD_ARG, "beta": BETA, "pi0": PI0_ARG},
    "kl_divergence": {"p": POLICY_ARG, "q": ("policy", PI0)},
    "kl_divergence_from_logs": {"log_p": ("log-law", np.log(POLICY)),
                                "log_q": ("log-law", np.log(PI0))},
    "chi2_divergence": {"p": POLICY_ARG, "q": ("policy", PI0)},
    "expectation": {"policy": POLICY_ARG, "f": REWARD_ARG},
    "variance": {"policy": POLICY_ARG, "f": REWARD_ARG},
    "feature_mean": {"policy": POLICY_ARG, "phi": ("phi", BANDIT.phi)},
    "feature_covariance": {"policy": POLICY_ARG, "phi": ("phi", BANDIT.phi)},
    "uniform_policy": {"S": ("size", S), "K": ("size", K)},
    "mixture_policy": {"c": ("share", 0.3), "first": POLICY_ARG, "second": ("policy", PI0)},
    "greedy_policy": {"reward": REWARD_ARG, "pi0": PI0_ARG},
    "best_of_n_policy": {"reward": REWARD_ARG, "pi0": PI0_ARG, "n": ("size", 4)},
    "expected_reward": {"policy": POLICY_ARG, "reward": REWARD_ARG, "d0": D0_ARG},
    "expected_kl": {"policy": POLICY_ARG, "pi0": PI0_ARG, "d0": D0_ARG},
    "value": {"policy": POLICY_ARG, "reward": REWARD_ARG, "beta": BETA, "pi0": PI0_ARG,
              "d0": D0_ARG},
    "optimal_value": {"reward": REWARD_ARG, "beta": BETA, "pi0": PI0_ARG, "d0": D0_ARG},
    "suboptimality": {"policy": POLICY_ARG, "reward": REWARD_ARG, "beta": BETA, "pi0": PI0_ARG,
                      "d0": D0_ARG},
    "plug_in_suboptimality": {"reward_hat": ("reward", REWARD + 0.1), "reward": REWARD_ARG,
                              "beta": BETA, "pi0": PI0_ARG, "d0": D0_ARG},
    "kl_max": {"reward": REWARD_ARG, "pi0": PI0_ARG, "d0": D0_ARG},
    "temperature_path": {"inverse_temperatures": ("nonnegative", [0.0, 2.0]), "reward": REWARD_ARG,
                         "pi0": PI0_ARG, "d0": D0_ARG},
    "kl_frontier": {"kl": ("nonnegative", [0.0, 0.1]), "reward": REWARD_ARG, "pi0": PI0_ARG,
                    "d0": D0_ARG},
    "Bandit": {"d0": D0_ARG, "pi0": PI0_ARG, "phi": ("phi", BANDIT.phi), "theta": ("theta", THETA),
               "beta": ("scalar-positive", 0.5), "B": ("optional-positive", 2.0)},
    "Bandit.running_example": {"beta": ("scalar-positive", 0.5), "hidden": ("word", "bad")},
    "Bandit.random": {"rng": ("rng", 1), "S": ("size", S), "K": ("size", K), "d": ("size", D),
                      "beta": ("scalar-positive", 0.5), "B": ("scalar-positive", 2.0)},
    "Bandit.tabular": {"reward": ("one-reward", REWARD), "beta": ("scalar-positive", 0.5)},
    "Bandit.three_arms": {"gap": ("scalar-nonnegative", 1.0), "beta": ("scalar-positive", 0.5),
                          "B": ("optional-positive", 2.0)},
    "Bandit.value": {"policy": POLICY_ARG}, "Bandit.kl": {"policy": POLICY_ARG},
    "Bandit.gap": {"policy": POLICY_ARG}, "Bandit.expected_reward": {"policy": POLICY_ARG},
    "Bandit.gibbs": {"theta": ("theta", THETA)}, "Bandit.reward_of": {"theta": ("theta", THETA)},
    "Bandit.plug_in_gap": {"theta_hat": ("theta", THETA)},
    "Bandit.frontier": {"kl": ("nonnegative", 0.1)},
    "all_pairs": {"S": ("size", S), "K": ("size", K)},
    "pair_features": {"phi": ("phi-any", BANDIT.phi), "pairs": ("pairs", PAIRS)},
    "preference_probability": {"theta": ("theta", THETA), "z": ("features", Z)},
    "policy_design": {"d0": D0_ARG, "mu1": POLICY_ARG, "mu2": ("policy", PI0)},
    "coverage_design": {"bandit": ("bandit", BANDIT), "c": ("scalar-share", 0.3)},
    "Comparisons": {"pairs": ("pairs", PAIRS), "z": ("features", Z),
                    "counts": ("counts", DATA.counts), "wins": ("counts", DATA.wins)},
    "Comparisons.empty": {"bandit": ("bandit", BANDIT), "replicates": ("replicates", (2,))},
    "sample_comparisons": {"bandit": ("bandit", BANDIT), "n": COUNT, "design": ("design", DESIGN),
                           "rng": ("rng", 1), "replicates": ("replicates", 2)},
    "sample_outcomes": {"bandit": ("bandit", BANDIT), "counts": ("counts", DATA.counts),
                        "rng": ("rng", 1), "replicates": ("replicates", 2)},
    "sample_adaptive": {"bandit": ("bandit", BANDIT), "rule": ("rule", fixed_rule),
                        "rounds": COUNT, "batch": COUNT, "rng": ("rng", 1),
                        "replicates": ("replicates", 2)},
    "negative_log_likelihood": {"theta": ("theta", THETA), "data": ("data", DATA)},
    "score": {"theta": ("theta", THETA), "data": ("data", DATA)},
    "hessian": {"theta": ("theta", THETA), "data": ("data", DATA)},
    "frank_wolfe_gap": {"theta": ("theta", THETA), "data": ("data", DATA),
                        "B": ("scalar-positive", 2.0)},
    "fit_mle": {"data": ("data", DATA), "B": ("scalar-positive", 2.0),
                "max_iterations": ("size", 400)},
    "mle_exists": {"data": ("data", DATA)},
    "win_graph_strongly_connected": {"data": ("data", DATA)},
    "design_matrix": {"data": ("data", DATA), "reg": ("scalar-nonnegative", 0.1)},
    "least_curvature": {"L": ("scalar-nonnegative", 1.0), "B": ("scalar-positive", 2.0)},
    "parameter_error": {"theta_hat": ("theta", THETA), "theta": ("theta", 2 * THETA),
                        "V": ("matrix", V)},
    "inverse_norm": {"direction": ("theta", THETA), "V": ("matrix", V)},
    "score_norm": {"data": ("data", DATA), "theta": ("theta", THETA),
                   "reg": ("scalar-nonnegative", 0.1)},
    "score_bound_fixed": {"data": ("data", DATA), "reg": ("scalar-nonnegative", 0.1),
                          "delta": ("level", 0.05)},
    "score_bound_adaptive": {"data": ("data", DATA), "reg": ("scalar-nonnegative", 0.1),
                             "delta": ("level", 0.05), "form": ("word", "determinant")},
    "confidence_radius": {"score_bound": ("nonnegative", 2.0), "gamma": ("gamma", 0.1),
                          "reg": ("nonnegative", 0.1), "B": ("positive", 2.0),
                          "certificate": ("nonnegative", 0.0), "form": ("word", "sharp")},
    "fisher_information": {"theta": ("theta", THETA), "z": ("features", Z),
                           "design": ("design", DESIGN)},
    "expected_features": {"policy": POLICY_ARG, "phi": PHI, "d0": D0_ARG},
    "design_covariance": {"z": ("features", Z), "design": ("design", DESIGN)},
    "comparison_covariance": {"mu": POLICY_ARG, "phi": PHI, "d0": D0_ARG},
    "coverage_coefficient": {"policy": POLICY_ARG, "nu": ("theta", NU), "phi": PHI, "d0": D0_ARG,
                             "matrix": ("matrix", V), "n": ("nonnegative", 200.0)},
    "pointwise_coverage": {"policy": POLICY_ARG, "nu": ("per-prompt", NUS), "phi": PHI,
                           "d0": D0_ARG, "matrix": ("matrix", V), "n": ("nonnegative", 200.0)},
    "concentrability": {"policy": POLICY_ARG, "mu": ("policy", PI0), "d0": D0_ARG,
                        "norm": ("word", "l1")},
    "chi_squared_coverage": {"policy": POLICY_ARG, "mu": ("policy", PI0), "d0": D0_ARG},
    "reward_class_coverage": {"phi": PHI, "pi0": PI0_ARG, "d0": D0_ARG,
                              "centre": ("word", "midrange")},
    "mixture_design": {"c": ("share", 0.3), "covering": ("design", DESIGN),
                       "narrow": ("design", klrlhf.coverage_design(BANDIT, 0.0))},
    "feature_widths": {"phi": PHI, "V": ("matrix", V)},
    "plug_in": {"bandit": BANDIT_ARG, "theta_hat": ("theta", THETA)},
    "certificate": ESTIMATE,
    "plug_in_bounds": ESTIMATE,
    "asymptotic_gap": {"bandit": BANDIT_ARG, "design": ("design", DESIGN)},
    "reference_mean": {"bandit": BANDIT_ARG}, "reference_means": {"bandit": BANDIT_ARG},
    "logged_policy": {"data": ("data", DATA), "pi0": PI0_ARG},
    "logged_mean": {"bandit": BANDIT_ARG, "data": ("data", DATA)},
    "logged_means": {"bandit": BANDIT_ARG, "data": ("data", DATA)},
    "pessimistic_expected": {**ESTIMATE, "nu": ("theta", NU), "max_iterations": ("size", 200)},
    "pessimistic_pointwise": {**ESTIMATE, "nu": ("per-prompt", NUS)},
    "pessimistic_expected_bounds": {"bandit": BANDIT_ARG, "V": ("matrix", V),
                                    "rho": ("nonnegative", 2.0), "nu": ("theta", NU),
                                    "comparator": ("optional-policy", POLICY)},
    "pessimistic_pointwise_bounds": {"bandit": BANDIT_ARG, "V": ("matrix", V),
                                     "rho": ("nonnegative", 2.0), "nu": ("per-prompt", NUS),
                                     "comparator": ("optional-policy", POLICY)},
    "online_gshf": {"bandit": BANDIT_ARG, "rounds": ("rounds", 2), "batch": ("rounds", 5),
                    "rng": ("rng", 1), "reg": ("scalar-positive", 0.5),
                    "delta": ("one-level", 0.05), "replicates": ("replicates", 2)},
    "exact_enhancer": ESTIMATE, "gibbs_class_enhancer": ESTIMATE, "reference_enhancer": ESTIMATE,
    "uniform_enhancer": ESTIMATE,
    "temperature_enhancer": {"factor": ("scalar-positive", 2.0)},
    "best_of_n_enhancer": {"n": ("size", 4)}, "worst_of_n_enhancer": {"n": ("size", 4)},
    "uncertainty": {"bandit": BANDIT_ARG, "policy": POLICY_ARG, "main": ("policy", PI0),
                    "V": ("matrix", V)},
    "required_reg": {"L": ("scalar-positive", 1.0), "d": ("size", D), "delta": ("one-level", 0.05)},
    "required_reg_free": {"L": ("scalar-positive", 1.0), "d": ("size", D),
                          "delta": ("one-level", 0.05)},
    "information_bound": {"d": ("size", D), "n": ("nonnegative", 200.0),
                          "L": ("scalar-nonnegative", 1.0), "reg": ("scalar-positive", 0.5)},
    "water_level": {"eigenvalues": ("positive", [0.5, 2.0]), "budget": ("nonnegative", 3.0)},
    "online_bound": {"rho": ("nonnegative", 2.0), "information": ("nonnegative", 3.0),
                     "rounds": ("positive", 10.0), "batch": ("positive", 5.0)},
    "without_enhancer_bound": {"rho": ("nonnegative", 2.0), "start": ("nonnegative", 0.1),
                               "information": ("nonnegative", 3.0), "rounds": ("positive", 10.0),
                               "batch": ("positive", 5.0)},
    "free_exploration_bound": {"bandit": BANDIT_ARG, "rho": ("nonnegative", 2.0),
                               "n": ("positive", 200.0)},
    "free_regret_bound": {"bandit": BANDIT_ARG, "rho": ("nonnegative", 2.0),
                          "rounds": ("positive", 10.0), "batch": ("positive", 5.0)},
    "free_exploration_constant": {"R": ("nonnegative", 1.0), "beta": BETA},
    "three_arms.tie_margin": {"B": RADIUS},
    "three_arms.three_arm_reward": {"gap": ("real", 1.0), "difference": ("real", 0.2)},
    "three_arms.three_arm_data": {"n": ("samples", 20.0), "W": ("wins", 8.0)},
    "three_arms.ball_mle": {"n": ("samples", 20.0), "W": ("wins", 8.0), "B": RADIUS},
    "three_arms.win_window": {"n": ("samples", 20.0), "B": RADIUS},
    "three_arms.third_arm_best": {"n": ("samples", 20.0), "W": ("wins", 8.0), "B": RADIUS},
    "three_arms.failure_probability": {"n": ("samples", 20.0), "B": RADIUS, "gap": ("real", 1.0),
                                       "difference": ("real", 0.2)},
    "three_arms.failure_probability_bounds": {"n": ("samples", 20.0), "B": RADIUS,
                                              "gap": ("real", 1.0), "difference": ("real", 0.2)},
    "three_arms.plug_in_loss": {"beta": BETA, "gap": ("real", 1.0), "B": RADIUS,
                                "u_hat": ("real", 0.1), "difference": ("real", 0.2)},
    "three_arms.expected_loss": {"beta": BETA, "n": ("one-sample", 20.0),
                                 "gap": ("one-real", 1.0), "B": ("one-radius", 2.0),
                                 "difference": ("one-real", 0.2)},
    "three_arms.limiting_loss": {"beta": BETA, "gap": ("real", 1.0), "B": RADIUS,
                                 "difference": ("real", 0.2)},
}
NOT_CALLED_BY_READERS = {"TemperaturePath", "KLFrontier", "MaximumLikelihoodFit",
                         "ConvergenceError", "Certificate", "PlugInBounds", "ExpectedPessimism",
                         "PointwisePessimism", "PessimismBounds", "Enhanced", "History"}
# A practical enhancer has no upper bound of what it looks for: infinity.
MAY_BE_INFINITE = {"exact_enhancer", "gibbs_class_enhancer", "reference_enhancer",
                   "uniform_enhancer", "temperature_enhancer", "best_of_n_enhancer",
                   "worst_of_n_enhancer", "concentrability", "chi_squared_coverage", "online_bound",
                   "without_enhancer_bound", "free_exploration_constant", "kl_divergence",
                   "kl_divergence_from_logs", "chi2_divergence", "kl_frontier", "Bandit.frontier",
                   "expm1_minus", "log_ratio_excess", "bregman_kl_terms", "log_mean_exp",
                   "log_gibbs_policy"}


def resolve(name):
    """The callable behind a name of the table; methods belong to the module's instance."""
    owner, _, method = name.partition(".")
    if owner == "three_arms":
        return getattr(three_arms, method)
    made = getattr(klrlhf, owner)
    if not method:
        return made
    bound = inspect.getattr_static(made, method)
    return getattr(made if isinstance(bound, classmethod) else BANDIT, method)


def call(name, **changes):
    """The call of the table with some arguments changed."""
    arguments = {key: value for key, (_, value) in CALLS[name].items()} | changes
    made = resolve(name)(**arguments)
    return made(BANDIT, THETA, V, 2.0) if callable(made) else made  # an enhancer is put to work


def every_number(result):
    """All float arrays inside whatever a function returned."""
    if isinstance(result, (Bandit, Comparisons, klrlhf.MaximumLikelihoodFit, klrlhf.History)):
        result = [getattr(result, f.name) for f in dataclasses.fields(result)]
    if isinstance(result, (list, tuple)):
        return [array for part in result if part is not None for array in every_number(part)]
    return [np.asarray(result, dtype=float)]


def assert_sane(name, result):
    for array in every_number(result):
        assert not np.isnan(array).any(), result
        if name not in MAY_BE_INFINITE:
            assert np.isfinite(array).all(), result


def refused(name, argument, value):
    """The call must raise a ValueError that says which argument is wrong."""
    with pytest.raises(ValueError, match=r"\w+ .*\w+") as caught:
        call(name, **{argument: value})
    return str(caught.value)


ARGUMENTS = [(name, argument) for name, spec in CALLS.items() for argument in spec]


def kind_of(name, argument):
    return CALLS[name][argument][0]


# -- the table is complete and right -------------------------------------------------------------


def test_every_public_name_is_in_the_table():
    owners = {name.split(".")[0] for name in CALLS} - {"three_arms"}
    assert owners == set(klrlhf.__all__) - NOT_CALLED_BY_READERS
    assert {name for name in CALLS if name.startswith("three_arms.")} == {
        f"three_arms.{name}" for name in three_arms.__all__}


def test_every_required_argument_is_in_the_table():
    for name, spec in CALLS.items():
        required = {p.name for p in inspect.signature(resolve(name)).parameters.values()
                    if p.default is inspect.Parameter.empty}
        assert required <= set(spec), name


@pytest.mark.parametrize("name", CALLS)
def test_the_valid_call_gives_numbers(name):
    assert_sane(name, call(name))


# -- things that are no numbers at all -----------------------------------------------------------

JUNK = {
    "None": None, "text": "x", "numeral": "1.0", "bytes": b"1", "object": object(), "dict": {},
    "set": {1.0}, "function": len, "ragged": [[1.0], [1.0, 2.0]], "complex": 1j,
    "complex array": np.full((S, K), 1 + 1j), "text array": np.full((S, K), "a"),
    "numerals": np.full((S, K), "0.25"), "numeral objects": np.full((S, K), "0.25", dtype=object),
    "None inside": [[None, 1.0]], "dates": np.datetime64("2020-01-01"),
    "whole number beyond floats": 10**400, "nan": np.nan, "inf": np.inf, "-inf": -np.inf,
    "nan array": np.full((S, K), np.nan), "masked": np.ma.masked_equal(np.ones((S, K)), 1.0),
}
MEANINGFUL = {("optional-positive", "None"), ("optional-policy", "None"), ("replicates", "None"),
              ("rng", "whole number beyond floats")}


@pytest.mark.parametrize("name, argument", ARGUMENTS)
def test_junk_is_refused(name, argument):
    kind = kind_of(name, argument)
    for label, junk in JUNK.items():
        if (kind, label) in MEANINGFUL or (kind in ("logs", "log-law") and label == "-inf"):
            continue
        if kind == "rule" and callable(junk):
            continue
        try:
            with pytest.raises(ValueError, match=r"\w+"):
                call(name, **{argument: junk})
        except pytest.fail.Exception as failure:
            raise AssertionError(f"{name}({argument}={label}) was accepted") from failure
        except Exception as error:
            raise AssertionError(f"{name}({argument}={label}): {error!r}") from error


# -- one broken entry, one broken shape ----------------------------------------------------------


def with_entry(array, index, value):
    broken = np.array(array, dtype=float)
    broken[index] = value
    return broken


def broken_versions(kind, valid):
    """Pairs (label, broken value) for a kind of argument."""
    array = np.asarray(valid) if kind not in ("bandit", "data", "rule", "rng", "word") else None
    huge = [("huge", 1e308), ("huge and negative", -1e308)]
    nonreal = [("nan", np.nan), ("inf", np.inf), ("-inf", -np.inf)]
    if kind in ("reward", "one-reward", "phi", "phi-any", "theta", "features", "matrix",
                "per-prompt"):
        corner = (0,) * array.ndim
        bad = [(label, with_entry(array, corner, v)) for label, v in nonreal + huge]
        bad += [("empty", []), ("no contexts", array[:0]), ("a number", 1.0),
                ("one axis too few", array[0] if array.ndim > 1 else 1.0)]
        if kind != "phi-any":
            bad.append(("one more column", np.concatenate([array, array[..., :1]], axis=-1)))
        if kind == "one-reward":
            bad = bad[:-1] + [("replicates", array[None])]
        if kind in ("reward", "phi", "per-prompt"):
            bad.append(("one more context", np.concatenate([array, array[:1]])))
        if kind == "phi-any":
            bad += [("too many axes", array[None]), ("too few contexts", array[:1])]
        if kind == "matrix":
            bad += [("not symmetric", with_entry(array, (0, 1), 7.0)), ("not square", array[:1])]
        return bad
    if kind in ("policy", "pi0", "optional-policy"):
        both = array[2, 0] + array[2, 1]
        moved = with_entry(with_entry(array, (2, 0), -0.25), (2, 1), both + 0.25)
        bad = [(label, with_entry(array, (2, 0), v)) for label, v in nonreal + huge]
        bad += [("negative", moved), ("unnormalized", 1.1 * array), ("zero", 0 * array),
                ("slightly off", array * (1 + 1e-6)), ("empty", []), ("no actions", array[:, :0]),
                ("no contexts", array[:0]), ("one axis", array[0]), ("a number", 1.0),
                ("one action more", np.full((S, K + 1), 1 / (K + 1))),
                ("one context more", np.full((S + 1, K), 1 / K))]
        if kind == "pi0":
            gone = with_entry(with_entry(array, (2, 0), 0.0), (2, 1), both)
            bad.append(("no support", gone))
        return bad
    if kind == "d0":
        return [("nan", [np.nan, 0.5, 0.5]), ("negative", [-0.5, 0.5, 1.0]), ("empty", []),
                ("unnormalized", [0.5, 0.5, 0.5]), ("zero", [0.0, 0.0, 0.0]), ("a number", 1.0),
                ("one more", np.full(S + 1, 1 / (S + 1))), ("one less", [0.5, 0.5]),
                ("huge", [1e308, 0, 0]), ("inf", [np.inf, 0, 0])]
    if kind == "design":
        return [("nan", with_entry(array, 0, np.nan)), ("negative", with_entry(array, 0, -0.1)),
                ("too much", 2 * array), ("empty", []), ("a number", 0.1),
                ("one more", np.append(array, 0.0)), ("huge", with_entry(array, 0, 1e308))]
    if kind == "counts":
        return [("nan", with_entry(array, 0, np.nan)), ("negative", with_entry(array, 0, -1.0)),
                ("a third", with_entry(array, 0, 1 / 3)), ("one more", np.append(array, 0.0)),
                ("empty", []), ("a number", 1.0), ("huge", with_entry(array, 0, 1e308)),
                ("inf", with_entry(array, 0, np.inf))]
    if kind == "pairs":
        rows = np.array(PAIRS)
        return [("floats", rows.astype(float)), ("one column less", rows[:, :2]), ("flat", rows[0]),
                ("negative", rows - 1), ("swapped", rows[:, [0, 2, 1]]), ("empty", []),
                ("repeated", np.concatenate([rows, rows[:1]])), ("no rows", rows[:0]),
                ("truth values", rows > 0)]
    if kind in ("logs", "log-law"):
        bad = [("nan", with_entry(array, 0, np.nan)), ("inf", with_entry(array, 0, np.inf)),
               ("shape", np.full((7,), -1.0)), ("huge", with_entry(array, 0, 1e308))]
        if kind == "log-law":
            bad += [("unnormalized", array + 0.1), ("empty", []), ("a number", 0.0)]
        return bad
    if kind == "vector":
        return nonreal + huge + [("shape", np.ones(7)), ("empty", [])]
    reals = {
        "real-any": nonreal,
        "nonnegative-any": [*nonreal, ("negative", -1e-300)],
        "nonnegative": nonreal + huge + [("negative", -1e-300), ("one of many", [0.5, -1.0])],
        "scalar-nonnegative": nonreal + huge + [("negative", -1e-300), ("array", np.ones(2))],
        "positive": nonreal + huge + [("zero", 0.0), ("negative", -1.0), ("tiny", 1e-320)],
        "scalar-positive": nonreal + huge + [("zero", 0.0), ("negative", -1.0), ("tiny", 1e-320),
                                             ("array", np.ones(2)), ("list", [1.0])],
        "beta": nonreal + huge + [("zero", 0.0), ("minus zero", -0.0), ("negative", -1.0),
                                  ("tiny", 1e-320), ("one of many", [0.5, 0.0])],
        "gamma": nonreal + huge + [("zero", 0.0), ("negative", -0.1), ("above 1/4", 0.26)],
        "rounds": [("zero", 0), ("negative", -1), ("half", 1.5), ("nan", np.nan), ("inf", np.inf)],
        "one-level": nonreal + [("zero", 0.0), ("one", 1.0), ("negative", -0.1), ("list", [0.1])],
        "level": nonreal + huge + [("zero", 0.0), ("one", 1.0), ("negative", -0.1), ("two", 2.0)],
        "share": nonreal + huge + [("negative", -0.1), ("above one", 1.1)],
        "scalar-share": nonreal + huge + [("negative", -.1), ("above one", 1.1), ("list", [.5])],
        "real": nonreal + huge + [("shape", np.ones((2, 3)) * [[1, np.nan, 1]])],
        "one-real": nonreal + huge + [("list", [1.0])],
        "radius": nonreal + huge + [("zero", 0.0), ("negative", -1.0), ("beyond", 201.0),
                                    ("tiny", 1e-320), ("one of many", [2.0, 0.0])],
        "one-radius": nonreal + huge + [("zero", 0.0), ("beyond", 201.0), ("list", [2.0])],
        "samples": nonreal + huge + [("one", 1), ("half", 2.5), ("one of many", [20, 1])],
        "one-sample": nonreal + huge + [("one", 1), ("half", 2.5), ("list", [20])],
        "wins": nonreal + huge + [("negative", -1.0), ("too many", 20.0)],
        "count": nonreal + huge + [("negative", -1), ("half", 0.5), ("array", [1, 2]),
                                   ("list", [1])],
        "size": nonreal + huge + [("zero", 0), ("negative", -1), ("half", 1.5), ("array", [1, 2])],
        "axis": [("too far", 5), ("float", 0.5), ("tuple", (0,))],
        "rng": [("negative", -1), ("float", 0.5), ("truth value", True), ("module", np.random),
                ("old state", np.random.RandomState)],
        "bandit": [("class", Bandit), ("array", PI0), ("data", DATA)],
        "data": [("class", Comparisons), ("counts", DATA.counts), ("bandit", BANDIT)],
        "rule": [("array", DESIGN), ("no design", lambda data, t: None),
                 ("short", lambda data, t: DESIGN[1:]), ("nan", lambda data, t: DESIGN * np.nan),
                 ("too much", lambda data, t: 3 * DESIGN),
                 ("other replicates", lambda data, t: np.tile(DESIGN, (7, 1))),
                 ("more replicates", lambda data, t: np.tile(DESIGN, (7, 2, 1)))],
        "word": [("other", "sideways"), ("list", ["bad"]), ("number", 3), ("array", np.ones(2))],
        "replicates": [("negative", -1), ("half", 0.5), ("inside", (2, -1)), ("text", "2"),
                       ("texts", ("2",))],
    }
    reals["optional-positive"] = reals["scalar-positive"]
    return reals[kind]


@pytest.mark.parametrize("name, argument", ARGUMENTS)
def test_a_broken_argument_is_refused(name, argument):
    kind, valid = CALLS[name][argument]
    for label, broken in broken_versions(kind, valid):
        if (name, argument, label) in UNBROKEN:
            continue
        try:
            with pytest.raises(ValueError, match=r"\w+"):
                call(name, **{argument: broken})
        except pytest.fail.Exception as failure:
            raise AssertionError(f"{name}({argument}: {label}) was accepted") from failure
        except Exception as error:
            raise AssertionError(f"{name}({argument}: {label}): {error!r}") from error


# Broken for most functions, but meaningful for these: nothing there fixes the number of features.
UNBROKEN = {
    ("feature_mean", "phi", "one more column"), ("feature_covariance", "phi", "one more column"),
    ("Comparisons", "z", "one more column"), ("pair_features", "pairs", "no rows"),
    ("expected_features", "phi", "one more column"),
    ("comparison_covariance", "phi", "one more column"),
    ("design_covariance", "z", "one more column"),
    ("reward_class_coverage", "phi", "one more column"),
    # The fallback policy may know more prompts and actions than the log.
    ("logged_policy", "pi0", "one action more"), ("logged_policy", "pi0", "one context more"),
    ("feature_widths", "phi", "one more context"),
}


# -- the message names the hypothesis and the entry ----------------------------------------------

MESSAGES = [
    ("gibbs_policy", "beta", 0.0, r"beta must be positive: got 0\.0"),
    ("gibbs_policy", "beta", -2.0, r"beta must be positive: got -2\.0"),
    ("gibbs_policy", "beta", np.nan, r"beta must be finite: the value has nan"),
    ("gibbs_policy", "beta", [1.0, 0.0], r"beta must be positive: replicate 1 has 0\.0"),
    ("gibbs_policy", "reward", with_entry(REWARD, (2, 0), np.nan),
     r"reward must be finite: context 2, action 0 has nan"),
    ("gibbs_policy", "reward", with_entry(REWARD, (1, 3), np.inf),
     r"reward must be finite: context 1, action 3 has inf"),
    ("gibbs_policy", "reward", with_entry(np.stack([REWARD] * 2), (1, 2, 0), -np.inf),
     r"reward must be finite: replicate 1, context 2, action 0 has -inf"),
    ("gibbs_policy", "reward", with_entry(np.zeros((5, 6, S, K)), (4, 5, 2, 0), np.nan),
     r"reward must be finite: replicate \(4, 5\), context 2, action 0 has nan"),
    ("gibbs_policy", "reward", with_entry(REWARD, (2, 1), 1e308),
     r"reward must be at most 1e\+50 in size: context 2, action 1"),
    ("gibbs_policy", "pi0", with_entry(np.full((S, K), 1 / 3), (slice(None), 0), 0.0),
     r"pi0 must have full support: context 0, action 0 has probability 0"),
    ("gibbs_policy", "pi0", np.full((S, K + 1), 0.2), r"reward and pi0 must agree.*\(3, 4\)"),
    ("value", "policy", with_entry(PI0, 1, 0.5),
     r"policy must sum to one: context 1 sums to 2\.0"),
    ("value", "policy", with_entry(np.stack([PI0] * 3), (2, 1), 0.5),
     r"policy must sum to one: replicate 2, context 1 sums to 2\.0"),
    ("value", "policy", with_entry(PI0, (2, 0), -0.5),
     r"policy must be nonnegative: context 2, action 0 has probability -0\.5"),
    ("value", "d0", [0.5, 0.5, 0.5], r"d0 must sum to one: the distribution sums to 1\.5"),
    ("value", "d0", [0.5, 0.5], r"d0 must have one entry per context: 2 entries, 3 contexts"),
    ("value", "d0", [1.5, -0.5, 0.0], r"d0 must be nonnegative: context 1 has probability -0\.5"),
    ("value", "reward", np.zeros((2, S, K)), None),
    ("value", "beta", [0.5, 0.5, 0.5], None),
    ("Bandit", "theta", [3.0, 0.0],
     r"theta must lie in the ball of radius B: norm 3\.0 > B = 2\.0"),
    ("Bandit", "B", 0.0, r"B must be positive: got 0\.0"),
    ("Bandit", "B", -1.0, r"B must be positive: got -1\.0"),
    ("Bandit", "phi", with_entry(BANDIT.phi, (2, 0, 1), np.nan),
     r"phi must be finite: context 2, action 0, feature 1 has nan"),
    ("Bandit", "phi", BANDIT.phi[:2], r"phi and pi0 must agree in contexts and actions"),
    ("Bandit", "theta", [1.0, 0.0, 0.0], r"theta and phi must agree in features"),
    ("Bandit", "beta", [0.5, 0.5], r"beta must be a single number: got shape \(2,\)"),
    ("sample_comparisons", "n", -1, r"n must be nonnegative: got -1"),
    ("sample_comparisons", "n", 2.5, r"n must be a whole number: got 2\.5"),
    ("sample_comparisons", "n", 10**16, r"n must be at most 1e\+15"),
    ("sample_comparisons", "design", DESIGN[1:], r"design must have one probability per pair"),
    ("sample_comparisons", "design", with_entry(DESIGN, 5, -0.1),
     r"design must be nonnegative: pair 5 has -0\.1"),
    ("sample_comparisons", "design", 2 * DESIGN / DESIGN.sum(),
     r"design must not sum to more than one: it sums to [12]\."),
    ("sample_comparisons", "rng", None, r"rng must be a numpy.random.Generator or a seed"),
    ("sample_adaptive", "rule", lambda data, t: DESIGN * np.nan,
     r"the design of round 0 must be finite: .*pair 0 has nan"),
    ("score_bound_fixed", "delta", 0.0, r"delta must lie strictly between 0 and 1: got 0\.0"),
    ("score_bound_fixed", "delta", 1.0, r"delta must lie strictly between 0 and 1: got 1\.0"),
    ("score_bound_adaptive", "delta", 1.5, r"delta must lie strictly between 0 and 1: got 1\.5"),
    ("score_bound_adaptive", "reg", 0.0, r"reg must be positive for an adaptive design"),
    ("design_matrix", "reg", -0.1, r"reg must be nonnegative: got -0\.1"),
    ("fit_mle", "B", 0.0, r"B must be positive: got 0\.0"),
    ("fit_mle", "data", DATA.counts, r"data must be Comparisons: got ndarray"),
    ("score", "theta", [1.0], r"theta must have 2 features: got shape \(1,\)"),
    ("frank_wolfe_gap", "theta", [3.0, 0.0], r"theta must lie in the ball of radius B"),
    ("Comparisons", "wins", DATA.counts + 1, r"wins must lie between 0 and counts: pair 0 has"),
    ("Comparisons", "counts", with_entry(DATA.counts, 4, -2.0),
     r"counts must be whole numbers.*: pair 4 has .* in -2\.0"),
    ("Comparisons", "pairs", PAIRS[:, [0, 2, 1]], r"each pair must be \(x, a1, a2\).*row 0"),
    ("pair_features", "pairs", [[0, 0, 1], [3, 0, 1]], r"pairs must name existing contexts: row 1"),
    ("pair_features", "pairs", [[0, 0, 4]], r"pairs must name existing actions: row 0"),
    ("mixture_policy", "c", 1.5, r"c must lie in \[0, 1\]: got 1\.5"),
    ("kl_divergence_from_logs", "log_p", np.log(POLICY) + 0.5, r"log_p must"),
    ("confidence_radius", "gamma", 0.3, r"gamma must be at most 1/4: got 0\.3"),
    ("confidence_radius", "form", "best", r"form must be 'sharp' or 'usual': got 'best'"),
    ("Bandit.running_example", "hidden", "ugly", r"hidden must be 'bad' or 'good': got 'ugly'"),
    ("parameter_error", "V", [[1.0, 2.0], [0.0, 1.0]], r"V must be symmetric"),
    ("inverse_norm", "V", [[1.0, 0.0], [0.0, -1.0]], r"V must be positive semidefinite"),
    ("inverse_norm", "V", [[1.0, 0.0], [0.0, 0.0]], r"direction must lie in the span of the data"),
    ("coverage_design", "bandit", None, r"bandit must be a Bandit: got NoneType"),
    ("all_pairs", "K", 1, r"K must be at least 2: got 1"),
]


@pytest.mark.parametrize("name, argument, value, message", MESSAGES)
def test_the_message_names_the_hypothesis_and_the_entry(name, argument, value, message):
    if message is None:  # leading axes are replicates: not an error
        assert_sane(name, call(name, **{argument: value}))
        return
    with pytest.raises(ValueError, match=message):
        call(name, **{argument: value})


def test_replicates_that_do_not_broadcast_are_named():
    with pytest.raises(ValueError, match=r"leading axes of .*beta.* must broadcast"):
        klrlhf.gibbs_policy(np.zeros((2, S, K)), np.ones(3), PI0)
    with pytest.raises(ValueError, match=r"leading axes of .*beta.* must broadcast"):
        klrlhf.value(np.stack([POLICY] * 2), REWARD, np.ones(3), PI0, D0)
    with pytest.raises(ValueError, match=r"leading axes of .*d0.* must broadcast"):
        klrlhf.optimal_value(np.zeros((2, S, K)), 1.0, PI0, np.full((3, S), 1 / S))
    with pytest.raises(ValueError, match=r"leading axes of .*delta.* must broadcast"):
        klrlhf.score_bound_fixed(DATA + Comparisons.empty(BANDIT, (2,)), 0.1, np.full(3, 0.05))
    with pytest.raises(ValueError, match=r"leading axes of .*theta.* must broadcast"):
        klrlhf.score(np.zeros((3, D)), DATA + Comparisons.empty(BANDIT, (2,)))


# -- hypothesis tries to get a NaN ---------------------------------------------------------------

scalars = st.one_of(
    st.floats(), st.integers(-3, 5), st.booleans(), st.none(), st.text(max_size=2),
    st.complex_numbers(), st.sampled_from([0.0, -0.0, 1e-320, 1e-300, 1e-50, 1e50, 1e308, 1.0]))
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
reals = st.one_of(
    st.floats(), st.floats(-1, 1), st.sampled_from([0.0, 1.0, 1e-300, 1e300, 1e50, np.nan, np.inf]))


@st.composite
def arrays(draw):
    shape = draw(st.one_of(shapes, st.sampled_from([(S, K), (S,), (D,), (T,), (S, K, D), (T, D),
                                                    (D, D), (2, S, K), (1, S, K), (T, 3)])))
    values = draw(st.lists(reals, min_size=1, max_size=6))
    array = np.resize(np.array(values, dtype=float), shape)
    if draw(st.booleans()) and array.size:
        # Make many of them distributions, so that the search gets past the first check.
        with np.errstate(all="ignore"):
            array = np.abs(array) / np.abs(array).sum(axis=-1, keepdims=True)
    return array


def nudged(valid):
    """A valid array with a few entries replaced: broken in one place only."""
    if not isinstance(valid, (np.ndarray, float, int, list)) or isinstance(valid, bool):
        return st.nothing()
    array = np.asarray(valid, dtype=float)

    def replace(changes):
        broken = array.copy()
        for position, value in changes:
            if broken.size:
                broken.flat[position % broken.size] = value
        return broken

    return st.lists(st.tuples(st.integers(0, 50), reals), max_size=3).map(replace)


def anything(kind, valid):
    return st.one_of(scalars, arrays(), st.lists(scalars, max_size=3), nudged(valid),
                     st.just(valid))


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=EXAMPLES)
@given(choice=st.data())
def test_anything_gives_a_value_error_or_sane_numbers(name, choice):
    spec = CALLS[name]
    which = choice.draw(st.lists(st.sampled_from(sorted(spec)), min_size=1, max_size=2,
                                 unique=True))
    changes = {argument: choice.draw(anything(*spec[argument]), label=argument)
               for argument in which if spec[argument][0] not in ("rule", "rounds")}
    try:
        result = call(name, **changes)
    except (ValueError, klrlhf.ConvergenceError):
        return
    assert_sane(name, result)


# -- valid extremes give finite numbers ----------------------------------------------------------

sizes = st.sampled_from([1e-50, 1e-12, 1e-6, 1e-3, 1.0, 1e3, 1e6, 1e12, 1e50])


@st.composite
def laws(draw, full_support=True):
    logs = draw(st.lists(st.sampled_from([0.0, -1.0, -3.0, -36.0, -690.0]), min_size=K, max_size=K))
    weight = np.exp(np.array(logs))
    if not full_support:
        alive = np.array(draw(st.lists(st.booleans(), min_size=K, max_size=K)))
        weight = np.where(alive, weight, 0.0) if alive.any() else weight
    return weight / weight.sum()


@st.composite
def instances(draw):
    pi0 = np.array([draw(laws()) for _ in range(S)])
    policy = np.array([draw(laws(full_support=False)) for _ in range(S)])
    unit = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]) | st.floats(-1, 1)
    reward = draw(sizes) * np.array(draw(st.lists(unit, min_size=S * K, max_size=S * K)))
    hat = draw(sizes) * np.array(draw(st.lists(unit, min_size=S * K, max_size=S * K)))
    d0 = np.array(draw(st.sampled_from([[1.0, 0, 0], [1 / 3] * 3, [1 - 1e-16, 1e-16, 0.0]])))
    reward, hat = (np.clip(r, -1e50, 1e50).reshape(S, K) for r in (reward, hat))
    return {"pi0": pi0, "policy": policy, "reward": reward, "reward_hat": hat, "f": reward,
            "d0": d0 / d0.sum(), "beta": draw(sizes), "p": policy, "q": pi0, "first": policy,
            "second": pi0, "mu1": policy, "mu2": pi0, "mu": pi0, "c": draw(st.floats(0, 1)),
            "n": draw(st.sampled_from([1, 2, 10**9, 10**15])),
            "kl": draw(st.sampled_from([0.0, 1e-300, 1e-9, 0.1, 5.0, 1e3, 1e50])),
            "inverse_temperatures": [0.0, draw(sizes)]}


ON_INSTANCES = [name for name, spec in CALLS.items()
                if "." not in name and name != "Bandit"
                and {"reward", "policy", "p", "first", "mu1"} & set(spec) and "phi" not in spec]


@pytest.mark.parametrize("name", ON_INSTANCES)
@settings(max_examples=EXAMPLES // 2)
@given(instance=instances())
def test_extreme_instances_give_finite_numbers(name, instance):
    result = call(name, **{key: value for key, value in instance.items() if key in CALLS[name]})
    assert_sane(name, result)
    if name in ("gibbs_policy", "greedy_policy", "best_of_n_policy", "mixture_policy"):
        assert (result >= 0).all()
        assert np.abs(result.sum(axis=-1) - 1).max() < 1e-12
    if name in ("suboptimality", "plug_in_suboptimality", "kl_divergence", "expected_kl",
                "chi2_divergence", "variance", "kl_max"):
        assert (result >= 0).all()


@settings(max_examples=EXAMPLES)
@given(size=sizes, B=st.sampled_from([1e-50, 1e-6, 0.5, 2.0, 10.0]),
       n=st.sampled_from([0, 1, 2, 100, 10**9]), seed=st.integers(0, 5),
       kind=st.sampled_from(["sampled", "separable", "equal features", "one pair", "ties"]))
def test_extreme_data_give_certified_fits(size, B, n, seed, kind):
    """Features of any size, with B in units of them: LB up to 10 or so always fits."""
    size = min(max(size, 1e-49), 1e49)
    z = np.zeros_like(Z) if kind == "equal features" else Z * size
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, np.eye(T)[0] if kind == "one pair" else np.full(T, 1 / T))
    wins = {"separable": np.where(z @ THETA > 0, counts, 0), "ties": counts / 2}.get(
        kind, rng.binomial(counts, 0.5))
    data = Comparisons(PAIRS, z, counts, wins)
    radius = min(max(B / size, 1e-50), 1e50)
    fit = klrlhf.fit_mle(data, radius)
    assert_sane("fit_mle", fit)
    assert fit.converged
    assert np.linalg.norm(fit.theta) <= radius * (1 + 1e-9)
    assert_sane("score", klrlhf.score(fit.theta, data))
    assert_sane("hessian", klrlhf.hessian(fit.theta, data))
    assert_sane("mle_exists", klrlhf.mle_exists(data))
    for reg in (0.0, 1e-50, 0.01, 1e6):
        assert_sane("design_matrix", klrlhf.design_matrix(data, reg))
        assert_sane("score_bound_fixed", klrlhf.score_bound_fixed(data, reg, 1e-300))
        if reg > 0:
            assert_sane("score_norm", klrlhf.score_norm(data, fit.theta, reg))
            for form in ("determinant", "explicit"):
                assert_sane("", klrlhf.score_bound_adaptive(data, reg, 0.05, form))


# -- coverage and offline learning at extremes ---------------------------------------------------

radii = st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 1e3, 1e6])
floors = st.sampled_from([0.0, -1.0, -3.0, -36.0])


@st.composite
def logs_and_estimates(draw, d=D):
    """An instance with features of any size, an estimate, a matrix and a radius in its units."""
    size, beta = draw(sizes), draw(sizes)
    size, beta = (min(max(v, 1e-12), 1e12) for v in (size, beta))
    rng = np.random.default_rng(draw(st.integers(0, 30)))
    weight = np.exp(np.array(draw(st.lists(floors, min_size=S * K, max_size=S * K))))
    weight = weight.reshape(S, K)
    d0 = np.array(draw(st.sampled_from([[1.0, 0, 0], [1 / 3] * 3, [1 - 1e-16, 1e-16, 0.0]])))
    shape = draw(st.sampled_from(["any", "grid", "equal", "one answer differs"]))
    phi = {"any": rng.standard_normal((S, K, d)),
           "grid": rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], size=(S, K, d)),
           "equal": np.tile(rng.standard_normal((S, 1, d)), (1, K, 1)),
           "one answer differs": np.where(np.arange(K)[:, None] == 0, 1.0, 0.0)
           * np.ones((S, 1, d))}[shape]
    bandit = Bandit(d0 / d0.sum(), weight / weight.sum(axis=1, keepdims=True), size * phi,
                    np.zeros(d), beta, B=1.0)
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    values = np.array([draw(st.sampled_from([1e-3, 1.0, 1e3])) for _ in range(d)])
    V = (turn * values) @ turn.T
    V = draw(st.sampled_from([1e-3, 1.0, 1e6])) * size**2 * (V + V.T) / 2
    theta_hat = draw(radii) * beta / size * rng.standard_normal(d)
    policy = rng.dirichlet(np.ones(K), size=S)
    nu = {"reference": klrlhf.reference_mean(bandit), "zero": np.zeros(d),
          "a policy": klrlhf.expected_features(policy, bandit.phi, bandit.d0),
          "far": 3 * size * rng.standard_normal(d)}[
              draw(st.sampled_from(["reference", "zero", "a policy", "far"]))]
    return bandit, theta_hat, V, draw(radii) * beta, nu


def assert_policy(policy):
    assert (policy >= 0).all()
    assert np.abs(policy.sum(axis=-1) - 1).max() < 1e-12


@settings(max_examples=2 * EXAMPLES)
@given(case=logs_and_estimates())
def test_extreme_estimates_give_certified_policies(case):
    bandit, theta_hat, V, rho, nu = case
    beta = bandit.beta
    made = klrlhf.pessimistic_expected(bandit, theta_hat, V, rho, nu)
    assert_sane("pessimistic_expected", made)
    assert_policy(made.policy)
    assert made.duality_gap >= 0
    # no policy, the reference included, beats it by more than rounding in the objective's terms
    scale = (1 + np.abs(np.log(bandit.pi0)).max()) * beta + np.abs(bandit.phi).max() * (
        10 * np.abs(theta_hat).max() + 10 * rho / np.sqrt(np.linalg.eigvalsh(V)[0]))
    scale += np.abs(nu @ theta_hat) + rho * float(klrlhf.inverse_norm(nu, V))
    for policy in (bandit.pi0, klrlhf.plug_in(bandit, theta_hat)):
        off = klrlhf.expected_features(policy, bandit.phi, bandit.d0) - nu
        worth = off @ theta_hat - rho * klrlhf.inverse_norm(off, V) - beta * bandit.kl(policy)
        assert worth <= made.objective + 1e-7 * scale
    second = klrlhf.pessimistic_pointwise(bandit, theta_hat, V, rho,
                                          klrlhf.reference_means(bandit))
    assert_sane("pessimistic_pointwise", second)
    assert_policy(second.policy)
    assert (second.penalty >= 0).all()
    made = klrlhf.certificate(bandit, theta_hat, V, rho)
    assert_sane("certificate", made)
    assert 0 <= made.value <= made.upper
    chain = klrlhf.plug_in_bounds(bandit, theta_hat, V, rho)
    assert_sane("plug_in_bounds", chain)
    small = 1e-13 * beta
    assert chain.certificate <= chain.h * (1 + 1e-9) + small
    assert chain.h <= min(chain.fast, chain.linear) * (1 + 1e-9) + small
    bounds = klrlhf.pessimistic_expected_bounds(bandit, V, rho, nu)
    assert_sane("pessimistic_expected_bounds", bounds)
    assert bounds.h <= bounds.fast * (1 + 1e-9) + small
    assert_sane("", klrlhf.pessimistic_pointwise_bounds(bandit, V, rho,
                                                        klrlhf.reference_means(bandit)))


@settings(max_examples=EXAMPLES)
@given(case=logs_and_estimates(), other=st.integers(0, 9))
def test_extreme_logs_give_finite_coverage(case, other):
    bandit, _, V, _, nu = case
    policy = np.random.default_rng(other).dirichlet(np.ones(K), size=S)
    phi, d0 = bandit.phi, bandit.d0
    for coefficient in (
            klrlhf.coverage_coefficient(policy, nu, phi, d0, V, 1e15),
            klrlhf.pointwise_coverage(policy, klrlhf.reference_means(bandit), phi, d0, V, 1e15),
            klrlhf.feature_widths(phi, V), klrlhf.concentrability(policy, bandit.pi0, d0),
            klrlhf.chi_squared_coverage(policy, bandit.pi0, d0)):
        assert np.isfinite(coefficient).all() and (coefficient >= 0).all()
    Sigma = klrlhf.comparison_covariance(bandit.pi0, phi, d0)
    assert_sane("comparison_covariance", Sigma)
    try:  # a log from pi0 may leave out directions: then C is infinite and refused
        C = klrlhf.coverage_coefficient(policy, klrlhf.reference_mean(bandit), phi, d0, Sigma)
    except ValueError as error:
        assert "span of the data" in str(error)
    else:
        chi2 = klrlhf.chi_squared_coverage(policy, bandit.pi0, d0)
        assert 0 <= C <= chi2 / 2 * (1 + 1e-3)
    for centre in ("mean", "midrange", "none"):
        try:
            D2 = klrlhf.reward_class_coverage(phi, bandit.pi0, d0, centre)
        except ValueError as error:
            assert "span of the data" in str(error)
        else:
            assert np.isfinite(D2) and D2 >= 0
