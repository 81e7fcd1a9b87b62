"""A small cache on disk for packed grids, keyed by everything they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy


def cache_directory() -> Path:
    """``$KLRLHF_CACHE``, else ``klrlhf`` in the user's cache directory."""
    own = os.environ.get("KLRLHF_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "klrlhf"


@lru_cache(maxsize=1)
def source_hash() -> str:
    """Hash of the library's own code and of the versions it computes with."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256(f"{np.__version__} {scipy.__version__}".encode())
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] != "results":
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def cached(design, compute) -> dict:
    """``compute(design)``, or what it gave before for the same source and the same design."""
    digest = hashlib.sha256(source_hash().encode())
    digest.update(json.dumps(design.as_json(), sort_keys=True).encode())
    digest.update(pickle.dumps(design.state))
    path = cache_directory() / f"explorer-{design.id}-{digest.hexdigest()[:24]}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        pass
    result = compute(design)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(result), encoding="utf-8")
        scratch.replace(path)
    except OSError:
        pass  # a read-only home only costs time
    return result
