"""A certificate for TLS to a mock on this machine, made when it is needed and never shipped."""

from __future__ import annotations

import subprocess
from pathlib import Path

_VALID_DAYS = 2


def self_signed(directory: Path) -> tuple[Path, Path]:
    """Certificate (its own CA) and key as PEM files, for localhost and 127.0.0.1; needs `openssl`."""
    certificate, key = directory / "mock-cert.pem", directory / "mock-key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", str(_VALID_DAYS), "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key
