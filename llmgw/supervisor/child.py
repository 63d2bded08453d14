"""The fork, and what a child must do before it is a worker."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import random
import signal
import sys
from collections.abc import Callable
from typing import Final, NoReturn

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
# A terminal or a service manager signals the whole group. What a worker does at a stop or a reload
# is the supervisor's word alone; SIGTERM gets a meaning when the worker's loop is there (link.attach).
IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RESET: Final = (signal.SIGCHLD, signal.SIGABRT)

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def fork_worker(close_others: Callable[[], None], main: Callable[[], int | None]) -> int:
    """Forks; in the child closes what is not its own, runs `main` and ends. Returns the child's pid.

    Signals are held back around the fork: one that came to the child before it has its own handlers
    would be handled as the supervisor's.
    """
    parent_pid = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = os.fork()
    if pid == 0:
        _run(parent_pid, before, close_others, main)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _run(
    parent_pid: int,
    mask: set[signal.Signals | int],
    close_others: Callable[[], None],
    main: Callable[[], int | None],
) -> NoReturn:
    """The child's whole life. Nothing of the supervisor's stack may ever go on in it, hence os._exit."""
    code = 1
    try:
        _die_with(parent_pid)
        _reset_signals(mask)
        close_others()
        random.seed()  # not a copy of the sibling's state
        faulthandler.enable()  # SIGABRT, which ends a stuck worker, then shows where it stood
        code = main() or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # the last frame of the process: it is logged here or never
        logger.critical("a worker ended by an error", exc_info=True)
    finally:
        try:
            _flush()
        finally:
            os._exit(code)


def _die_with(parent_pid: int) -> None:
    """SIGKILL at the supervisor's death, however it dies. Elsewhere than on Linux the link's end does it.

    The parent may have died before the call: then another process is the parent by now.
    """
    if _libc is not None and _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os._exit(1)


def _reset_signals(mask: set[signal.Signals | int]) -> None:
    signal.set_wakeup_fd(-1)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    for number in RESET:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads it any more
            pass
