r"""A language model small enough to enumerate, fitted to a text.

What lives here: ``LanguageModel``, the n-gram fit, the text that travels with the library, and
features of whole responses.
What does not: the token problem on plain arrays (``_tree``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.resources import files

import numpy as np

from .. import _validate as check
from ..bandit import Bandit
from ._tree import (
    _shape,
    _token_logs,
    sequence_log_policy,
    tokens_spent,
    tree_sizes,
)

__all__ = ["LanguageModel", "FEATURES", "read_songs", "split_stanzas", "fit_ngram",
           "response_features", "songs_model", "songs_bandit"]

FEATURES = ("length", "favourite", "repetition", "alliteration")


@dataclass(frozen=True, eq=False)
class LanguageModel:
    r"""An autoregressive reference :math:`\pi_0(a|s)` over W words and an end, horizon H.

    Parameters
    ----------
    words : sequence of str
        W different words.
    prompts : sequence of str
        S different prompts.
    log_tokens : array_like, shape (S, M, W + 1)
        Log-probability of each word and of the end at each open prefix; full support.

    Raises
    ------
    ValueError
        If a hypothesis is violated; the message names it and the offending entry.
    """

    words: tuple[str, ...]
    prompts: tuple[str, ...]
    log_tokens: np.ndarray
    responses: tuple[tuple[str, ...], ...] = field(init=False, repr=False)

    def __post_init__(self):
        words, prompts = _names(self.words, "words"), _names(self.prompts, "prompts")
        log_tokens = np.array(_token_logs(self.log_tokens, "log_tokens"))
        shape = (len(prompts), log_tokens.shape[-2], len(words) + 1)
        if log_tokens.shape != shape:
            raise ValueError(
                f"log_tokens must have one axis of {shape[0]} prompts and one of {shape[2]} "
                f"tokens: got shape {log_tokens.shape}"
            )
        log_tokens.setflags(write=False)
        responses = [()]
        for node in range(log_tokens.shape[-2]):
            responses += [(*responses[node], word) for word in words]
        for name, value in (("words", words), ("prompts", prompts), ("log_tokens", log_tokens),
                            ("responses", tuple(responses))):
            object.__setattr__(self, name, value)

    # -- sizes -----------------------------------------------------------------------------------

    @property
    def S(self) -> int:
        """Number of prompts."""
        return len(self.prompts)

    @property
    def W(self) -> int:
        """Number of words, the end not counted."""
        return len(self.words)

    @property
    def H(self) -> int:
        """Largest number of words in a response."""
        return _shape(self.log_tokens, "log_tokens")[1]

    @property
    def K(self) -> int:
        """Number of responses, which is the number of prefixes."""
        return len(self.responses)

    @property
    def M(self) -> int:
        """Number of open prefixes, after which a word or the end may follow."""
        return self.log_tokens.shape[-2]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each response, a free end included, shape (K,)."""
        return tokens_spent(self.W, self.H)

    # -- laws ------------------------------------------------------------------------------------

    @property
    def log_policy(self) -> np.ndarray:
        """Log-probability of every response, shape (S, K)."""
        return sequence_log_policy(self.log_tokens)

    @property
    def policy(self) -> np.ndarray:
        """The reference as an ordinary policy over responses, shape (S, K)."""
        policy = np.exp(self.log_policy)
        return policy / policy.sum(axis=-1, keepdims=True)

    def node(self, response) -> int:
        """Index of a response, given as a sequence of words or as one text."""
        if isinstance(response, str):
            response = response.split()
        if not hasattr(response, "__iter__"):
            raise ValueError(f"a response must be a text or a sequence of words: got {response!r}")
        node = 0
        for depth, word in enumerate(response):
            if word not in self.words or depth >= self.H:
                raise ValueError(
                    f"a response holds at most {self.H} of the words {', '.join(self.words)}: "
                    f"got {response!r}"
                )
            node = self.W * node + 1 + self.words.index(word)
        return node

    def text(self, node: int) -> str:
        """The words of a response; the empty response is shown as a dot."""
        return " ".join(self.responses[check.count(node, "node", largest=self.K - 1)]) or "."

    def sample(self, rng, size: int, log_tokens=None) -> np.ndarray:
        """Responses drawn token by token, shape (S, size).

        Parameters
        ----------
        rng : numpy.random.Generator or int
        size : int
            Draws per prompt.
        log_tokens : array_like, shape (S, M, W + 1), optional
            Another token policy on the same tree.

        Returns
        -------
        ndarray of int
            Indices of responses.

        Raises
        ------
        ValueError
            If the token policy does not fit the tree.
        """
        rng, size = check.generator(rng), check.count(size, "size")
        if log_tokens is None:
            log_tokens = self.log_tokens
        log_tokens = _token_logs(log_tokens, "log_tokens", full=False)
        if log_tokens.shape != self.log_tokens.shape:
            raise ValueError(
                f"log_tokens must have shape {self.log_tokens.shape}: got {log_tokens.shape}"
            )
        below = np.cumsum(np.exp(log_tokens), axis=-1)
        below[..., -1] = np.inf
        at, going = np.zeros((self.S, size), int), np.ones((self.S, size), bool)
        prompt = np.arange(self.S)[:, None]
        for _ in range(self.H):
            row = below[prompt, np.minimum(at, self.M - 1)]
            token = (rng.random((self.S, size))[..., None] >= row).sum(axis=-1)
            going &= token < self.W
            at = np.where(going, self.W * at + 1 + token, at)
        return at

    def bandit(self, phi, theta, beta: float, d0=None, B: float | None = None) -> Bandit:
        """The instance with whole responses as actions.

        Parameters
        ----------
        phi : array_like, shape (S, K, d)
        theta : array_like, shape (d,)
        beta : float
        d0 : array_like, shape (S,), optional
            Prompt distribution, default uniform.
        B : float, optional

        Returns
        -------
        Bandit
        """
        d0 = np.full(self.S, 1 / self.S) if d0 is None else d0
        return Bandit(d0, self.policy, phi, theta, beta, B)


