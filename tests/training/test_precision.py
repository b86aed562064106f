import torch
from torch import nn

from fervit_lib.training.callbacks import enter_bf16, leave_bf16

CPU = torch.device("cpu")


def test_on_a_cpu_depthwise_convolutions_stay_in_float32_and_everything_is_undone() -> None:
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Conv2d(8, 4, 1)
    model, images = nn.Sequential(*convolutions), torch.randn(2, 3, 16, 16)
    seen: list[torch.dtype] = []
    for convolution in convolutions:
        convolution.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    enter_bf16(model, CPU)
    rough = model(images)
    assert seen == [torch.bfloat16, torch.float32, torch.bfloat16]
    rough.float().square().sum().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()

    leave_bf16(model)
    seen.clear()
    exact = model(images)
    assert seen == [torch.float32] * 3
    assert not any("forward" in vars(module) for module in model.modules())
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)
    exact.square().sum().backward()
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        assert (gradient - parameter.grad).norm() < 0.05 * parameter.grad.norm()
