"""Bad input to the functions of Part V: the table of ``test_bad_input`` for the later modules.

Every public function of ``direct``, ``sampling``, ``mirror``, ``over_optimization``, ``sequences``
and ``games`` is called with each argument broken in turn; it must raise a ``ValueError`` or give
numbers, and never warn.
"""

import dataclasses
import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import klrlhf
from klrlhf import direct, games, mirror, over_optimization, sampling, sequences
from test_bad_input import (
    BANDIT,
    BANDIT_ARG,
    BETA,
    D0_ARG,
    DATA,
    DESIGN,
    EXAMPLES,
    JUNK,
    MEANINGFUL,
    NUS,
    PAIRS,
    PI0,
    PI0_ARG,
    POLICY,
    POLICY_ARG,
    REWARD,
    REWARD_ARG,
    THETA,
    K,
    S,
    V,
    anything,
    broken_versions,
    every_number,
    with_entry,
)

pytestmark = pytest.mark.filterwarnings("error")
MODULES = {"direct": direct, "sampling": sampling, "mirror": mirror, "games": games,
           "over_optimization": over_optimization, "sequences": sequences}

LOG_POLICY = ("log-policy", np.log(POLICY))
DATA_ARG, RNG_ARG, SCALAR_BETA = ("data", DATA), ("rng", 1), ("scalar-positive", 0.5)
TILT = {"reward": REWARD_ARG, "beta": BETA, "pi0": PI0_ARG}
ONE_TILT = {"reward": REWARD_ARG, "beta": SCALAR_BETA, "pi0": PI0_ARG}
ETA, STEPS, SIZE = ("positive", 0.5), ("count", 3), ("size", 3)
TAU = ("positive", 0.7)
PREFERENCES = ("preferences", games.bradley_terry_preferences(REWARD))
GAME = {"P": PREFERENCES, "beta": BETA, "pi0": PI0_ARG}
PROBABILITY = ("acceptance", 0.2)
PATH = ("path", np.array([0.0, 0.5, 2.0]))
GOLD = {"reward": REWARD_ARG, "reward_hat": ("reward", REWARD[:, ::-1].copy()),
        "pi0": PI0_ARG, "d0": D0_ARG}
ESTIMATE = {"bandit": BANDIT_ARG, "theta_hat": ("theta", THETA), "V": ("matrix", V),
            "rho": ("nonnegative", 2.0)}
MODEL = sequences.songs_model(horizon=2)
LOG_TOKENS = ("real", MODEL.log_tokens)
RESPONSES = np.log(sequences.sequence_policy(MODEL.log_tokens))
W = MODEL.log_tokens.shape[-1] - 1
LAMBDAS = ("nonnegative", [0.0, 2.0])

