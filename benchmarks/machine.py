"""What a benchmark says about where it ran."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
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
    """Write everything that a benchmark measured as JSON, with the day; `benchmarks/page.py` reads it."""
    report = {"date": datetime.now(UTC).date().isoformat(), **figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
