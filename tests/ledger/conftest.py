import errno
import os
import subprocess
from types import SimpleNamespace

import pytest
from ledgerkit import Patient

from llmgw.ledger import mapped


@pytest.fixture
def directory(tmp_path):
    return str(tmp_path / "ledger")


@pytest.fixture
def lost():
    return []


@pytest.fixture
def opened(directory, lost):
    """Makes a LedgerFile, and closes it at the end."""
    made = []

    def make(slot=0, *, kind=Patient, max_file_bytes=4 << 20, sync_s=3600.0, where=directory, **options):
        ledger = kind(
            where, slot, max_file_bytes=max_file_bytes, sync_s=sync_s, on_error=lost.append, **options
        )
        made.append(ledger)
        return ledger

    yield make
    for ledger in made:
        ledger.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB, where this process may mount one."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("this process may not mount a file system")
    yield str(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def full(monkeypatch):
    """While `on`, the disk has no block left."""
    disk = SimpleNamespace(on=False)
    real = mapped.statefile.reserve

    def reserve(*where):
        if disk.on:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*where)

    monkeypatch.setattr(mapped.statefile, "reserve", reserve)
    return disk