def _names(names, name: str) -> tuple[str, ...]:
    if isinstance(names, (str, bytes)) or not hasattr(names, "__iter__"):
        raise ValueError(f"{name} must be a sequence of texts: got {type(names).__name__}")
    names = tuple(names)
    for position, entry in enumerate(names):
        if not isinstance(entry, str) or not entry.strip():
            raise ValueError(f"{name} must be texts: entry {position} is {entry!r}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{name} must be at least one and all different")
    return names


def read_songs() -> str:
    """Eight of William Blake's *Songs of Innocence* (1789), about 4000 characters.

    Returns
    -------
    str
        The text; the README beside it names its source.
    """
    return files("klrlhf").joinpath("_data", "songs.txt").read_text(encoding="utf-8")


def split_stanzas(text: str) -> list[list[str]]:
    """The words of each stanza, in lower case, without punctuation and titles.

    Parameters
    ----------
    text : str
        Stanzas end at an empty line; a line in capitals is a title and is left out.

    Returns
    -------
    list of list of str
    """
    if not isinstance(text, str):
        raise ValueError(f"text must be a string: got {type(text).__name__}")
    stanzas = []
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.splitlines() if not line.strip().isupper()]
        words = re.findall(r"[a-z]+(?:'[a-z]+)?", " ".join(lines).lower())
        if words:
            stanzas.append(words)
    return stanzas


