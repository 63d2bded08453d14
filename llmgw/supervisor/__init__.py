"""The parent of all workers: it opens the sockets, makes the segment, forks, watches, and no more.

    listen      the sockets, open for the supervisor's life
    child       fork, and what a child must do before it is a worker
    channel     messages over a socket pair
    link        a worker's end of it: WorkerLink, WorkerSlot
    worker      what is known of one worker process, and the limits
    crew        the worker processes: started, read from, watched, ended
    wakeup      signals as something to wait for
    changeover  a reload as a decision: all workers take the new configuration, or none
    reload      a reload as it happens
    overseer    the loop that ties them together; `run` is its door

No event loop, no threads: a process that forks may have neither.
"""

from llmgw.supervisor.link import WorkerLink, WorkerSlot
from llmgw.supervisor.listen import Addresses
from llmgw.supervisor.overseer import run
from llmgw.supervisor.worker import Limits

__all__ = ["Addresses", "Limits", "WorkerLink", "WorkerSlot", "run"]
