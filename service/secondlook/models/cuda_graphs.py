"""CUDA graphs by the shapes of the inputs: what a model launches is recorded once and replayed.

A Grounding DINO launches thousands of small kernels a pass. Python needs longer to launch them
than a large GPU to run them, for few or small images; a graph launches all with one call.

Every shape has a graph of its own, so one is recorded only when a shape comes for the second
time, and those longest unused are dropped. All graphs share one pool of memory, which is about as
large as the largest pass needs: they never run at one time, and what they return is copied.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

log = logging.getLogger(__name__)

Run = Callable[..., tuple[Tensor, ...]]
"""A function of tensors on the device that reads nothing back and has no other effect."""
ShapeKey = tuple[tuple[torch.Size, torch.dtype], ...]

MAX_SHAPES = 32
"""Shapes that are remembered. A graph of some thousand kernels holds some 10 MB by itself."""


@dataclass(frozen=True, eq=False)
class Graph:
    """One recording."""

    replay: Run
    """Takes inputs of the recorded shapes; returns tensors of the caller's own."""
    held_bytes: int
    """Device memory by which the shared pool grew."""
    keeps: object = None
    """What the recording reads and nothing else holds."""


class GraphRecorder(Protocol):
    """What makes graphs; ``CudaGraphRecorder``, or a script in tests."""

    def record(self, run: Run, inputs: tuple[Tensor, ...]) -> Graph:
        """Record one run with these inputs; raises whatever hinders it."""

    def drop_memory(self) -> None:
        """Called when no graph is left: the next one begins a new pool."""


class GraphedCalls:
    """Calls ``run``, from the second call of a shape on as a graph. Thread-safe.

    Whatever hinders a recording (memory, or an operation that no graph can hold) is logged once;
    from then on every call is made as it would be without graphs.
    """

    def __init__(
        self, run: Run, recorder: GraphRecorder, *, max_bytes: int, max_shapes: int = MAX_SHAPES
    ) -> None:
        """When the graphs hold more than ``max_bytes``, all are dropped before the next one."""
        self._run = run
        self._recorder = recorder
        self._max_bytes = max_bytes
        self._max_shapes = max_shapes
        self._lock = Lock()
        self._works = True
        # None for a shape that came once; the shape used last stands last.
        self._graphs: OrderedDict[ShapeKey, Graph | None] = OrderedDict()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What ``run`` returns for ``inputs``."""
        with self._lock:
            graph = self._graph_for(inputs) if self._works else None
            if graph is not None:
                return graph.replay(*inputs)
        return self._run(*inputs)

    def _graph_for(self, inputs: tuple[Tensor, ...]) -> Graph | None:
        key = tuple((value.shape, value.dtype) for value in inputs)
        came_before = key in self._graphs
        graph = self._graphs.pop(key, None)
        if came_before and graph is None:
            graph = self._record(inputs)
        self._graphs[key] = graph
        if len(self._graphs) > self._max_shapes:
            self._graphs.popitem(last=False)
        return graph

    def _record(self, inputs: tuple[Tensor, ...]) -> Graph | None:
        if sum(graph.held_bytes for graph in self._graphs.values() if graph) > self._max_bytes:
            self._drop_all()
        try:
            return self._recorder.record(self._run, inputs)
        except Exception as cause:  # CUDA's errors, and any of the model's own
            log.warning(
                "no CUDA graphs are used, which is slower for few or small images: "
                "recording one failed (%s: %s)",
                type(cause).__name__,
                (str(cause).splitlines() or [""])[0],
            )
            log.debug("recording a CUDA graph failed", exc_info=cause)
            self._works = False
            self._drop_all()
            return None

    def _drop_all(self) -> None:
        self._graphs = OrderedDict.fromkeys(self._graphs)
        self._recorder.drop_memory()


class CudaGraphRecorder:
    """Records by ``torch.cuda.graph``. Use it under the lock of one ``GraphedCalls`` only."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def record(self, run: Run, inputs: tuple[Tensor, ...]) -> Graph:
        """See ``GraphRecorder``. The first of two runs lets libraries and kernels set up."""
        constants = PythonConstants()
        with torch.cuda.device(self._device), constants:
            slots = [value.clone() for value in inputs]
            current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                run(*slots)
            current.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # Another thread may allocate pinned memory meanwhile, which "global" would forbid.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                before = torch.cuda.memory_reserved()
                outputs = run(*slots)
            self._pool = graph.pool()

        def replay(*values: Tensor) -> tuple[Tensor, ...]:
            for slot, value in zip(slots, values, strict=True):
                slot.copy_(value)
            graph.replay()
            return tuple(output.clone() for output in outputs)

        held = torch.cuda.memory_reserved(self._device) - before
        return Graph(replay, held, constants)

    def drop_memory(self) -> None:
        """See ``GraphRecorder``."""
        self._pool = None


class PythonConstants(TorchFunctionMode):
    """Within it, tensors made of Python's numbers are copies of one that is made only once.

    transformers writes the shapes of levels and the like with ``torch.tensor(…, device=…)``. That
    copies from the host and waits, which no graph can hold; a copy on the device it can.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[str, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """See ``TorchFunctionMode``."""
        kwargs = kwargs or {}
        if func not in (torch.tensor, torch.as_tensor) or isinstance(args[0], Tensor):
            return func(*args, **kwargs)
        key = repr((args, sorted(kwargs.items())))
        if key not in self._made:
            self._made[key] = func(*args, **kwargs)
        return self._made[key].clone()
