"""The machine and the versions that a figure belongs to."""

from __future__ import annotations

import os
import platform
import ssl
import subprocess
from importlib import metadata
from pathlib import Path

import rig

from llmgw import __version__


def describe() -> dict[str, object]:
    """The machine and the versions: a figure without them is not a figure."""
    return {
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "core_under_test": rig.TESTED_CORE,
            "core_of_the_rest": rig.OTHER_CORE,
            "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
            "kernel": platform.release().partition("-")[0],
        },
        "versions": {
            "llmgw": __version__,
            "python": platform.python_version(),
            "openssl": ssl.OPENSSL_VERSION,
            "nginx": _nginx_version(),
            **{name: _package_version(name) for name in ("uvloop", "httptools", "aiofastnet", "aiohttp")},
        },
        "commit": commit(),
    }


def commit() -> str:
    """The commit measured, with `-dirty` where the tree holds more than that."""
    said = _said("git", "describe", "--always", "--dirty", "--exclude=*")
    return said or "uncommitted"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _nginx_version() -> str | None:
    binary = rig.nginx_binary()
    return _said(binary, "-v").rpartition("/")[2] if binary else None


def _package_version(name: str) -> str:
    return metadata.version(name)


def _said(*command: str) -> str:
    """What a command prints, on either channel; nothing where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip() if done.returncode == 0 else ""
