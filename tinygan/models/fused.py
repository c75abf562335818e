"""Layers that give the same answers on a CPU in less time; for inference alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinygan.models.blocks import Centre, InvertedResidual

ROWS = 4096  # pixels that oneDNN is told a product has; the order is the same for 64
SMALL = 1024  # pixels of a map of which oneDNN's product takes longer than PyTorch's own; it is as fast up to 3,000
IN_PLACE: dict[str, Callable[..., Tensor]] = {  # activations by oneDNN's names
    "relu": torch.relu_,
    "hardtanh": F.hardtanh_,
    "leaky_relu": F.leaky_relu_,
}


def fuse_layers(network: nn.Module, dtype: torch.dtype) -> None:
    """Replace layers by faster ones, where the network runs on a CPU.

    A convolution computes the activation after it, and keeps its filters in the order that oneDNN wants: in PyTorch's
    own layers each activation is a pass over the map, and filters are put in order, and rounded, at each call. One of
    1x1 px becomes a product of matrices, which adds the input of an inverted residual block if it is the block's last.

    Args:
        network: the network, on a CPU and without batch normalisation, which is changed in place and trained no more.
        dtype: in which convolutions compute; they round their inputs to it.
    """
    if not _is_there(dtype):
        return
    for parent in list(network.modules()):
        children = [child for child in parent.named_children() if not isinstance(child[1], nn.Identity)]
        for (name, layer), (next_name, following) in pairwise([*children, ("", nn.Identity())]):
            if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple):
                # Elsewhere than in a sequence an activation may run after other layers as well.
                activation = _activation(following if isinstance(parent, nn.Sequential) else nn.Identity())
                form = _FusedProduct if _is_product(layer) else _FusedConv
                setattr(parent, name, form(layer, activation, dtype))
                if activation[0] != "none":
                    setattr(parent, next_name, nn.Identity())
            elif isinstance(layer, nn.MaxPool2d) and _halves(layer):
                setattr(parent, name, _Halve())
            elif isinstance(layer, Centre):
                setattr(parent, name, _CentreRows(layer))
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, InvertedResidual) and child.residual and isinstance(child.body[-1], _FusedProduct):
                setattr(parent, name, _FusedResidual(child.body[:-1], child.body[-1]))
            elif isinstance(child, nn.Identity) and type(parent).forward is nn.Sequential.forward:
                delattr(parent, name)


class _Fused(nn.Module):
    """A convolution and its activation, by an operator that PyTorch's compiler uses.

    Args:
        conv: the convolution.
        activation: its name and numbers, see :func:`_activation`.
        dtype: in which it computes.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d, activation: tuple[str, list[float]], dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", conv.weight.detach().to(dtype))
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach().to(dtype))
        self._activation = activation
        self._dtype = dtype
        self._ready: tuple[Any, ...] = ()  # the operator's arguments after the map, made by the first call

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: filters in oneDNN's order cannot be pickled."""
        return {**self.__dict__, "_ready": ()}


class _FusedConv(_Fused):
    """Any convolution; its filters are put in the order that suits the size of the first pictures."""

    def __init__(self, conv: nn.Conv2d, activation: tuple[str, list[float]], dtype: torch.dtype) -> None:
        super().__init__(conv, activation, dtype)
        dilation = (1, 1) if conv.kernel_size == (1, 1) else conv.dilation
        self._geometry = (conv.padding, conv.stride, dilation, conv.groups)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W']."""
        if features.dtype is not self._dtype:
            features = features.to(self._dtype)
        if not self._ready:
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # its stub lacks arguments
            ordered = reorder(self.weight.to_mkldnn(), *self._geometry, features.shape)
            self._ready = (ordered, self.bias, *self._geometry, *self._activation, "")
        made: Tensor = torch.ops.mkldnn._convolution_pointwise(features, *self._ready)
        return made


