"""When calls are recorded as graphs, dropped and refused, with a script in place of CUDA."""

import logging
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from secondlook.models.cuda_graphs import (
    CudaGraphRecorder,
    Graph,
    GraphedCalls,
    PythonConstants,
    Run,
)


def double(value: Tensor) -> tuple[Tensor, ...]:
    """What is recorded."""
    return (2 * value,)


@dataclass
class ScriptedRecorder:
    """Graphs that note their replays; the ``fails``-th recording raises."""

    fails: int = 0
    grown: int = 10
    recorded: list[int] = field(default_factory=list)
    replayed: list[int] = field(default_factory=list)
    dropped: int = 0

    def record(self, run: Run, inputs: tuple[Tensor, ...]) -> Graph:
        """See ``GraphRecorder``."""
        self.recorded.append(len(inputs[0]))
        if len(self.recorded) == self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nand so on")

        def replay(*values: Tensor) -> tuple[Tensor, ...]:
            self.replayed.append(len(values[0]))
            return run(*values)

        return Graph(replay, self.grown)

    def drop_memory(self) -> None:
        """See ``GraphRecorder``."""
        self.dropped += 1


def call(calls: GraphedCalls, *lengths: int) -> None:
    """Call with inputs of these lengths, and check each result."""
    for length in lengths:
        (found,) = calls(torch.full((length,), 3.0))
        assert found.tolist() == [6.0] * length


def test_a_shape_is_recorded_when_it_comes_again_and_then_replayed() -> None:
    recorder = ScriptedRecorder()
    calls = GraphedCalls(double, recorder, max_bytes=1000)
    call(calls, 1, 2, 3)
    assert recorder.recorded == []
    call(calls, 2, 2, 1)
    assert recorder.recorded == [2, 1] and recorder.replayed == [2, 2, 1]
    (found,) = calls(torch.tensor([5], dtype=torch.int32))  # another type is another shape
    assert found.tolist() == [10] and len(recorder.recorded) == 2


def test_the_shape_longest_unused_is_forgotten() -> None:
    recorder = ScriptedRecorder()
    calls = GraphedCalls(double, recorder, max_bytes=1000, max_shapes=2)
    call(calls, 1, 1, 2, 2, 1)
    call(calls, 3)  # forgets 2
    call(calls, 1, 2)  # 1 is still known; 2 forgets 3
    assert recorder.recorded == [1, 2] and recorder.replayed == [1, 2, 1, 1]
    call(calls, *range(10, 40), *range(10, 40))
    assert recorder.recorded == [1, 2]  # shapes that come round too seldom are never recorded


def test_graphs_that_hold_too_much_memory_are_all_dropped() -> None:
    recorder = ScriptedRecorder()
    calls = GraphedCalls(double, recorder, max_bytes=15)
    call(calls, 1, 1, 2, 2)
    assert recorder.dropped == 0
    call(calls, 3, 3)
    assert recorder.dropped == 1
    call(calls, 1)  # its graph is gone; it came before, so it is recorded at once
    assert recorder.recorded == [1, 2, 3, 1] and recorder.replayed[-1] == 1


def test_what_cannot_be_recorded_is_said_once_and_computed_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = ScriptedRecorder(fails=2)
    calls = GraphedCalls(double, recorder, max_bytes=1000)
    with caplog.at_level(logging.INFO):
        call(calls, 1, 1, 2, 2, 1, 3, 3)
    assert recorder.recorded == [1, 2] and recorder.dropped == 1
    assert recorder.replayed == [1]
    assert [record.getMessage() for record in caplog.records] == [
        "no CUDA graphs are used, which is slower for few or small images: recording one failed "
        "(RuntimeError: operation not permitted when stream is capturing)"
    ]


def test_tensors_of_numbers_are_made_once() -> None:
    constants = PythonConstants()
    with constants:
        first = torch.as_tensor([(3, 4), (1, 2)], dtype=torch.long)
        other = torch.tensor([(3, 4), (1, 2)], dtype=torch.float32)
        first.add_(1)
        again = torch.as_tensor([(3, 4), (1, 2)], dtype=torch.long)
        assert torch.as_tensor(first) is first
    assert again.tolist() == [[3, 4], [1, 2]] and other.dtype == torch.float32
    assert len(constants._made) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_real_graphs_share_a_pool_and_give_results_of_their_own() -> None:
    device = torch.device("cuda")

    def run(value: Tensor) -> tuple[Tensor, ...]:
        return (value @ value.T + torch.tensor([1.0], device=device),)

    calls = GraphedCalls(run, CudaGraphRecorder(device), max_bytes=1 << 30)
    given = [torch.randn(size, 64, device=device) for size in (8, 100) for _ in range(4)]
    with torch.inference_mode():
        found = [calls(value)[0] for value in given]
    for value, result in zip(given, found, strict=True):
        torch.testing.assert_close(result, run(value)[0])
