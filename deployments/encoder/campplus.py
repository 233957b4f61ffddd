"""The speaker network, CAM++, in torch and batched.

The published file is an ONNX graph whose means over time leave no room for padding, so ONNX Runtime takes its clips
one by one. Here padding is masked before each convolution and left out of each mean: a batch gives what its clips
give alone. Batch norms that follow a convolution are folded into it, those before one are scales and shifts.
Architecture: Wang et al., CAM++, 2023 (a convolutional head over the spectrogram, three densely connected blocks of
time-delay layers gated by their context, mean and deviation over time, a projection).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

BANDS = 80
HEAD_CHANNELS = 32
LAYERS = (12, 24, 16)
DILATIONS = (1, 2, 2)
SEGMENT = 100  # frames that share a context


class Affine(nn.Module):
    """A batch norm in inference: a scale and a shift for each channel of (batch, channels, frames)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias[:, None], x, self.weight[:, None])


class ResidualBlock(nn.Module):
    """Two convolutions over (bands, frames); with a stride it halves the bands and its shortcut does too."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, stride=(stride, 1), padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, channels, 1, stride=(stride, 1)) if stride > 1 else None

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        out = self.second(_rectify(self.first(x), mask))
        return _rectify(out.add_(x if self.shortcut is None else self.shortcut(x)), mask)


class DenseLayer(nn.Module):
    """A time-delay layer whose output is gated by the context of its segment and of the whole clip."""

    def __init__(self, channels: int, width: int, growth: int, dilation: int) -> None:
        super().__init__()
        self.norm = Affine(channels)
        self.narrow = nn.Conv1d(channels, width, 1)
        self.local = nn.Conv1d(width, growth, 3, padding=dilation, dilation=dilation, bias=False)
        self.context1 = nn.Conv1d(width, width // 2, 1)
        self.context2 = nn.Conv1d(width // 2, growth, 1)

    def forward(self, x: Tensor, mask: Tensor | None, pooling: Tensor, segments: Tensor) -> Tensor:
        x = _rectify(self.narrow(_rectify(self.norm(x))), mask)
        context = functional.relu(self.context1(x @ pooling))  # (batch, width / 2, segments)
        gate = self.context2(context).sigmoid().index_select(2, segments)
        return self.local(x) * gate


class CamPlus(nn.Module):
    """Filter banks without their mean -> speaker vectors.

    Args:
        channels: of the first time-delay layer. growth: what each dense layer adds. width: of the dense layers.
        size: of the speaker vector.
    """

    def __init__(self, channels: int = 128, growth: int = 32, width: int = 128, size: int = 192) -> None:
        super().__init__()
        self.head_in = nn.Conv2d(1, HEAD_CHANNELS, 3, padding=1)
        self.head = nn.ModuleList(ResidualBlock(HEAD_CHANNELS, stride) for stride in (2, 1, 2, 1))
        self.head_out = nn.Conv2d(HEAD_CHANNELS, HEAD_CHANNELS, 3, stride=(2, 1), padding=1)
        self.tdnn = nn.Conv1d(HEAD_CHANNELS * BANDS // 8, channels, 5, stride=2, padding=2)
        self.blocks, self.transits = nn.ModuleList(), nn.ModuleList()
        for layers, dilation in zip(LAYERS, DILATIONS, strict=True):
            last = len(self.blocks) == len(LAYERS) - 1  # a batch norm follows its transition, folded into a bias
            sizes = range(channels, channels + layers * growth, growth)
            self.blocks.append(nn.ModuleList(DenseLayer(inputs, width, growth, dilation) for inputs in sizes))
            channels += layers * growth
            transit = nn.Conv1d(channels, channels // 2, 1, bias=last)
            self.transits.append(nn.Sequential(Affine(channels), nn.ReLU(), transit))
            channels //= 2
        self.dense = nn.Conv1d(2 * channels, size, 1)

    def forward(self, fbanks: list[Tensor]) -> list[Tensor]:
        """(frames, 80) of any lengths -> (192,) each."""
        lengths = torch.tensor([len(fbank) for fbank in fbanks])
        device = fbanks[0].device
        x = nn.utils.rnn.pad_sequence(fbanks, batch_first=True).transpose(1, 2)[:, None]  # (batch, 1, 80, frames)
        equal = bool((lengths == lengths[0]).all())  # then nothing needs masking
        x = self._head(x, None if equal else _mask(lengths, x.shape[-1]).to(device)[:, None, None])
        lengths = (lengths + 1) // 2
        frames = (x.shape[-1] + 1) // 2
        mask = _mask(lengths, frames)
        pooling = _pooling(lengths, mask).to(device)
        segments = (torch.arange(frames) // SEGMENT).to(device)
        x = self._dense(x, None if equal else mask.to(device)[:, None], pooling, segments)
        mean, deviation = _statistics(x, mask.to(device)[:, None], lengths.to(device)[:, None])
        return list(self.dense(torch.cat([mean, deviation], dim=1)[..., None])[..., 0])

    def _head(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, 1, 80, frames) -> (batch, 320, frames)."""
        x = _rectify(self.head_in(x), mask)
        for block in self.head:
            x = block(x, mask)
        return _rectify(self.head_out(x), mask).flatten(1, 2)

    def _dense(self, x: Tensor, mask: Tensor | None, pooling: Tensor, segments: Tensor) -> Tensor:
        x = _rectify(self.tdnn(x))
        for block, transit in zip(self.blocks, self.transits, strict=True):
            assert isinstance(block, nn.ModuleList)
            for layer in block:
                x = torch.cat([x, layer(x, mask, pooling, segments)], dim=1)
            x = transit(x)
        return _rectify(x)


def _rectify(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """ReLU in place, and zeros beyond each clip's end."""
    x = x.relu_()
    return x if mask is None else x.mul_(mask)


def _mask(lengths: Tensor, frames: int) -> Tensor:
    """(batch, frames) of 1 within each length and 0 beyond."""
    return (torch.arange(frames) < lengths[:, None]).float()


def _pooling(lengths: Tensor, mask: Tensor) -> Tensor:
    """(batch, frames, segments): a product with it gives each segment's mean plus the whole clip's."""
    frames = mask.shape[1]
    own = functional.one_hot(torch.arange(frames) // SEGMENT).float() * mask[..., None]
    return own / own.sum(1, keepdim=True).clamp(min=1) + mask[..., None] / lengths[:, None, None]


def _statistics(x: Tensor, mask: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased deviation of (batch, channels, frames) within each length."""
    mean = (x * mask).sum(-1) / lengths
    variance = ((x - mean[..., None]) * mask).square().sum(-1) / (lengths - 1)
    return mean, variance.sqrt()