CALLS = {
    "direct": {
        "implicit_reward": {"log_policy": LOG_POLICY, "pi0": PI0_ARG, "beta": BETA},
        "log_ratio_margin": {"log_policy": LOG_POLICY, "pi0": PI0_ARG, "pairs": ("pairs", PAIRS),
                             "beta": BETA},
        "dpo_loss": {"log_policy": LOG_POLICY, "pi0": PI0_ARG, "data": DATA_ARG, "beta": BETA},
        "dpo_weights": {"log_policy": LOG_POLICY, "pi0": PI0_ARG, "data": DATA_ARG, "beta": BETA},
        "dpo_gradient": {"log_policy": LOG_POLICY, "pi0": PI0_ARG, "data": DATA_ARG, "beta": BETA},
        "pessimistic_shift": {"bandit": BANDIT_ARG, "V": ("matrix", V), "rho": ("nonnegative", 2.0),
                              "nu": ("per-prompt", NUS)},
        "fit_dpo": {"bandit": BANDIT_ARG, "data": DATA_ARG},
        "fit_pessimistic_dpo": {"bandit": BANDIT_ARG, "data": DATA_ARG, "V": ("matrix", V),
                                "rho": ("nonnegative", 2.0), "nu": ("per-prompt", NUS)},
        "gradient_step_size": {"data": DATA_ARG, "beta": SCALAR_BETA},
        "fit_dpo_softmax": {"data": DATA_ARG, "pi0": PI0_ARG, "beta": SCALAR_BETA,
                            "steps": ("sequence", [0, 3]), "step_size": ("optional-positive", 0.01)},
        "iterative_dpo": {"bandit": BANDIT_ARG, "rounds": ("rounds", 2), "batch": ("rounds", 5),
                          "rng": RNG_ARG, "reg": ("scalar-positive", 0.5),
                          "delta": ("one-level", 0.05)},
        "inexact_enhancer": {**ESTIMATE, "played": POLICY_ARG},
        "dpo_steps": {"theta": ("theta", THETA), "data": DATA_ARG, "B": ("scalar-positive", 2.0),
                      "steps": STEPS},
        "released_recipe": {"bandit": BANDIT_ARG, "iterations": ("rounds", 2),
                            "batch": ("rounds", 20), "rng": RNG_ARG, "draws": ("rounds", 3)},
        "best_and_worst": {"policy": POLICY_ARG, "score": REWARD_ARG, "d0": D0_ARG,
                           "draws": ("rounds", 3), "batch": ("rounds", 20), "rng": RNG_ARG},
        "ipo_loss": {"log_policy": LOG_POLICY, "pi0": PI0_ARG, "data": DATA_ARG, "tau": TAU},
        "ipo_gradient": {"log_policy": LOG_POLICY, "pi0": PI0_ARG, "data": DATA_ARG, "tau": TAU},
        "ipo_targets": {"data": DATA_ARG, "tau": TAU},
        "fit_ipo": {"data": DATA_ARG, "pi0": PI0_ARG, "tau": TAU},
        "ipo_limit": {"reward": REWARD_ARG, "pi0": PI0_ARG, "tau": TAU, "design": ("design", DESIGN)},
        "surviving_actions": {"data": DATA_ARG, "S": ("size", S), "K": ("size", K)},
        "dpo_limit": {"data": DATA_ARG, "pi0": PI0_ARG, "beta": BETA},
        "vanishing_log_ratio": {"excess": ("positive", 0.1), "wins": ("positive", 3.0),
                                "beta": BETA},
        "unanimous_margins": {"steps": STEPS, "kappa": ("positive", 0.5)},
        "unanimous_margin_bounds": {"t": ("nonnegative", 3.0), "kappa": ("positive", 0.5)},
        "displacement_slopes": {"phi": ("one-phi", BANDIT.phi[0]), "policy": ("law", POLICY[0]),
                                "chosen": ("count", 0), "rejected": ("count", 1)},
        "displaced_policies": {"phi": ("one-phi", BANDIT.phi[0]),
                               "log_policy": ("log-law", np.log(POLICY[0])),
                               "chosen": ("count", 0), "rejected": ("count", 1),
                               "s": ("nonnegative", 0.3)},
    },
    "sampling": {
        "total_variation": {"p": POLICY_ARG, "q": ("policy", PI0)},
        "span_total_variation": {"span": ("nonnegative", 1.0)},
        "log_acceptance_probability": TILT,
        "acceptance_probability": TILT,
        "rejection_sample": {**ONE_TILT, "rng": RNG_ARG, "size": SIZE},
        "estimated_maximum_law": {**TILT, "maximum": ("maximum", np.zeros(S))},
        "fresh_maximum_law": {**TILT, "n": ("size", 4)},
        "fresh_maximum_error": {**TILT, "n": ("size", 4)},
        "fresh_maximum_bound": {"p": PROBABILITY, "n": ("positive", 4.0)},
        "reused_maximum_law": {**TILT, "n": ("size", 4)},
        "reused_maximum_bound": {"p": PROBABILITY, "n": ("positive", 4.0),
                                 "span": ("nonnegative", 3.0)},
        "rso_sample": {**ONE_TILT, "rng": RNG_ARG, "n": ("size", 6), "size": ("size", 2)},
        "rso_policy": {**ONE_TILT, "rng": RNG_ARG, "n": ("size", 6), "size": ("size", 2),
                       "runs": ("size", 3)},
        "rso_bound": {"p": PROBABILITY, "n": ("size", 50)},
        "level_acceptances": {"reward": REWARD_ARG, "pi0": PI0_ARG, "path": PATH},
        "multistep_path": {**TILT, "N": SIZE},
        "sampled_path": {"reward": ("vector", REWARD[0]), "beta": SCALAR_BETA,
                         "pi0": ("law", PI0[0]), "rng": RNG_ARG, "draws": ("size", 10)},
        "multistep_cost": {"p": PROBABILITY, "N": ("positive", 3.0)},
        "optimal_levels": {"p": PROBABILITY},
        "multistep_rejection_sample": {"reward": REWARD_ARG, "pi0": PI0_ARG, "path": PATH,
                                       "rng": RNG_ARG, "size": SIZE},
        "amplified_error": {"errors": ("nonnegative", [0.1, 0.2]),
                            "acceptances": ("acceptance", [0.3, 0.4])},
        "best_of_n_bounds": {"n": ("whole", 4)},
        "best_of_n_cell_gap": {"n": ("size", 4), "ratio": ("share", 0.3)},
        "best_of_n_kl": {"reward": REWARD_ARG, "pi0": PI0_ARG, "n": ("size", 4)},
        "best_of_n_kl_gap": {"reward": REWARD_ARG, "pi0": PI0_ARG, "n": ("size", 4)},
        "best_of_n_kl_from_top": {"n": ("size", 4), "mass": ("acceptance", 0.2)},
        "best_of_n_kl_estimate": {"n": ("size", 4), "mass": ("acceptance", 0.2)},
        "best_of_n_win_rate": {"reward": REWARD_ARG, "pi0": PI0_ARG, "n": ("size", 4)},
        "win_rate": {"policy": POLICY_ARG, "reward": REWARD_ARG, "pi0": PI0_ARG},
        "best_of_n_frontier_gap": {"reward": REWARD_ARG, "pi0": PI0_ARG, "d0": D0_ARG,
                                   "n": ("size", 4)},
        "best_of_n_proxy_loss": {"proxy": ("reward", REWARD[::-1].copy()), "reward": REWARD_ARG,
                                 "pi0": PI0_ARG, "n": ("size", 4), "p": PROBABILITY},
        "best_of_n_worst_frontier_gap": {"n": ("size", 4)},
        "largest_probability": {"kl": ("nonnegative", 0.3), "mass": ("acceptance", 0.2)},
        "rso_single_policy": {**TILT, "n": ("size", 4)},
        "win_rate_frontier": {"kl": ("nonnegative", 0.3)},
        "win_rate_frontier_bound": {"kl": ("nonnegative", 0.3)},
    },
    "mirror": {
        "mirror_step": {"log_policy": LOG_POLICY, **TILT, "eta": ETA},
        "mirror_descent": {**TILT, "eta": ETA, "steps": STEPS},
        "mirror_path": {**TILT, "factor": ("share", 0.5)},
        "mirror_factor": {"eta": ETA, "beta": BETA},
        "effective_beta": {"eta": ETA, "beta": BETA, "k": ("positive", 3)},
        "mirror_bound": {"span": ("spans", np.ones(S)), "beta": BETA, "d0": D0_ARG,
                         "factor": ("share", 0.5)},
        "mirror_steps": {"gap": ("scalar-positive", 0.1), "eta": ("scalar-positive", 0.5),
                         "beta": SCALAR_BETA, "span": ("scalar-nonnegative", 1.0)},
        "log_suboptimality": {"log_policy": LOG_POLICY, **TILT, "d0": D0_ARG},
        "natural_policy_gradient": {**TILT, "eta": ETA, "steps": STEPS},
        "policy_gradient": {**TILT, "d0": D0_ARG, "eta": ETA, "steps": STEPS},
        "policy_gradient_smoothness": {**TILT, "d0": D0_ARG},
        "policy_gradient_bound": {**TILT, "d0": D0_ARG, "eta": ("positive", 0.05),
                                  "k": ("nonnegative", 3)},
        "plateau_steps": {"eta": ("scalar-positive", 0.5), "gap": ("scalar-positive", 0.5),
                          "p": ("one-acceptance", 0.01)},
        "clipped_surrogate": {"policy": POLICY_ARG, "log_policy": LOG_POLICY, **TILT,
                              "clip_epsilon": ("one-level", 0.2)},
        "clipped_update": {"log_policy": LOG_POLICY, **TILT, "clip_epsilon": ("one-level", 0.2)},
        "clipped_gradient_steps": {"log_policy": LOG_POLICY, **TILT,
                                   "clip_epsilon": ("one-level", 0.2), "eta": ETA,
                                   "epochs": STEPS},
    },
    "over_optimization": {
        "over_optimization_curve": {"inverse_temperatures": LAMBDAS, **GOLD},
        "gold_derivative": {"inverse_temperatures": LAMBDAS, **GOLD},
        "gold_at_budget": {"kl": ("nonnegative", [0.0, 0.1]), **GOLD},
        "covariance_sign_changes": GOLD,
        "gold_start": GOLD,
        "gold_by_proxy": {k: v for k, v in GOLD.items() if k != "d0"},
        "best_of_n_curve": {"ns": ("wholes", [1, 4]), **GOLD},
        "fit_form": {"d": ("distances", np.linspace(0.1, 2, 9)),
                     "gain": ("distances", np.linspace(0.1, 2, 9)), "form": ("word", "linear")},
        "proxy_error_bound": {"kl": ("nonnegative", 0.3), "ranges": ("spans", np.ones(S)),
                              "d0": D0_ARG},
        "guaranteed_curve": {"inverse_temperatures": LAMBDAS, **ESTIMATE},
        "guaranteed_stopping": ESTIMATE,
        "guaranteed_stopping_bound": ESTIMATE,
    },
    "sequences": {
        "tree_sizes": {"W": SIZE, "H": SIZE}, "parents": {"W": SIZE, "H": SIZE},
        "depths": {"W": SIZE, "H": SIZE}, "tokens_spent": {"W": SIZE, "H": SIZE},
        "log_reach": {"log_tokens": LOG_TOKENS},
        "sequence_log_policy": {"log_tokens": LOG_TOKENS},
        "sequence_policy": {"log_tokens": LOG_TOKENS},
        "token_log_policy": {"log_policy": ("real", RESPONSES), "W": ("size", W)},
        "soft_values": {"reward": ("real", RESPONSES), "beta": BETA, "log_tokens": LOG_TOKENS},
        "token_gibbs": {"reward": ("real", RESPONSES), "beta": BETA, "log_tokens": LOG_TOKENS},
        "token_kl": {"log_p": LOG_TOKENS, "log_q": LOG_TOKENS},
        "path_sums": {"values": LOG_TOKENS},
        "total_reward": {"token_reward": LOG_TOKENS},
        "token_soft_values": {"token_reward": LOG_TOKENS, "beta": BETA, "log_tokens": LOG_TOKENS},
        "token_log_ratio": {"log_p": LOG_TOKENS, "log_q": LOG_TOKENS, "beta": BETA},
        "songs_bandit": {"beta": SCALAR_BETA, "horizon": ("size", 2)},
        "songs_model": {"horizon": ("size", 2), "order": ("size", 2),
                        "smoothing": ("scalar-positive", 2.0)},
    },
    "games": {
        "preference_matrix": {"P": PREFERENCES},
        "bradley_terry_preferences": {"reward": ("any-reward", REWARD)},
        "linear_preferences": {"reward": ("any-reward", REWARD), "c": ("positive", 100.0)},
        "cyclic_preferences": {"K": SIZE, "strength": ("share", 0.5)},
        "log_odds_payoff": {"P": PREFERENCES},
        "win_rates": {"P": PREFERENCES, "policy": POLICY_ARG},
        "interaction": {"P": PREFERENCES},
        "rotation": {"P": PREFERENCES, "policy": POLICY_ARG},
        "game_value": {"policy": POLICY_ARG, "opponent": POLICY_ARG, **GAME},
        "best_response": {"opponent": POLICY_ARG, **GAME},
        "log_nash_policy": GAME, "nash_policy": GAME,
        "exploitability": {"policy": POLICY_ARG, **GAME},
        "nash_kl_bound": {"beta": BETA, "largest": ("nonnegative", 0.5)},
        "self_play": {**GAME, "eta": ETA, "steps": STEPS},
        "nash_md": {**GAME, "eta": ETA, "steps": STEPS},
        "safe_step": {"P": PREFERENCES, "beta": BETA},
        "stability_threshold": GAME,
        "sample_preferences": {"P": PREFERENCES, "n": ("size", 5), "rng": RNG_ARG},
        "preferences_from_comparisons": {"data": DATA_ARG, "S": ("size", S), "K": ("size", K)},
        "preference_error_bound": {"n": ("positive", 20.0), "S": ("size", S), "K": ("size", K),
                                   "delta": ("level", 0.05)},
        "nash_estimation_bound": {"error": ("nonnegative", 0.1), "beta": BETA},
    },
}
# Result types, and functions of whole objects that their own test files break.
ELSEWHERE = {
    "selection_policy", "LanguageModel", "FEATURES", "read_songs", "split_stanzas", "fit_ngram",
    "response_features", "context_map", "shared_tokens", "fit_token_dpo", "best_shared",
    "shaped_reward", "length_normalized_policy",
}
MAY_BE_INFINITE = {"safe_step", "stability_threshold", "guaranteed_stopping",
                   "guaranteed_stopping_bound", "plateau_steps", "fresh_maximum_bound",
                   "reused_maximum_bound", "log_suboptimality", "inexact_enhancer", "mirror_bound",
                   "token_kl", "iterative_dpo", "rso_bound", "covariance_sign_changes",
                   "log_reach", "sequence_log_policy", "surviving_actions", "multistep_cost"}
