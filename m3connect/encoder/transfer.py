"""Arrays to a device and back, without waiting for more than the arrays themselves.

A GPU works through a queue. An ordinary copy waits for all that is queued, the packs of other threads included; a copy
between page-locked memory and the device takes its place in the queue instead, and the processor goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["check_device", "to_device", "to_host"]


def check_device(device: str | torch.device) -> torch.device:
    """Return a device that an encoder can compute on, a GPU with its number.

    Raises:
        ValueError: it is neither a processor nor a GPU of CUDA, or this machine has no such GPU.
    """
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be 'cpu', 'cuda' or one GPU such as 'cuda:1', but is {device!r}") from error
    if chosen.type == "cpu":
        return chosen
    if chosen.type != "cuda":
        raise ValueError(f"device must be 'cpu', 'cuda' or one GPU such as 'cuda:1', but is {str(device)!r}")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = chosen.index if chosen.index is not None else torch.cuda.current_device() if found else 0
    if number >= found:
        raise ValueError(
            f"device {str(device)!r} was asked for, but torch {torch.__version__} finds {found} GPUs here: "
            "take device='cpu', or install a build of torch for your GPU"
        )
    return torch.device("cuda", number)


def to_device(array: npt.NDArray[Any], device: torch.device | str) -> Tensor:
    """Bring an array to a device; what computes with it there may be queued at once."""
    tensor = torch.from_numpy(array)
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensors: Sequence[Tensor]) -> list[npt.NDArray[Any]]:
    """Bring tensors of one device to numpy, and wait until they are there.

    Of a processor's tensors these are views. Of a GPU's they are views of page-locked memory, which is scarce: copy
    what is kept.
    """
    if not tensors or tensors[0].device.type != "cuda":
        return [tensor.numpy() for tensor in tensors]
    with torch.cuda.device(tensors[0].device):
        pinned = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
        for target, tensor in zip(pinned, tensors, strict=True):
            target.copy_(tensor, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        arrived.synchronize()
    return [np.asarray(target.numpy()) for target in pinned]