def fit_ngram(text: str, words, prompts, horizon: int, order: int = 2,
              smoothing: float = 2.0) -> LanguageModel:
    r"""An n-gram model of a text of which only a small vocabulary is kept.

    All other words are dropped, stanzas without any word of the vocabulary are left out, and the
    end of a stanza is the end token. With counts c of what
    follows the last ``order - 1`` words, and the model of one order less as prior,
    :math:`p_j(a|s) = (c_j(s,a) + \alpha\,p_{j-1}(a|s)) / (c_j(s) + \alpha)`, down to the uniform
    law. So every token has positive probability at every prefix.

    Parameters
    ----------
    text : str
        The text, read stanza by stanza (``split_stanzas``).
    words : sequence of str
        The vocabulary, without the end.
    prompts : sequence of str
        Texts of one or more words, which need not belong to the vocabulary.
    horizon : int
        Largest number of words in a response.
    order : int
        Words in a gram: 1 ignores the prefix, 2 looks at the last word, 3 at the last two.
    smoothing : float
        The weight ``alpha > 0`` of the lower order.

    Returns
    -------
    LanguageModel

    Raises
    ------
    ValueError
        If a hypothesis above is violated.
    """
    words, prompts = _names(words, "words"), _names(prompts, "prompts")
    order = check.size(order, "order", most=10)
    alpha = check.number(check.positive(smoothing, "smoothing"), "smoothing")
    K, M = tree_sizes(len(words), horizon)
    place = {word: i for i, word in enumerate(words)}
    W = len(words)
    counts: dict[tuple[str, ...], np.ndarray] = {}
    for stanza in split_stanzas(text):
        line = [word for word in stanza if word in place]
        for at in range(len(line) + 1):
            if at == len(line) == 0:
                continue
            token = place[line[at]] if at < len(line) else W
            for n in range(min(order, at + 1)):
                context = tuple(line[at - n: at])
                counts.setdefault(context, np.zeros(W + 1))[token] += 1

    def law(before: tuple[str, ...]) -> np.ndarray:
        p = np.full(W + 1, 1 / (W + 1))
        for n in range(min(order, len(before) + 1)):
            c = counts.get(before[len(before) - n:], np.zeros(W + 1))
            p = (c + alpha * p) / (c.sum() + alpha)
        return p

    tokens = np.empty((len(prompts), M, W + 1))
    for x, prompt in enumerate(prompts):
        prefixes = [tuple(prompt.lower().split())]
        for node in range(M):
            tokens[x, node] = law(prefixes[node])
            prefixes += [(*prefixes[node], word) for word in words]
    tokens /= tokens.sum(axis=-1, keepdims=True)
    return LanguageModel(words, prompts, np.log(tokens))


def response_features(model: LanguageModel, favourite: str | None = None) -> np.ndarray:
    """Four features of whole responses, named in ``FEATURES``.

    ``length``: words over H. ``favourite``: 1 if the favourite word occurs. ``repetition``: words
    equal to the word before them (the prompt's last word included), over H. ``alliteration``:
    words that are not equal to the word before them but begin with the same letter, over H.

    Parameters
    ----------
    model : LanguageModel
    favourite : str, optional
        A word of the vocabulary; default the last one.

    Returns
    -------
    ndarray, shape (S, K, 4)

    Raises
    ------
    ValueError
        If the favourite is not a word of the model.
    """
    favourite = model.words[-1] if favourite is None else favourite
    if favourite not in model.words:
        raise ValueError(f"favourite must be one of {', '.join(model.words)}: got {favourite!r}")
    phi = np.zeros((model.S, model.K, 4))
    for x, prompt in enumerate(model.prompts):
        last = prompt.lower().split()[-1]
        for k, response in enumerate(model.responses):
            steps = list(zip((last, *response), response, strict=False))
            same = sum(a == b for a, b in steps)
            alike = sum(a != b and a[0] == b[0] for a, b in steps)
            phi[x, k] = (len(response) / model.H, favourite in response, same / model.H,
                         alike / model.H)
    return phi


def songs_model(horizon: int = 3, order: int = 2, smoothing: float = 2.0) -> LanguageModel:
    """The book's language model: how Blake goes on after *sweet*, *happy* and *sleep*.

    Parameters
    ----------
    horizon, order, smoothing
        As in ``fit_ngram``.

    Returns
    -------
    LanguageModel
        Words sweet, sleep, happy, joy; K = 85 responses at horizon 3.
    """
    return fit_ngram(read_songs(), ("sweet", "sleep", "happy", "joy"),
                     ("sweet", "happy", "sleep"), horizon, order, smoothing)


def songs_bandit(beta: float = 0.5, horizon: int = 3, theta=(0.5, 1.0, -1.5, 1.0),
                 B: float = 2.5) -> Bandit:
    """The book's instance on the songs: prompts uniform, reward linear in four features.

    Parameters
    ----------
    beta : float
    horizon : int
    theta : array_like, shape (4,)
        Weights of length, favourite word (joy), repetition, alliteration.
    B : float
        Norm bound.

    Returns
    -------
    Bandit
    """
    model = songs_model(horizon)
    return model.bandit(response_features(model), theta, beta, B=B)
