import copy

import torch
from torch import nn

from core.base_model.frozen import FrozenLinear, freeze
from core.base_model.loading import LoadedBase


def layers(bias: bool) -> tuple[nn.Linear, FrozenLinear]:
    plain = nn.Linear(24, 40, bias=bias).requires_grad_(False)
    return plain, FrozenLinear(plain)


def test_a_frozen_layer_gives_what_the_plain_one_gives_for_any_number_of_rows() -> None:
    for bias in (False, True):
        plain, frozen = layers(bias)
        for shape in ((24,), (1, 24), (3, 7, 24), (200, 24)):
            x = torch.randn(shape)
            torch.testing.assert_close(frozen(x), plain(x))


def test_it_reads_inputs_that_are_not_contiguous() -> None:
    plain, frozen = layers(False)
    x = torch.randn(24, 5).t()
    torch.testing.assert_close(frozen(x), plain(x))


def test_gradients_go_through_it_to_its_input_and_no_further() -> None:
    plain, frozen = layers(True)
    x = torch.randn(6, 24, requires_grad=True)
    y = torch.randn(6, 24, requires_grad=True)
    y.data.copy_(x.data)
    frozen(x).square().sum().backward()
    plain(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    assert frozen.weight.grad is None


def test_weights_that_are_written_to_are_noticed_in_a_copy_too() -> None:
    _, frozen = layers(False)
    x = torch.randn(3, 24)
    before = frozen(x)
    copied = copy.deepcopy(frozen)
    torch.testing.assert_close(copied(x), before)
    copied.weight.data.mul_(2.0)
    copied.weight.mul_(2.0)
    torch.testing.assert_close(copied(x), 4 * before)
    torch.testing.assert_close(frozen(x), before)


def test_another_type_than_fp32_is_left_to_torch() -> None:
    plain, frozen = layers(False)
    x = torch.randn(4, 24, dtype=torch.bfloat16)
    plain.to(torch.bfloat16)
    frozen.to(torch.bfloat16)
    assert frozen(x).dtype == torch.bfloat16
    torch.testing.assert_close(frozen(x), plain(x))


def test_freezing_keeps_the_weights_where_they_are_and_shared_ones_shared() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(40, 24), "head": nn.Linear(24, 40, bias=False)})
    model["head"].weight = model["embedding"].weight
    before = model["head"].weight
    freeze(model)
    assert isinstance(model["head"], FrozenLinear)
    assert model["head"].weight is before is model["embedding"].weight


def test_a_base_that_is_loaded_on_the_cpu_is_frozen(loaded_tiny: LoadedBase) -> None:
    assert all(type(m) is not nn.Linear for m in loaded_tiny.model.modules())
