import pytest
import torch
from torch import nn

from fervit_lib.training.precision import bf16_autocast

CPU = torch.device("cpu")


def test_depthwise_convolutions_stay_in_float32_on_a_cpu_and_no_hook_remains() -> None:
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Conv2d(8, 4, 1)
    model, images = nn.Sequential(*convolutions), torch.randn(2, 3, 16, 16)
    dtypes: list[torch.dtype] = []
    handles = [
        convolution.register_forward_hook(
            lambda module, inputs, output: dtypes.append(output.dtype)
        )
        for convolution in convolutions
    ]
    with bf16_autocast(model, CPU):
        rough = model(images)
    assert dtypes == [torch.bfloat16, torch.float32, torch.bfloat16]
    rough.float().square().sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()

    dtypes.clear()
    exact = model(images)
    assert dtypes == [torch.float32] * 3
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)
    exact.square().sum().backward()
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        assert (gradient - parameter.grad).norm() < 0.05 * parameter.grad.norm()
    for handle in handles:
        handle.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_an_error_within_a_depthwise_convolution_leaves_autocast_off() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))
    with pytest.raises(RuntimeError), bf16_autocast(model, CPU):
        model(torch.randn(1, 5, 8, 8))
    assert not torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.is_autocast_enabled("cpu")
    assert not model[0]._forward_hooks and not model[0]._forward_pre_hooks
