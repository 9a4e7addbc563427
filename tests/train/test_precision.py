import time

import torch

from ideomotor.train import precision
from ideomotor.train.precision import Timing, autocast, measure


def test_the_gain_is_the_ratio_of_times() -> None:
    assert Timing(fp32=0.3, bf16=0.1).gain == 0.3 / 0.1


def test_both_precisions_are_really_timed() -> None:
    seen: list[torch.dtype] = []

    def work() -> None:
        a = torch.ones(4, 4)
        seen.append((a @ a).dtype)
        time.sleep(0.02 if seen[-1] == torch.float32 else 0.001)

    timing = measure(work)
    assert seen == [torch.float32, torch.bfloat16] * (precision.ROUNDS + 1)
    assert timing.fp32 >= 0.02 > timing.bf16


def test_fp32_is_taken_where_bf16_is_not_clearly_faster(monkeypatch) -> None:
    monkeypatch.setattr(precision, "measure", lambda work: Timing(1.10, 1.0))
    assert precision.choose(lambda: None).precision == "fp32"
    monkeypatch.setattr(precision, "measure", lambda work: Timing(2.0, 1.0))
    assert precision.choose(lambda: None).precision == "bf16"


def test_autocast_keeps_weights_and_gradients_in_fp32() -> None:
    linear = torch.nn.Linear(3, 2)
    with autocast("bf16"):
        out = linear(torch.ones(4, 3))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert linear.weight.grad is not None
    assert linear.weight.grad.dtype == torch.float32
