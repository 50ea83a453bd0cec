"""One process or many: what the loop asks of the machine.

:func:`accelerator` gives :mod:`accelerate`'s ``Accelerator``, which knows the device and the other processes
(``accelerate launch`` or ``torchrun`` start them). Without it, :class:`SingleProcess` answers the same questions, and
the loop trains where the model is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["SingleProcess", "accelerator", "from_main", "gather_objects", "reduce"]

T = TypeVar("T")


class SingleProcess:
    """This process alone, on the device where the model is; the part of ``Accelerator``'s interface that is used."""

    num_processes = 1
    process_index = 0
    is_main_process = True

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model as it is."""
        return model

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Nothing to wait for."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Gradients of ``loss``."""
        loss.backward()


def accelerator(cpu: bool = False) -> Any:
    """An ``accelerate.Accelerator`` for :func:`train`: device placement and many processes.

    Precision is the loop's own affair (``TrainingConfig.precision``), so it is switched off here.

    Args:
        cpu: True to stay on the CPU; otherwise the choice is accelerate's: CUDA, then MPS, then the CPU.

    Raises:
        ImportError: If accelerate is not installed.
        ValueError: If an earlier call in this process has chosen another device.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise ImportError('training on other devices needs accelerate: pip install "accelerate>=1"') from error
    # Without a GPU, processes find each other only if they are told that they are on CPUs.
    alone = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    engine = Accelerator(mixed_precision="no", cpu=cpu or alone)
    engine.gradient_accumulation_steps = 1  # the loop's own affair too, whatever the environment says
    return engine


def reduce(engine: Any, values: Tensor, how: str) -> Tensor:
    """The ``"mean"``, ``"sum"`` or ``"max"`` of ``values`` over all processes, on the device where they were."""
    if engine.num_processes == 1:
        return values
    return engine.reduce(values.to(engine.device), how).to(values.device)  # NCCL moves only what is on its device


def is_launched() -> bool:
    """Whether a launcher (``accelerate launch``, ``torchrun``) started this process, or there is a CUDA GPU."""
    return "WORLD_SIZE" in os.environ or "ACCELERATE_USE_CPU" in os.environ or torch.cuda.is_available()


def gather_objects(engine: Any, items: list[Any]) -> list[Any]:
    """The lists of all processes, joined in the order of the processes."""
    if engine.num_processes == 1:
        return items
    gathered: list[Any] = [None] * engine.num_processes
    torch.distributed.all_gather_object(gathered, items)
    return [item for part in gathered for item in part]


def from_main(engine: Any, make: Callable[[], T]) -> T:
    """What ``make`` gives in the main process, which alone calls it; its error, if it fails, is raised in all."""
    if engine.num_processes == 1:
        return make()
    box: list[Any] = [None]
    if engine.is_main_process:
        try:
            box = [make()]
        except Exception as error:
            box = [error]
    torch.distributed.broadcast_object_list(box, src=0, device=engine.device)
    if isinstance(box[0], Exception):
        raise box[0]
    return box[0]