NAMES = [f"{module}.{name}" for module, table in CALLS.items() for name in table]
ARGUMENTS = [(name, argument) for name in NAMES
             for argument in CALLS[name.split(".")[0]][name.split(".")[1]]]
NONREAL = [("nan", np.nan), ("inf", np.inf), ("-inf", -np.inf)]


def spec_of(name):
    module, function = name.split(".")
    return CALLS[module][function]


def call(name, **changes):
    module, function = name.split(".")
    arguments = {key: value for key, (_, value) in spec_of(name).items()} | changes
    return getattr(MODULES[module], function)(**arguments)


def arrays_of(result):
    if dataclasses.is_dataclass(result):
        result = [getattr(result, f.name) for f in dataclasses.fields(result)
                  if isinstance(getattr(result, f.name), (np.ndarray, float))]
    return every_number(result)


def broken(kind, valid):
    """Pairs (label, broken value), for the kinds of this file and of ``test_bad_input``."""
    array = np.asarray(valid) if kind not in ("bandit", "data", "rng", "word") else None
    if kind == "log-policy":
        corner = (0, 0)
        return [("nan", with_entry(array, corner, np.nan)), ("inf", with_entry(array, corner, np.inf)),
                ("unnormalized", array + 0.1), ("empty", []), ("a number", 0.0),
                ("one axis", array[0]), ("one context more", np.concatenate([array, array[:1]]))]
    if kind == "preferences":
        return [(label, with_entry(array, (0, 0, 1), v)) for label, v in NONREAL] + [
            ("not constant-sum", with_entry(array, (0, 0, 1), 0.3)), ("empty", []),
            ("a number", 0.5), ("no contexts", array[:0]), ("one axis too few", array[0]),
            ("not square", array[:, :1])]
    if kind in ("acceptance", "one-acceptance"):
        return [*NONREAL, ("zero", 0.0), ("negative", -0.1), ("above one", 1.1)]
    if kind == "path":
        return [("falling", [0.0, 2.0, 1.0]), ("not from 0", [0.5, 1.0]), ("one entry", [0.0]),
                ("nan", [0.0, np.nan]), ("negative", [0.0, -1.0])]
    if kind in ("maximum", "spans"):
        return [("nan", with_entry(array, 0, np.nan)), ("inf", with_entry(array, 0, np.inf)),
                ("shape", np.ones(7))]
    if kind == "law":
        return [("negative", with_entry(array, 0, -0.1)), ("unnormalized", 1.1 * array),
                ("nan", with_entry(array, 0, np.nan)), ("empty", []), ("a number", 1.0),
                ("one more", np.full(K + 1, 1 / (K + 1)))]
    if kind == "one-phi":
        return [("nan", with_entry(array, (0, 0), np.nan)), ("empty", []), ("a number", 1.0),
                ("one axis", array[0]), ("fewer actions", array[:-1])]
    if kind == "any-reward":
        return [(label, with_entry(array, (0, 0), v)) for label, v in NONREAL] + [
            ("empty", []), ("a number", 1.0)]
    if kind == "sequence":
        return [("falling", [3, 0]), ("negative", [-1, 3]), ("half", [0, 1.5]), ("empty", [])]
    if kind in ("whole", "wholes"):
        return [*NONREAL, ("zero", 0), ("negative", -1), ("half", 1.5)]
    if kind == "distances":
        return [("nan", with_entry(array, 0, np.nan)), ("inf", with_entry(array, 0, np.inf)),
                ("empty", []), ("a number", 1.0), ("one more", np.append(array, 1.0))]
    if kind == "real":  # an array of fixed shape
        return [("nan", with_entry(array, (0,) * array.ndim, np.nan)),
                ("inf", with_entry(array, (0,) * array.ndim, np.inf)), ("empty", []),
                ("a number", 1.0), ("one column less", array[..., :-1])]
    return broken_versions(kind, valid)


