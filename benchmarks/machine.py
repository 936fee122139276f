"""What a benchmark says about where it ran."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import m3connect

__all__ = ["processor", "version", "write_report"]


def processor() -> str:
    """Name the processor, with its number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor()


def version(name: str) -> str | None:
    """Return the version of a package; None means that it is not installed."""
    if name == "m3connect":
        return m3connect.__version__
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_report(path: Path, figures: Mapping[str, Any]) -> None:
    """Write everything that a benchmark measured as JSON, with day and command; `benchmarks/page.py` reads it."""
    command = shlex.join([Path(sys.argv[0]).name, *_arguments(sys.argv[1:])])
    report = {"date": datetime.now(UTC).date().isoformat(), "command": command, **figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _arguments(given: Sequence[str]) -> Iterator[str]:
    """Leave out where the report goes, and where on this machine absolute paths lead."""
    left = iter(given)
    for one in left:
        if one == "--json":
            next(left)
        elif not one.startswith("--json="):
            path = Path(one)
            yield f".../{'/'.join(path.parts[-2:])}" if path.is_absolute() else one
