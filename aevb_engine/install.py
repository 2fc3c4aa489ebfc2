"""The command that adds an optional part to this very installation, for the mend of an error."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

NAME = "aevb-engine"


def command(extra: str) -> str:
    """``python -m pip install ...`` of the extra (gpu, jit, test): from where the package was installed from."""
    source, editable = _source()
    return f"python -m pip install {'-e ' if editable else ''}{shlex.quote(_with(source, extra))}"


def _with(source: str, extra: str) -> str:
    name, at, url = source.partition(" @ ")
    return f"{name}[{extra}]{at}{url}"


def _source() -> tuple[str, bool]:
    """What pip is given, and whether ``-e`` belongs to it: a folder, an archive, a repository, or the name."""
    try:
        told: Any = json.loads(distribution(NAME).read_text("direct_url.json") or "{}")
        url, version_control = str(told.get("url", "")), told.get("vcs_info")
        editable = bool((told.get("dir_info") or {}).get("editable"))
        place = Path(url2pathname(urlsplit(url).path)) if url.startswith("file:") else None
    except PackageNotFoundError:  # on the path without an installation
        place, editable, url, version_control = Path(__file__).parents[1], True, "", None
        if not (place / "pyproject.toml").exists():
            return NAME, False
    except (OSError, ValueError, AttributeError):
        return NAME, False
    if place is not None and place.exists() and not version_control:
        return str(place), editable
    if version_control:
        return f"{NAME} @ {version_control.get('vcs', 'git')}+{url}", False
    return NAME, False
