"""Steps that a GPU would replay run as they are on a CPU."""
import torch
from torch import Tensor

from nomul.compiler.quantize.captured import Captured, exact_convolutions, gpu_stream


def test_a_step_on_the_cpu_runs_each_time() -> None:
    total = torch.zeros(())
    shapes: list[int] = []

    def step(first: Tensor, second: Tensor) -> None:
        shapes.append(len(first))
        total.add_((first * second).sum())

    captured = Captured(step)
    with gpu_stream(torch.device("cpu")):
        for count in (3, 3, 2, 3, 3, 3):
            captured(torch.full((count,), 2.0), torch.ones(count))
    assert shapes == [3, 3, 2, 3, 3, 3]
    assert float(total) == 34


def test_convolutions_are_exact_without_transforms() -> None:
    values = torch.randint(0, 16, (1, 8, 9, 9)).double()
    weights = torch.randint(-64, 64, (4, 8, 3, 3)).double()
    with exact_convolutions():
        assert not torch.backends.cudnn.enabled
        sums = torch.nn.functional.conv2d(values, weights)
    assert torch.backends.cudnn.enabled
    assert torch.equal(sums, torch.nn.functional.conv2d(values.long(), weights.long()).double())
