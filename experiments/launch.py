"""Runs of several processes: how they are started, agree before they can communicate, and end together."""

from __future__ import annotations

import inspect
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from jsonargparse import Namespace
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from dream.errors import ConfigError
from experiments.ending import say
from lightning_modules import ranks

DECIDED = "DREAM_DECIDED"
"""Variable that tells the processes which the Trainer starts what the first one has decided."""
PLACE = (DECIDED, "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SEED = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
"""Variables that Lightning seeds the processes of a run with, also those of a later Trainer's."""
_parted = threading.Event()
LAUNCHER = "lightning.fabric.strategies.launchers.subprocess_script"
TIMEOUT = timedelta(minutes=10)
"""Longest silence of a process, which may read or write data meanwhile."""
LOST = re.compile(
    r"gloo|nccl|connection (closed|reset)|broken pipe|socket|timed out|store->get|heartbeat", re.IGNORECASE
)


def started_by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


def started_by_trainer() -> bool:
    """Whether the first process of this run started this one."""
    return DECIDED in os.environ and os.environ.get("LOCAL_RANK", "0") != "0" and not started_by_torchrun()


def is_first() -> bool:
    """Whether this process writes: it is the only one, or rank 0."""
    return os.environ["RANK"] == "0" if started_by_torchrun() else not started_by_trainer()


def set_up_words() -> None:
    """Print warnings in the first process only, and the end of a lost process in our words."""
    logging.getLogger(LAUNCHER).setLevel(logging.INFO)
    logging.getLogger(LAUNCHER).addFilter(_say_lost)
    # what the tasks log is the mean over processes already
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")
    if not is_first():
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)


def _say_lost(record: logging.LogRecord) -> bool:
    if found := re.search(r"PID (\d+) terminated with code (-?\d+)", record.getMessage()):
        record.msg = (
            f"dream: a process of this run, {found[1]}, ended with code {found[2]}; all others are ended."
        )
    return True


def spread(trainer: Namespace, unreached: bool) -> None:
    """Settle devices, nodes and strategy of the Trainer's settings where they are left open.

    One device, unless torchrun started the processes: then those. Several of them train by DDP, without a
    broadcast of buffers: what the layers measure is averaged by the tasks (`lightning_modules.ranks`).

    Args:
        trainer: What is settled, in place.
        unreached: `TaskModule.unreached` of what is trained.

    Raises:
        ConfigError: several nodes without torchrun, whose processes could not agree on a folder.
    """
    if started_by_torchrun():
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        if trainer.devices == "auto":
            trainer.devices = local
        if trainer.num_nodes == 1:
            trainer.num_nodes = world // local
    elif trainer.devices == "auto":
        trainer.devices = 1
    if trainer.num_nodes > 1 and not started_by_torchrun():
        raise ConfigError(
            f"`trainer.num_nodes` of {trainer.num_nodes} needs processes that torchrun starts on every node; "
            "this one was not. See docs/scale.md.",
            key="trainer.num_nodes",
        )
    if trainer.strategy == "auto" and (trainer.num_nodes > 1 or trainer.devices not in (1, "1")):
        known = inspect.signature(DistributedDataParallel).parameters
        keep_buffers: dict[str, Any] = {
            "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False
        }
        trainer.strategy = DDPStrategy(find_unused_parameters=unreached, timeout=TIMEOUT, **keep_buffers)


def decided_by_first(decide: Callable[[], str]) -> str:
    """Return the result of `decide` in the first process of a run, in every process.

    Works before they are joined to a group.

    Processes that the Trainer starts are told by their environment, those of torchrun by its store.
    """
    if started_by_torchrun():
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, is_master=False, timeout=TIMEOUT)
        key = f"dream/decided/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        if is_first():
            store.set(key, decide())
        return str(store.get(key).decode())
    if not started_by_trainer():
        os.environ[DECIDED] = decide()
    return os.environ[DECIDED]


@contextmanager
def variables_kept() -> Iterator[None]:
    """Put back, at the end of a run, the variables that Lightning sets for its processes."""
    before = {name: os.environ.get(name) for name in (*PLACE, *SEED)}
    try:
        yield
    finally:
        for name, text in before.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text


def leave() -> None:
    """Leave the group of processes when a run has ended well.

    All processes leave at once; another run may follow in this one.
    """
    if ranks.world_size() > 1:
        dist.barrier()
        dist.destroy_process_group()
    _parted.set()


def end_with_parent(for_good: bool = False) -> None:
    """End this process within two seconds of the one that started it, however that ended.

    Not once it has left the group, unless it is `for_good`.
    """
    parent = os.getppid()
    parted = threading.Event() if for_good else _parted

    def watch() -> None:
        while os.getppid() == parent:
            if parted.wait(1):
                return
        farewell = "dream: the process that started this one is gone, so it ends, too."
        say(farewell)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def lost(error: BaseException) -> bool:
    """Whether `error` means that another process of the run is gone."""
    return ranks.world_size() > 1 and isinstance(error, RuntimeError) and LOST.search(str(error)) is not None


def farewell(error: BaseException, folder: Path | None) -> str:
    """Message for that error."""
    what = re.sub(r"^\[.*?\] ?", "", str(error).strip()).splitlines()[0].split(". ")[0]
    return (
        f"dream: a process of this run is gone, so rank {ranks.rank()} of {ranks.world_size()} ends, too: "
        f"{what[:120]}.\n"
        f"What is done is in {folder}; the same command with --resume goes on from there."
    )
