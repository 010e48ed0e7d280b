"""Mel-frequency cepstral coefficients with their first and second derivatives, in plain torch.

Shapes: N rows, S samples, T frames, M mel bands, Q coefficients; 3 Q features of a frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

from dream.errors import DataError
from lightning_modules.base import require

WIDTH = 9  # frames that a derivative is fitted to
AMIN, TOP_DB = 1e-10, 80.0  # least power, and how far below the loudest power of a recording the level may go
_LINEAR, _LOG_FROM, _LOG_STEP = (
    200 / 3,
    1000.0,
    math.log(6.4) / 27,
)  # Slaney: Hz per mel, Hz where logarithms begin, step


@dataclass(frozen=True)
class MFCC:
    """13 coefficients, deltas and double deltas: 39 features of each frame.

        power_tf = |STFT(x)|^2, Hann window, frame t centred on sample t hop, zeros beyond both ends level_tm
        = max(10 log10 max(sum_f mel_mf power_tf, 1e-10), loudest of the recording - 80) [dB] mfcc_tq = sum_m
        dct_qm level_tm, orthonormal DCT-II delta, double delta: first and second derivative, by frame, of a
        parabola's or line's least-squares fit to 9 frames (Savitzky and Golay, 1964); the first and last 4
        frames take the derivative of the fit nearest to them

    Mel bands are triangles of equal area on Slaney's scale (linear below 1 kHz, logarithmic above), from 0 to
    half the sample rate. Values agree with librosa's (`feature.mfcc`, `feature.delta`).

    Args:
        sample_rate: Hz of the recordings.
        window: Length of the window, in seconds.
        hop: Seconds from frame to frame.
        n_fft: Samples of the Fourier transform, an even number; the power of two from the window on if not
            given.
        n_mels: Mel bands.
        n_mfcc: Coefficients kept.

    Raises:
        ConfigError: a setting that is out of range or does not fit another.
    """

    sample_rate: int = 8000
    window: float = 0.025
    hop: float = 0.01
    n_fft: int | None = None
    n_mels: int = 40
    n_mfcc: int = 13

    def __post_init__(self) -> None:
        require("sample_rate", self.sample_rate, self.sample_rate >= 1000, "at least 1000 Hz")
        for name in ("window", "hop"):
            seconds = getattr(self, name)
            require(name, seconds, 8 / self.sample_rate <= seconds <= 1, "from 8 samples to 1 second")
        fits = self.window_samples <= self.fft <= 1 << 16 and self.fft % 2 == 0
        require("n_fft", self.n_fft, fits, "even, from the window's samples to 65536")
        require("n_mfcc", self.n_mfcc, 1 <= self.n_mfcc <= self.n_mels, "from 1 to `n_mels`")
        full = self.n_mels <= self.fft and bool((self.filters.amax(1) > 0).all())
        require(
            "n_mels",
            self.n_mels,
            full,
            f"few enough for every band to hold a frequency of `n_fft` {self.fft}",
        )

    @property
    def window_samples(self) -> int:
        """Samples of the window."""
        return round(self.window * self.sample_rate)

    @property
    def hop_samples(self) -> int:
        """Samples from frame to frame."""
        return round(self.hop * self.sample_rate)

    @property
    def fft(self) -> int:
        """Samples of the Fourier transform."""
        return 1 << (self.window_samples - 1).bit_length() if self.n_fft is None else self.n_fft

    @property
    def features(self) -> int:
        """Width of a frame: coefficients, their deltas and double deltas."""
        return 3 * self.n_mfcc

    @property
    def least(self) -> int:
        """Samples of the shortest recording: as many frames as a derivative is fitted to."""
        return (WIDTH - 1) * self.hop_samples

    @cached_property
    def filters(self) -> Tensor:
        """(M, n_fft / 2 + 1) weights of the mel bands."""
        hertz = np.fft.rfftfreq(self.fft, 1 / self.sample_rate)
        edges = _hertz(np.linspace(0, _mel(self.sample_rate / 2), self.n_mels + 2))
        slopes = (hertz - edges[:, None]) / np.diff(edges, append=np.inf)[:, None]
        falling = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
        triangles = np.maximum(0, np.minimum(slopes[:-2], falling))
        return torch.from_numpy(triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).float()

    @cached_property
    def dct(self) -> Tensor:
        """(Q, M) orthonormal DCT-II."""
        bands = (np.arange(self.n_mels) + 0.5) * np.pi / self.n_mels
        basis = np.cos(np.arange(self.n_mfcc)[:, None] * bands) * np.sqrt(2 / self.n_mels)
        basis[0] /= np.sqrt(2)
        return torch.from_numpy(basis).float()

    @cached_property
    def taps(self) -> Tensor:
        """(2, 1, WIDTH) what a line's slope and a parabola's curvature weigh the frames with."""
        place = np.arange(WIDTH) - WIDTH // 2
        fits = [
            math.factorial(k) * np.linalg.pinv(np.vander(place, k + 1, increasing=True))[k] for k in (1, 2)
        ]
        return torch.from_numpy(np.stack(fits)).float().unsqueeze(1)

    def coefficients(self, samples: Tensor) -> Tensor:
        """(N, T, Q) coefficients of `samples` (N, S), T = 1 + S // hop."""
        window = torch.hann_window(self.window_samples, dtype=samples.dtype)
        hop, width = self.hop_samples, self.window_samples
        spectrum = torch.stft(samples, self.fft, hop, width, window, pad_mode="constant", return_complex=True)
        power = spectrum.abs().square()
        level = 10 * (self.filters @ power).clamp_min(AMIN).log10()
        level = torch.maximum(level, level.amax((1, 2), keepdim=True) - TOP_DB)
        return (self.dct @ level).transpose(1, 2)

    def require_length(self, samples: int) -> None:
        """Refuse a recording of too few samples.

        Raises:
            DataError: there are fewer than `least`.
        """
        if samples < self.least:
            raise DataError(
                f"a recording must last at least {self.least / self.sample_rate:g} s, {WIDTH} frames, to "
                "have derivatives; "
                f"got {samples / self.sample_rate:g} s ({samples} samples). Leave it out."
            )

    def __call__(self, samples: Tensor) -> Tensor:
        """(N, T, 3 Q) features of `samples` (N, S), float32 between -1 and 1: coefficients, deltas, double
        deltas.

        Raises:
            DataError: the rows are shorter than `least`.
        """
        self.require_length(samples.shape[1])
        values = self.coefficients(samples)
        rows, frames, _ = values.shape
        series = values.transpose(1, 2).reshape(rows * self.n_mfcc, 1, frames)
        moved = pad(conv1d(series, self.taps), (WIDTH // 2, WIDTH // 2), mode="replicate")  # (N Q, 2, T)
        derivatives = moved.view(rows, self.n_mfcc, 2, frames).permute(0, 3, 2, 1).flatten(2)
        return torch.cat([values, derivatives], -1)


def _mel(hertz: float) -> float:
    return (
        hertz / _LINEAR
        if hertz < _LOG_FROM
        else _LOG_FROM / _LINEAR + math.log(hertz / _LOG_FROM) / _LOG_STEP
    )


def _hertz(mel: np.ndarray) -> np.ndarray:
    border = _LOG_FROM / _LINEAR
    logarithmic = _LOG_FROM * np.exp(_LOG_STEP * (np.maximum(mel, border) - border))
    return np.where(mel < border, _LINEAR * mel, logarithmic)