# Broken for most functions, but meaningful for these.
UNBROKEN = {
    ("sequences.path_sums", "values", "one column less"),
    ("sequences.total_reward", "token_reward", "one column less"),
    ("sequences.path_sums", "values", "inf"),  # log-probabilities may be -inf
    # Only differences of the log-policy enter: logits will do.
    ("direct.ipo_loss", "log_policy", "unnormalized"),
    ("direct.ipo_gradient", "log_policy", "unnormalized"),
    ("direct.displaced_policies", "log_policy", "unnormalized"),
    ("direct.displaced_policies", "s", "negative"),
    ("direct.displaced_policies", "s", "one of many"),
    ("direct.log_ratio_margin", "pairs", "no rows"),
    # The policy may know more actions than the log.
    ("direct.fit_dpo_softmax", "pi0", "one action more"),
    ("direct.fit_dpo_softmax", "pi0", "one context more"),
    ("direct.fit_ipo", "pi0", "one action more"), ("direct.fit_ipo", "pi0", "one context more"),
    ("direct.dpo_limit", "pi0", "one action more"),
    ("direct.dpo_limit", "pi0", "one context more"),
    ("sampling.largest_probability", "kl", "huge"),
    ("sampling.win_rate_frontier_bound", "kl", "huge"),
    ("sampling.win_rate_frontier", "kl", "huge"),
    # The factor of an explicit step may be negative; no step leaves every price possible.
    ("mirror.mirror_path", "factor", "negative"), ("mirror.mirror_bound", "factor", "negative"),
    ("mirror.mirror_path", "factor", "above one"), ("mirror.mirror_bound", "factor", "above one"),
    ("mirror.effective_beta", "k", "zero"), ("mirror.effective_beta", "k", "tiny"),
}


