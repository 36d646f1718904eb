"""Networks that turn pictures into features, and the table of all networks that turn one observation key into them.

Pictures are [N, *space.shape], channels first or last, of any number type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from understudy.data import Array
from understudy.errors import UserError
from understudy.policies import background
from understudy.policies.bags import bag_sums
from understudy.policies.spaces import has_channels_last, picture_shape
from understudy.policies.spec import NATURE_LEAST, Encoder
from understudy.policies.text import TextBag, TextLSTM, TextWords


class _Picture(nn.Module):
    """What encoders of pictures share: the layout, and the way from stored pictures to floats."""

    def __init__(self, space: gym.Space[Any], encoder: Encoder, least: int = 1) -> None:
        super().__init__()
        self.channels, height, width = picture_shape(space)
        assert isinstance(space, gym.spaces.Box)
        self.channels_last, self.scale = has_channels_last(space), encoder.scale
        if min(height, width) < least:
            raise UserError(
                f"the encoder {encoder.type} needs images of at least {least}x{least} pixels, not {height}x{width}"
            )
        self.height, self.width = height, width

    def channels_first(self, pictures: Tensor) -> Tensor:
        """[N, *space.shape] -> [N, C, H, W], a view."""
        return pictures.permute(0, 3, 1, 2) if self.channels_last else pictures

    def floats(self, pictures: Tensor) -> Tensor:
        """[N, *space.shape] -> [N, C, H, W] floats, scaled; one copy for pictures of bytes.

        To learn on the CPU, the channels of a pixel come to lie side by side in memory: forward and backward through
        the Nature CNN then take 0.86 (batch 16), 0.8 (64) or 0.65 (256) of the time. The forward pass alone gains
        nothing and the conversion costs up to 0.2 of it, so acting keeps the layout (and its bits). Weights stay as
        they are: PyTorch brings them to the layout of the pictures by itself, and flat views of them remain possible.
        """
        layout = torch.channels_last if _learning(pictures) else torch.preserve_format
        return self._scaled(self.channels_first(pictures), layout)

    def _scaled(self, x: Tensor, layout: torch.memory_format = torch.preserve_format) -> Tensor:
        # Half of the precision at once where the network computes in it: bytes up to 255 are exact in bfloat16.
        half = x.dtype == torch.uint8 and torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if half else next(self.parameters()).dtype
        copied = x.dtype != dtype
        x = x.to(dtype, memory_format=layout)
        if self.scale == 1.0:
            return x
        # Division where it was a division: x * (1 / 255) is not the float that x / 255 is.
        factor = 1 / self.scale if self.scale < 1 else self.scale
        if copied:
            return x.div_(factor) if self.scale < 1 else x.mul_(factor)
        return x / factor if self.scale < 1 else x * factor

    def convolved(self, network: nn.Sequential, pictures: Tensor) -> Tensor:
        """[N, *space.shape] -> what a network makes of them that begins as ``background.convolve`` wants it."""
        if pictures.dtype == torch.uint8 and len(pictures) >= background.LEAST and _learning(pictures):
            bytes_ = self.channels_first(pictures).permute(0, 2, 3, 1).contiguous()
            found = background.convolve(network, bytes_, self._scaled)
            if found is not None:
                x, done = found
                rest: Tensor = network[done:](x)
                return rest
        out: Tensor = network(self.floats(pictures))
        return out

    def flat_size(self, convolutions: nn.Module, channels: int | None = None) -> int:
        """Return how many numbers the convolutions make of one picture."""
        with torch.no_grad():
            out: Tensor = convolutions(torch.zeros(1, channels or self.channels, self.height, self.width))
        return out.numel()


def _learning(pictures: Tensor) -> bool:
    return torch.is_grad_enabled() and pictures.device.type == "cpu"


class NatureCNN(_Picture):
    """Three convolutions, one linear layer (Mnih 2015, Methods); [N, *space.shape] -> [N, features]."""

    def __init__(self, space: gym.Space[Any], encoder: Encoder) -> None:
        super().__init__(space, encoder, NATURE_LEAST)
        self.cnn = nn.Sequential(
            nn.Conv2d(self.channels, 32, 8, 4), nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 4, 2), nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 3, 1), nn.ReLU(inplace=True),
            nn.Flatten(),
        )  # fmt: skip
        self.linear = nn.Sequential(nn.Linear(self.flat_size(self.cnn), encoder.features), nn.ReLU(inplace=True))

    def forward(self, pictures: Tensor) -> Tensor:
        """[N, *space.shape] -> [N, features]."""
        features: Tensor = self.linear(self.convolved(self.cnn, pictures))
        return features


class ImpalaSmall(_Picture):
    """The small network of IMPALA (Espeholt 2018, arXiv 1802.01561, figure 3 left), without its LSTM.

    Differs in: no padding. The figure does not say; the network it goes back to (Mnih 2016, arXiv 1602.01783,
    section 8) had none.
    """

    def __init__(self, space: gym.Space[Any], encoder: Encoder) -> None:
        super().__init__(space, encoder, 20)
        self.cnn = nn.Sequential(
            nn.Conv2d(self.channels, 16, 8, 4), nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 4, 2), nn.ReLU(inplace=True),
            nn.Flatten(),
        )  # fmt: skip
        self.linear = nn.Sequential(nn.Linear(self.flat_size(self.cnn), encoder.features), nn.ReLU(inplace=True))

    def forward(self, pictures: Tensor) -> Tensor:
        """[N, *space.shape] -> [N, features]."""
        features: Tensor = self.linear(self.convolved(self.cnn, pictures))
        return features


class _Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        # The convolution's own output may be overwritten, x may not: it is added at the end.
        inner: Tensor = self.second(functional.relu(self.first(functional.relu(x)), inplace=True))
        return inner.add_(x)


class ImpalaResNet(_Picture):
    """The large network of IMPALA: 15 convolutions (Espeholt 2018, arXiv 1802.01561, figure 3 right), without its LSTM.

    Differs in: pooling pads evenly on both sides, where TensorFlow's "same" pads the end first; sizes are the same.
    """

    def __init__(self, space: gym.Space[Any], encoder: Encoder, sections: Sequence[int] = (16, 32, 32)) -> None:
        super().__init__(space, encoder)
        layers: list[nn.Module] = []
        inputs = self.channels
        for channels in sections:
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)]
            layers += [_Residual(channels), _Residual(channels)]
            inputs = channels
        self.cnn = nn.Sequential(*layers, nn.ReLU(), nn.Flatten())
        self.linear = nn.Sequential(nn.Linear(self.flat_size(self.cnn), encoder.features), nn.ReLU())

    def forward(self, pictures: Tensor) -> Tensor:
        """[N, *space.shape] -> [N, features]."""
        features: Tensor = self.linear(self.cnn(self.floats(pictures)))
        return features


class A3CCNN(_Picture):
    """Four convolutions of 32 channels, 3x3 with stride 2, and ELU: 288 features of a 42x42 picture, for an LSTM 256.

    The network of OpenAI's universe-starter-agent (2016), which the known A3C implementations in PyTorch took over.
    """

    def __init__(self, space: gym.Space[Any], encoder: Encoder) -> None:
        super().__init__(space, encoder)
        widths = (self.channels, 32, 32, 32, 32)
        pairs = [(nn.Conv2d(i, o, 3, 2, padding=1), nn.ELU(inplace=True)) for i, o in pairwise(widths)]
        self.cnn = nn.Sequential(*(layer for pair in pairs for layer in pair), nn.Flatten())

    def forward(self, pictures: Tensor) -> Tensor:
        """[N, *space.shape] -> [N, 32 * H/16 * W/16], halves rounded up."""
        features: Tensor = self.cnn(self.floats(pictures))
        return features

    def recall(self, pictures: Tensor, outputs: Sequence[Array]) -> Tensor:
        """As ``forward``, from what the layers made of these pictures: [N, height, width, channels] of each."""
        layers = [parameter for layer in self.cnn if isinstance(layer, nn.Conv2d) for parameter in layer.parameters()]
        found: Tensor = _Recalled.apply(self.floats(pictures), outputs, *layers)  # type: ignore[no-untyped-call]
        return found


class _Recalled(torch.autograd.Function):
    """Convolutions of ``A3CCNN`` whose outputs are known; the pictures get no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, outputs: Sequence[Array], *parameters: Tensor) -> Tensor:
        """[N, C, H, W], outputs, and weight and bias of every layer by turns -> the last output, flat."""
        ctx.kept = [x, *(torch.from_numpy(out).permute(0, 3, 1, 2) for out in outputs)]
        ctx.weights = parameters[::2]
        found: Tensor = ctx.kept[-1].flatten(1)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Go through the layers from the last to the first, in the layout of the outputs."""
        aten, kept, found = torch.ops.aten, ctx.kept, list[Tensor]()
        g = gradients[0].view(kept[-1].shape).contiguous(memory_format=torch.channels_last)
        for i in range(len(ctx.weights) - 1, -1, -1):
            g = aten.elu_backward(g, 1.0, 1.0, 1.0, True, kept[i + 1])
            g, weight, bias = aten.convolution_backward(
                g, kept[i], ctx.weights[i], [g.shape[1]], [2, 2], [1, 1], [1, 1], False, [0, 0], 1, [i > 0, True, True]
            )
            found = [weight, bias, *found]
        return None, None, *found


class GridCNN(_Picture):
    """Small grids of things (MiniGrid, BabyAI): embedded, three 2x2 convolutions, one linear layer.

    A cell of MiniGrid holds the numbers of an object (0 to 10), a colour (0 to 5) and a state (0 to 3), while the space
    says 0 to 255. They are names: a key (5) is not half way between a door (4) and a ball (6). So every number of every
    channel has a vector of its own, and a cell is the sum of its vectors (the "bag of words" of BabyAI 1.1, Hui 2020,
    arXiv 2007.12770, which learns from fewer episodes there). No scale has to be right: as amounts over 255, as image
    code reads them, they would all be next to 0. Small pictures of light are for ``impala_resnet``.

    Differs in: 16 numbers per cell for 128, kernels of 2x2 with 32 channels and no instruction inside the convolutions;
    a view of 7x7 costs 0.4 million multiplications for 20 million.
    """

    def __init__(self, space: gym.Space[Any], encoder: Encoder, width: int = 16) -> None:
        super().__init__(space, encoder, 4)
        names = _greatest(space, encoder) + 1
        self.embedding = nn.EmbeddingBag(self.channels * names, width, mode="sum")
        nn.init.normal_(self.embedding.weight, std=self.channels**-0.5)  # a cell's sum has variance 1
        self.register_buffer("first", names * torch.arange(self.channels), persistent=False)
        self.cnn = nn.Sequential(
            nn.Conv2d(width, 32, 2), nn.ReLU(),
            nn.Conv2d(32, 32, 2), nn.ReLU(),
            nn.Conv2d(32, 32, 2), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        self.linear = nn.Sequential(nn.Linear(self.flat_size(self.cnn, width), encoder.features), nn.ReLU())

    def forward(self, pictures: Tensor) -> Tensor:
        """[N, *space.shape] -> [N, features]."""
        cells = self.channels_first(pictures).permute(0, 2, 3, 1) + self.get_buffer("first")  # [N, H, W, C]
        embedded: Tensor = self.embedding(cells.reshape(-1, self.channels))
        grid = embedded.view(len(pictures), self.height, self.width, -1).permute(0, 3, 1, 2)
        grid = grid.contiguous()  # of pictures this small, channels apart in memory are the faster ones
        features: Tensor = self.linear(self.cnn(grid))
        return features


def _greatest(space: gym.Space[Any], encoder: Encoder) -> int:
    """Return the greatest number that a picture of names can hold."""
    assert isinstance(space, gym.spaces.Box)
    if not np.issubdtype(space.dtype, np.integer) or space.low.min() < 0:
        raise UserError(f"the encoder {encoder.type} reads whole numbers from 0, not {space}")
    return int(space.high.max())


class GridMLP(_Picture):
    """The first layer of an MLP over a grid of names, one-hot: as ``GridCNN`` reads them, but every place by itself.

    For small views that turn with the agent (MiniGrid's 7x7), where a place means something: 9,408 additions where the
    convolutions of ``GridCNN`` take 0.4 million multiplications, 6 microseconds for 46 to learn from one picture (batch
    512, one core). It does not know that what stands one cell further left is the same thing.
    Numbers from 15 on share a name (MiniGrid's go to 10); [N, *space.shape] -> [N, features], ReLU.
    """

    def __init__(self, space: gym.Space[Any], encoder: Encoder, most: int = 16) -> None:
        super().__init__(space, encoder)
        self._last = min(_greatest(space, encoder), most - 1)
        size = self.channels * self.height * self.width
        self.embedding = nn.EmbeddingBag(size * (self._last + 1), encoder.features, mode="sum")
        nn.init.normal_(self.embedding.weight, std=(2 / size) ** 0.5)  # a sum has variance 2, He's for ReLU
        self.bias = nn.Parameter(torch.zeros(encoder.features))
        self.register_buffer("first", (self._last + 1) * torch.arange(size), persistent=False)

    def names(self, pictures: Tensor) -> Tensor:
        """[N, *space.shape] -> [N, H * W * C], the row of the weights for every number."""
        rows: Tensor = pictures.flatten(1).long().clamp_max(self._last) + self.get_buffer("first")
        return rows

    def forward(self, pictures: Tensor) -> Tensor:
        """[N, *space.shape] -> [N, features]."""
        return functional.relu(bag_sums(self.names(pictures), self.embedding.weight) + self.bias)


NETWORKS: dict[str, Callable[[gym.Space[Any], Encoder], nn.Module]] = {
    "nature_cnn": NatureCNN,
    "impala_small": ImpalaSmall,
    "impala_resnet": ImpalaResNet,
    "a3c_cnn": A3CCNN,
    "grid_cnn": GridCNN,
    "grid_mlp": GridMLP,
    "text_bag": TextBag,
    "text_lstm": TextLSTM,
    "text_words": TextWords,
}
"""The networks by the ``type`` of their ``Encoder``."""
