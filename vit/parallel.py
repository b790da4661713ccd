"""One training over the processes that torchrun started: each computes its share of every batch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vit.checks import UsageError, check


@dataclass(frozen=True)
class Team:
    """The processes of one training; alone it is a team of one, and nothing here costs anything."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that evaluates, logs and saves."""
        return self.rank == 0

    def shard(self, x: Tensor) -> Tensor:
        """This process's part (B / size, ...) of a batch (B, ...)."""
        return x.chunk(self.size)[self.rank]

    def all_reduce_sum(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over the team, in one message."""
        if self.size == 1:
            return
        message = torch.cat([tensor.flatten().float() for tensor in tensors])
        dist.all_reduce(message)
        sums = message.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(tensors, [each.view_as(tensor) for each, tensor in zip(sums, tensors, strict=True)])

    def all_reduce_max(self, number: int) -> int:
        """The largest of the team's numbers: what one process knows, such as a signal, all act on at the same step."""
        if self.size == 1:
            return number
        message = torch.tensor(number)  # on the CPU, so that a GPU goes on meanwhile
        dist.all_reduce(message, dist.ReduceOp.MAX)
        return int(message)

    def broadcast(self, word: Any) -> Any:
        """The leader's word."""
        words = [word]
        if self.size > 1:
            dist.broadcast_object_list(words)
        return words[0]


@contextmanager
def gathered(device: torch.device) -> Iterator[tuple[Team, torch.device]]:
    """The team of this process and its device, one GPU of the machine each; alone where torchrun did not start it.

    Raises:
        UsageError: the processes cannot work together on such a device.
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield Team(), device
        return
    here, everywhere = os.environ["LOCAL_WORLD_SIZE"], os.environ["WORLD_SIZE"]
    check(
        here == everywhere, "--nnodes", "1, as all processes of a team read one run folder", f"{everywhere} processes"
    )
    if device.type == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        check(device.index in (None, 0), "device", "auto, cpu or cuda: torchrun gives each process a GPU", str(device))
        check(local < gpus, "--nproc-per-node", f"at most the {gpus} GPUs here", here)
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise UsageError(f"device: expected cpu or cuda under torchrun, got {device}")
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()
