"""The generator: up-sample sub-network G1, then refinement sub-network G2 (Bai et al. 2018, Table 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor, nn
from torch.nn import functional

from tinygan.models.blocks import Normalise, ResidualBlock, conv_bn_relu, deconv_bn_relu

SCALE = 4
DOUBLED = 3  # how many layers of ShuffleGenerator.upsample make the picture twice as large


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Size and form of the generator. The defaults are the paper's where it states them.

    Attributes:
        width: number of filters of G1's convolutions. Not stated in the paper.
        up_width: number of filters of the two deconvolutions. Not stated in the paper.
        residual_blocks: number of residual blocks of G1, "x8" in Table 1. Its caption says that this is one residual
            block of 8 convolutions; Figure 2 can be read as 8 blocks.
        refine_width: number of filters of G2's first convolutions. Not stated in the paper.
        refine_up_width: number of filters of the two convolutions before G2's output. Not stated in the paper.
        refine_blocks: number of residual blocks of G2; see ``residual_blocks``.
        block_layers: number of convolutions of each residual block.
        refinement: whether there is G2 (without it: Table 2, "w/o refinement network").
        skip: ``bicubic``: G1 learns what to add to a bicubic upscaling, G2 what to add to G1's output;
            ``none``: both learn the whole picture. Not stated in the paper.
        form: ``learned``: a :class:`Generator`; ``shuffle``: a :class:`ShuffleGenerator`, which has ``width``,
            ``up_width``, ``residual_blocks`` and ``up_blocks`` alone; ``bilinear``: a :class:`BilinearGenerator`,
            which ignores the other keys. :func:`tinygan.models.build.build_generator` builds the one that is named.
        up_blocks: number of further residual blocks, of ``up_width`` filters, at twice the size of the small picture;
            in form ``shuffle`` alone.
        output: ``linear``, or ``sigmoid`` to keep pictures in [0, 1] (without ``skip`` only). Not stated in the paper.
    """

    width: int = 64
    up_width: int = 256
    residual_blocks: int = 8  # Differs from the paper: 1
    refine_width: int = 64
    refine_up_width: int = 256
    refine_blocks: int = 8  # Differs from the paper: 1
    block_layers: int = 2  # Differs from the paper: 8
    refinement: bool = True
    skip: Literal["none", "bicubic"] = "none"
    form: Literal["learned", "shuffle", "bilinear"] = "learned"
    up_blocks: int = 0
    output: Literal["linear", "sigmoid"] = "linear"

    def __post_init__(self) -> None:
        widths = ("width", "up_width", "refine_width", "refine_up_width")
        for name in (*widths, "residual_blocks", "refine_blocks", "block_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.up_blocks < 0:
            raise ValueError(f"up_blocks must not be negative, got {self.up_blocks}")
        if self.skip == "bicubic" and self.output == "sigmoid":
            raise ValueError("output: sigmoid cannot be combined with skip: bicubic")


class Generated(NamedTuple):
    """The generator's two pictures of low-resolution patches; RGB, about [0, 1], both [B, 3, 4s, 4s].

    Attributes:
        sr: G1's output.
        refined: G2's output; ``sr`` itself where there is no G2.
    """

    sr: Tensor
    refined: Tensor

    @property
    def has_g2(self) -> bool:
        """Whether ``refined`` is a picture of its own, made by G2."""
        return self.refined is not self.sr


class Generator(nn.Module):
    """Super-resolves patches 4x and refines them.

    The input of each sub-network is normalised with ImageNet statistics; not stated in the paper.

    Args:
        config: the sizes and the form.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise()
        self.upsample = _upsampling(config)
        self.refine = _refinement(config) if config.refinement else None
        self.apply(_initialise)

    def forward(self, lr: Tensor) -> Generated:
        """Super-resolve patches.

        Args:
            lr: float [B, 3, s, s], RGB in [0, 1].

        Returns:
            The pictures of G1 and of G2, [B, 3, 4s, 4s] each.
        """
        sr = self.upsample(self.normalise(lr))  # [B, 3, s, s] -> [B, 3, 4s, 4s]
        if self.config.skip == "bicubic":
            sr = sr + bicubic(lr)
        sr = self._squash(sr)
        if self.refine is None:
            return Generated(sr, sr)
        refined = self.refine(self.normalise(sr))  # [B, 3, 4s, 4s], the size is kept
        if self.config.skip == "bicubic":
            refined = refined + sr
        return Generated(sr, self._squash(refined))

    @property
    def reach_px(self) -> int:
        """Number of low-resolution pixels, to each side, that an output pixel depends on, or a few more."""
        upsampling = 1 + 2 * self.config.residual_blocks + 1 + 2  # convolutions, then both deconvolutions
        refining = 0 if self.refine is None else math.ceil((2 * self.config.refine_blocks + 5) / SCALE)
        return upsampling + refining

    def _squash(self, picture: Tensor) -> Tensor:
        return picture.sigmoid() if self.config.output == "sigmoid" else picture


class ShuffleGenerator(nn.Module):
    """A generator for pictures that people look at: most of its depth works on the small picture. Not in the paper.

    Residual blocks without batch normalisation (Lim et al. 2017, EDSR), whose statistics would depend on the size of
    the picture; then sub-pixel convolutions (Shi et al. 2016). It learns what to add to a bicubic upscaling; the mean
    colours stay those of the small picture. There is no G2.

    Args:
        config: ``width``, ``up_width``, ``residual_blocks`` and ``up_blocks``.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise()
        width, up = config.width, config.up_width
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(_PlainBlock(width) for _ in range(config.residual_blocks)))
        self.between = nn.Sequential(*(_PlainBlock(up) for _ in range(config.up_blocks)))  # the two of ``upsample``
        self.upsample = nn.Sequential(
            nn.Conv2d(width, 4 * up, 3, padding=1),
            nn.PixelShuffle(2),
            nn.ReLU(inplace=True),
            nn.Conv2d(up, 4 * up, 3, padding=1),
            nn.PixelShuffle(2),
            nn.ReLU(inplace=True),
        )
        self.last = nn.Conv2d(up, 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)  # it starts as bicubic upscaling
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def deepen(self, blocks: int, up_blocks: int = 0) -> None:
        """Add residual blocks. They change nothing at first, so what was learnt stays (Chen et al. 2016, Net2Net).

        Args:
            blocks: number of those that see the small picture.
            up_blocks: number of those at twice its size.
        """
        config = self.config
        self.body.extend(_PlainBlock(config.width) for _ in range(blocks))
        self.between.extend(_PlainBlock(config.up_width) for _ in range(up_blocks))
        self.config = replace(
            config, residual_blocks=config.residual_blocks + blocks, up_blocks=config.up_blocks + up_blocks
        )

    @property
    def reach_px(self) -> int:
        """Number of low-resolution pixels, to each side, that an output pixel depends on."""
        return 1 + 2 * self.config.residual_blocks + self.config.up_blocks + 3 + 2  # the last two for the colours

    def forward(self, lr: Tensor) -> Generated:
        """Super-resolve float [B, 3, h, w], RGB in [0, 1], to [B, 3, 4h, 4w]."""
        features = self.first(self.normalise(lr))
        features = features + self.body(features)  # [B, width, h, w]
        features = self.between(self.upsample[:DOUBLED](features))  # [B, up_width, 2h, 2w]
        sr = _keep_colours(bicubic(lr) + self.last(self.upsample[DOUBLED:](features)), lr)
        return Generated(sr, sr)


