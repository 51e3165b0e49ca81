"""One run shared by several processes: what they tell each other, and nothing else.

Every process holds the whole model, takes its share of the images of every global batch, and then all
average their gradients with one explicit all-reduce; so they hold the same weights before and after
every step, and the ones a single process would have at the same global batch, to float rounding. There
is no DistributedDataParallel around the model: learned tensors are few, so there is nothing to overlap
with the backward pass and no buckets to fill; gradient rules such as ProGrad's must see global gradients
before the optimiser does; and a model that is not wrapped is the same model everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from restore_vlm.errors import UserError
from restore_vlm.runtime.children import end_with_parent

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""How long processes wait for the first one to check the data and fit heads."""


class World:
    """One process, alone: everything is local and nothing is copied.

    Attributes:
        rank: Of this process, from 0.
        size: Number of processes.
    """

    rank, size = 0, 1

    @property
    def main(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def part(self, batch: int) -> int:
        """Images of a global batch that every process takes.

        Raises:
            UserError: If the batch does not divide among the processes.
        """
        if batch % self.size:
            fits = batch // self.size * self.size
            way = f"use --set training.batch={fits} or fewer processes" if fits else "use fewer processes"
            raise UserError(f"A batch of {batch} images does not divide among {self.size} processes; {way}.")
        return batch // self.size

    def mean(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Means over the processes, tensor by tensor, in one message.

        A gradient passes through as if they were local. A function of them therefore has its global
        value everywhere, and its local gradients have the global gradient as their mean, also where
        the function is not linear in them.
        """
        return tensors

    def gather(self, rows: Tensor, total: int) -> Tensor:
        """(n, ...) rows of ``rank::size`` of ``total`` things -> (total, ...) of all, in order."""
        return rows

    def once(self, action: Callable[[], T]) -> T:
        """What the first process gets from an action that it alone carries out; the others wait.

        Raises:
            UserError: Everywhere, if the action does.
        """
        return action()


class Processes(World):
    """Several processes, started by ``accelerate launch`` or ``torchrun``, through HF Accelerate.

    Args:
        device: The kind of device all of them compute on: each takes a GPU of its own, or the CPU.

    Raises:
        UserError: If Accelerate is missing, there are too few GPUs, or the processes do not meet.
    """

    def __init__(self, device: torch.device) -> None:
        if not torch.distributed.is_initialized():
            _check(device)
        try:
            from accelerate import PartialState, utils
        except ImportError:
            raise UserError(
                "Several processes need HF Accelerate; pip install 'restore-vlm[accelerate]'."
            ) from None
        if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun and accelerate launch: their end is the run's
            end_with_parent()
        options = {"cpu": True, "backend": "gloo"} if device.type == "cpu" else {}
        with _together():
            self.state, self.utils = PartialState(timeout=PATIENCE, **options), utils
        self.rank, self.size = self.state.process_index, self.state.num_processes

    def mean(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return _Mean.apply(self._mean, *tensors)  # type: ignore[no-untyped-call]

    def _mean(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        flat = torch.cat([t.flatten() for t in tensors])
        with _together():
            flat = self.utils.reduce(flat, "mean")
        parts = flat.split([t.numel() for t in tensors])
        return tuple(part.view_as(t).to(t.dtype) for part, t in zip(parts, tensors, strict=True))

    def gather(self, rows: Tensor, total: int) -> Tensor:
        most = -(-total // self.size)
        padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
        with _together():
            everyone = self.utils.gather(padded.to(self.state.device)).to(rows.device)
        # Row i is number i // size of process i % size, so whatever was padded comes last.
        return everyone.unflatten(0, (self.size, most)).transpose(0, 1).flatten(0, 1)[:total]

    def once(self, action: Callable[[], T]) -> T:
        result: list[Any] = [None, None]
        if self.main:
            try:
                result[0] = action()
            except UserError as error:
                result[1] = error
        told = self.utils.send_to_device(result[:1], "cpu") + result[1:]
        with _together():
            self.utils.broadcast_object_list(told)
        if told[1] is not None:
            raise told[1]
        return result[0] if self.main else told[0]


def processes() -> int:
    """How many processes a launcher has started for this run."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def join(device: torch.device) -> World:
    """The processes of this run, or this one alone; the first call waits until all have come.

    From then on a device ``cuda`` without a number is the process's own GPU.

    Args:
        device: What to compute on.

    Raises:
        UserError: See :class:`Processes`.
    """
    return Processes(device) if processes() > 1 else World()


def leave() -> None:
    """Ends what :func:`join` began, if it did; the last thing processes do together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        with _together():
            torch.distributed.barrier()
        torch.distributed.destroy_process_group()


class _Mean(torch.autograd.Function):
    """The mean over the processes, whose gradient is that of the local tensors."""

    @staticmethod
    def forward(ctx: Any, mean: Callable[..., Any], *tensors: Tensor) -> Any:
        return mean(tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, *gradients


@contextmanager
def _together() -> Iterator[None]:
    """Around whatever needs the other processes."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"Another process of this run stopped or cannot be reached ({reason}); the same command goes on "
            "from the last checkpoint."
        ) from error


def _check(device: torch.device) -> None:
    if device.type not in ("cuda", "cpu"):
        raise UserError(f"Several processes need cuda or cpu and this is {device.type}; use --device cpu.")
    if device.type == "cpu":
        return
    if device.index is not None:
        raise UserError(f"--device {device} is one GPU for several processes; use --device cuda.")
    here, there = int(os.environ.get("LOCAL_WORLD_SIZE") or 1), torch.cuda.device_count()
    if here > there:
        raise UserError(f"There are {here} processes for {there} GPUs; start at most {there}.")