def test_every_public_name_is_in_the_table_or_tested_elsewhere():
    for module, table in CALLS.items():
        public = {name for name in MODULES[module].__all__
                  if inspect.isfunction(getattr(MODULES[module], name))}
        assert set(table) == public - ELSEWHERE, module


@pytest.mark.parametrize("name", NAMES)
def test_the_valid_call_gives_numbers(name):
    result = call(name)
    for array in arrays_of(result):
        assert not np.isnan(array).any()
        assert name.split(".")[1] in MAY_BE_INFINITE or np.isfinite(array).all()


@pytest.mark.parametrize("name, argument", ARGUMENTS)
def test_junk_is_refused(name, argument):
    kind = spec_of(name)[argument][0]
    for label, junk in JUNK.items():
        if (kind, label) in MEANINGFUL | {("sequence", "None")} or (kind in ("log-law", "log-policy") and label == "-inf"):
            continue
        try:
            with pytest.raises(ValueError, match=r"\w+"):
                call(name, **{argument: junk})
        except pytest.fail.Exception as failure:
            raise AssertionError(f"{name}({argument}={label}) was accepted") from failure
        except Exception as error:
            raise AssertionError(f"{name}({argument}={label}): {error!r}") from error


@pytest.mark.parametrize("name, argument", ARGUMENTS)
def test_a_broken_argument_is_refused(name, argument):
    kind, valid = spec_of(name)[argument]
    for label, value in broken(kind, valid):
        if (name, argument, label) in UNBROKEN:
            continue
        try:
            with pytest.raises(ValueError, match=r"\w+"):
                call(name, **{argument: value})
        except pytest.fail.Exception as failure:
            raise AssertionError(f"{name}({argument}: {label}) was accepted") from failure
        except Exception as error:
            raise AssertionError(f"{name}({argument}: {label}): {error!r}") from error


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=max(EXAMPLES // 3, 5))
@given(choice=st.data())
def test_anything_gives_a_value_error_or_sane_numbers(name, choice):
    spec = spec_of(name)
    which = choice.draw(st.sampled_from(sorted(spec)))
    if spec[which][0] in ("rounds", "count", "size", "whole", "wholes"):
        return  # a huge whole number is honest work, and long
    try:
        result = call(name, **{which: choice.draw(anything(*spec[which]), label=which)})
    except (ValueError, klrlhf.ConvergenceError):
        return
    for array in arrays_of(result):
        assert not np.isnan(array).any(), result
