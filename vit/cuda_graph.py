"""A training step replayed as one CUDA graph: the same kernels, without Python launching each of them."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # steps run as they are before the capture: they create optimizer state and compile what is compiled


class CudaGraph:
    """`function(indices)`, run as it is for a few calls, then captured and replayed.

    The function must do all its work on the current device and read nothing back. Its random numbers follow the seed
    given to each call, as if the function had been called after `torch.manual_seed(seed)`. Several such objects may be
    in flight on streams of their own: each has its own random state.
    """

    def __init__(self, function: Callable[[Tensor], None], device: torch.device) -> None:
        self.function = function
        self.calls = 0
        self.generator = torch.cuda.default_generators[device.index or 0]
        self.random_state = self.generator.clone_state()

    def __call__(self, indices: Tensor, seed: int) -> None:
        self.generator.graphsafe_set_state(self.random_state)
        torch.manual_seed(seed)
        self.calls += 1
        if self.calls <= WARM_UP:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
                self.function(indices)
            return
        if self.calls == WARM_UP + 1:
            self.indices = indices.clone()
            self.graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream()):
                self.function(self.indices)
        self.indices.copy_(indices)
        self.graph.replay()