class _PlainBlock(nn.Module):
    """x + conv(ReLU(conv(x))); at first the sum is x itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H, W]."""
        out: Tensor = features + self.second(functional.relu(self.first(features), inplace=True))
        return out


class BilinearGenerator(nn.Module):
    """Bilinear 4x upscaling in the place of a generator, for a judge without super-resolution. It has no weights."""

    reach_px = 1  # as of Generator

    def forward(self, lr: Tensor) -> Generated:
        """Upscale [B, 3, s, s] to [B, 3, 4s, 4s], computed in float32; there is no G2."""
        plain = functional.interpolate(lr.float(), scale_factor=SCALE, mode="bilinear", align_corners=False)
        return Generated(plain, plain)


AnyGenerator: TypeAlias = Generator | ShuffleGenerator | BilinearGenerator


def bicubic(lr: Tensor) -> Tensor:
    """Bicubic 4x upscaling of [B, 3, s, s], computed in float32: the baseline of super-resolution."""
    return functional.interpolate(lr.float(), scale_factor=SCALE, mode="bicubic", align_corners=False)


def _keep_colours(sr: Tensor, lr: Tensor) -> Tensor:
    """Give [B, 3, 4h, 4w] the colours of the small picture [B, 3, h, w], in means over 3 x 3 of its pixels.

    Over single pixels faces would be truer still, but noise in the small picture would come through.
    """
    change = lr.float() - functional.avg_pool2d(sr, SCALE)
    change = functional.avg_pool2d(change, 3, stride=1, padding=1, count_include_pad=False)
    return sr + functional.interpolate(change, scale_factor=SCALE, mode="bilinear", align_corners=False)


def _upsampling(config: GeneratorConfig) -> nn.Sequential:
    return nn.Sequential(
        conv_bn_relu(3, config.width),
        *(ResidualBlock(config.width, config.block_layers) for _ in range(config.residual_blocks)),
        conv_bn_relu(config.width, config.width),
        deconv_bn_relu(config.width, config.up_width),
        deconv_bn_relu(config.up_width, config.up_width),
        nn.Conv2d(config.up_width, 3, 1),
    )


def _refinement(config: GeneratorConfig) -> nn.Sequential:
    return nn.Sequential(
        conv_bn_relu(3, config.refine_width),
        *(ResidualBlock(config.refine_width, config.block_layers) for _ in range(config.refine_blocks)),
        conv_bn_relu(config.refine_width, config.refine_width),
        conv_bn_relu(config.refine_width, config.refine_up_width),
        conv_bn_relu(config.refine_up_width, config.refine_up_width),
        nn.Conv2d(config.refine_up_width, 3, 3, padding=1),
    )


def _initialise(module: nn.Module) -> None:
    """Weights N(0, 0.02), biases 0 (Bai et al. 2018, section 4.2)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