class _FusedProduct(_Fused):
    """A 1x1 convolution as a product of matrices.

    As a convolution, oneDNN wants its filters in an order that depends on the size of pictures, and puts them in order
    at each call where pictures have another size than those of the first call. For this product there is one order.
    A small map is multiplied by PyTorch's own product: oneDNN takes longer to begin than that takes in all.
    """

    def __init__(self, conv: nn.Conv2d, activation: tuple[str, list[float]], dtype: torch.dtype) -> None:
        super().__init__(conv, activation, dtype)
        self.weight = self.weight.flatten(1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H, W]."""
        rows = self._rows(features)
        if self._is_small(rows):
            (name, numbers), made = self._activation, F.linear(rows, self.weight, self.bias)
            made = made if name == "none" else IN_PLACE[name](made, *numbers)
        else:
            filters, bias, *after = self._ready or self._prepare()
            made = torch.ops.mkldnn._linear_pointwise(rows, filters, bias, *after)
        return made.permute(0, 3, 1, 2)

    def added_to(self, others: Tensor, features: Tensor) -> Tensor:
        """The product of maps [B, C, H, W], without its activation, and others [B, C', H, W] added."""
        rows, others = self._rows(features), self._rows(others)
        if self._is_small(rows):
            made = F.linear(rows, self.weight, self.bias).add_(others)
        else:
            filters, bias, *_ = self._ready or self._prepare()
            made = torch.ops.mkldnn._linear_pointwise.binary(rows, others, filters, bias, "add")
        return made.permute(0, 3, 1, 2)

    def _rows(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to [B, H, W, C], in the type that this computes in."""
        if features.dtype is not self._dtype:
            features = features.to(self._dtype)
        return features.permute(0, 2, 3, 1)

    def _is_small(self, rows: Tensor) -> bool:
        """Whether PyTorch's own product takes less time, and computes in the type that this does."""
        count, height, width, _ = rows.shape
        small = count * height * width <= SMALL
        return small and self._dtype is torch.float32 and not torch.is_autocast_enabled("cpu")

    def _prepare(self) -> tuple[Any, ...]:
        """oneDNN's arguments after the map."""
        ordered = torch.ops.mkldnn._reorder_linear_weight(self.weight, ROWS)
        self._ready = (ordered, self.bias, *self._activation, "")
        return self._ready


class _FusedResidual(nn.Module):
    """An inverted residual block whose last product adds the block's input.

    Args:
        layers: the layers before it.
        last: the product.
    """

    def __init__(self, layers: nn.Sequential, last: _FusedProduct) -> None:
        super().__init__()
        self.layers = layers
        self.last = last

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        return self.last.added_to(features, self.layers(features))


class _Halve(nn.Module):
    """Max-pooling of 2 x 2 px, of maps in layout channels-last; PyTorch's own takes three times as long."""

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H / 2, W / 2], rounded down."""
        count, channels, height, width = features.shape
        even = features[..., : height // 2 * 2, : width // 2 * 2].permute(0, 2, 3, 1)
        pairs = even.reshape(count, height // 2, 2, width // 2 * 2 * channels)
        rows = torch.maximum(pairs[:, :, 0], pairs[:, :, 1]).view(count, height // 2, width // 2, 2, channels)
        return torch.maximum(rows[:, :, :, 0], rows[:, :, :, 1]).permute(0, 3, 1, 2)


class _CentreRows(nn.Module):
    """Subtracts the mean colour from whole rows of a picture in layout channels-last, an eighth of the time.

    Args:
        centre: the layer that it replaces.
    """

    mean: Tensor

    def __init__(self, centre: Centre) -> None:
        super().__init__()
        self.register_buffer("mean", centre.mean.flatten(), persistent=False)

    def forward(self, picture: Tensor) -> Tensor:
        """[B, 3, H, W], less the mean."""
        count, channels, height, width = picture.shape
        rows = picture.permute(0, 2, 3, 1).reshape(count, height, width * channels) - self.mean.repeat(width)
        return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def _activation(layer: nn.Module) -> tuple[str, list[float]]:
    """The operator's name of an activation, and its numbers; ``none`` if the layer is no activation that it has."""
    if isinstance(layer, nn.ReLU6):
        return "hardtanh", [0.0, 6.0]
    if isinstance(layer, nn.ReLU):
        return "relu", []
    if isinstance(layer, nn.LeakyReLU):
        return "leaky_relu", [layer.negative_slope]
    return "none", []


def _is_product(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1


def _halves(pool: nn.MaxPool2d) -> bool:
    return (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode) == (2, 2, 0, 1, False)


@cache
def _is_there(dtype: torch.dtype) -> bool:
    """Whether the operators exist and compute what they should: they are no part of PyTorch's public interface.

    They were tried on x86 alone; not all of these processors have them in bf16.
    """
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    whole, relu = torch.float32, _activation(nn.ReLU())  # whatever the program's own type
    with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first, last = nn.Conv2d(2, 4, 3, padding=1, dtype=whole), nn.Conv2d(4, 3, 1, dtype=whole)
        picture = torch.linspace(-1, 1, 4 * SMALL, dtype=whole).view(1, 2, 2, SMALL)  # too large for PyTorch's product
        maps = first(picture).relu()
        wanted = torch.cat([last(maps).relu(), last(maps) + maps[:, :3]])
        product = _FusedProduct(last, relu, dtype)
        try:
            fused = _FusedConv(first, relu, dtype)(picture)
            answers = torch.cat([product(fused), product.added_to(fused[:, :3], fused)])
        except (AttributeError, RuntimeError, TypeError):
            return False
    return torch.allclose(answers.float(), wanted, atol=1e-4 if dtype == torch.float32 else 0.05)
