"""Mel-frequency cepstral coefficients with their first and second derivatives, in plain torch.

Shapes: N recordings, S audio samples, T frames, M mel bands, Q coefficients; 3 Q features of a frame.
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
from lightning_modules.checks import require

WIDTH = 9  # frames to which a derivative is fitted
AMIN = 1e-10  # least power
# Slaney's mel scale: Hz per mel, Hz from which on it is logarithmic, and step of the logarithm
_LINEAR, _LOG_FROM, _LOG_STEP = 200 / 3, 1000.0, math.log(6.4) / 27


@dataclass(frozen=True)
class MFCC:
    """13 coefficients, deltas and double deltas: 39 features of each frame.

        power_tf = |STFT(x)|^2,  Hann window, frame t centred on sample t hop, zeros beyond both ends
        level_tm = max(10 log10 max(sum_f mel_mf power_tf, 1e-10), loudest of the recording - top_db)  [dB]
        mfcc_tq  = sum_m dct_qm level_tm,  orthonormal DCT-II

    Delta and double delta are the first and second derivative, by frame, of a line and a parabola fitted to 9
    frames by least squares (Savitzky and Golay, 1964); the first and last 4 frames take the derivative of the
    nearest fit.

    Mel bands are triangles of equal area on Slaney's scale (linear below 1 kHz, logarithmic above), from 0 to
    half the sample rate. Values agree with librosa's (`feature.mfcc`, `feature.delta`).

    A `top_db` near the distance from speech to the noise of the recordings hides that noise, by which
    microphones and rooms differ more than speakers.

    Args:
        sample_rate: Sample rate of the recordings, in Hz.
        window: Length of the window, in seconds.
        hop: Time from frame to frame, in seconds.
        n_fft: Samples of the Fourier transform, an even number; the smallest power of two that holds the
            window if not given.
        n_mels: Number of mel bands.
        n_mfcc: Number of coefficients.
        top_db: Range of the levels, in dB: quieter ones than that below the loudest of the recording are
            raised to it.

    Raises:
        ConfigError: a setting is out of range or does not fit another.
    """

    sample_rate: int = 8000
    window: float = 0.025
    hop: float = 0.01
    n_fft: int | None = None
    n_mels: int = 40
    n_mfcc: int = 13
    top_db: float = 80.0

    def __post_init__(self) -> None:
        require("sample_rate", self.sample_rate, self.sample_rate >= 1000, "at least 1000 Hz")
        for name in ("window", "hop"):
            seconds = getattr(self, name)
            require(name, seconds, 8 / self.sample_rate <= seconds <= 1, "from 8 samples to 1 second")
        fits = self.window_samples <= self.fft <= 1 << 16 and self.fft % 2 == 0
        require("n_fft", self.n_fft, fits, "even, from the window's samples to 65536")
        require("top_db", self.top_db, 10 <= self.top_db <= 200, "from 10 to 200 dB")
        require("n_mfcc", self.n_mfcc, 1 <= self.n_mfcc <= self.n_mels, "from 1 to `n_mels`")
        full = self.n_mels <= self.fft and bool((self.filters.amax(1) > 0).all())
        rule = f"few enough for every band to hold a frequency of `n_fft` {self.fft}"
        require("n_mels", self.n_mels, full, rule)

    @property
    def window_samples(self) -> int:
        """Length of the window, in samples."""
        return round(self.window * self.sample_rate)

    @property
    def hop_samples(self) -> int:
        """Distance from frame to frame, in samples."""
        return round(self.hop * self.sample_rate)

    @property
    def fft(self) -> int:
        """Length of the Fourier transform, in samples."""
        return 1 << (self.window_samples - 1).bit_length() if self.n_fft is None else self.n_fft

    @property
    def features(self) -> int:
        """Width of a frame: coefficients, their deltas and double deltas."""
        return 3 * self.n_mfcc

    @property
    def least(self) -> int:
        """Length of the shortest recording, in samples: the frames that one derivative needs."""
        return (WIDTH - 1) * self.hop_samples

    @cached_property
    def filters(self) -> Tensor:
        """Weights of the mel bands, (M, n_fft / 2 + 1)."""
        hertz = np.fft.rfftfreq(self.fft, 1 / self.sample_rate)
        edges = _hertz(np.linspace(0, _mel(self.sample_rate / 2), self.n_mels + 2))
        slopes = (hertz - edges[:, None]) / np.diff(edges, append=np.inf)[:, None]
        falling = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
        triangles = np.maximum(0, np.minimum(slopes[:-2], falling))
        return torch.from_numpy(triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).float()

    @cached_property
    def dct(self) -> Tensor:
        """Orthonormal DCT-II, (Q, M)."""
        bands = (np.arange(self.n_mels) + 0.5) * np.pi / self.n_mels
        basis = np.cos(np.arange(self.n_mfcc)[:, None] * bands) * np.sqrt(2 / self.n_mels)
        basis[0] /= np.sqrt(2)
        return torch.from_numpy(basis).float()

    @cached_property
    def taps(self) -> Tensor:
        """Weights (2, 1, WIDTH) of the frames in the slope of a line and the curvature of a parabola."""
        place = np.arange(WIDTH) - WIDTH // 2
        fits = [
            math.factorial(k) * np.linalg.pinv(np.vander(place, k + 1, increasing=True))[k] for k in (1, 2)
        ]
        return torch.from_numpy(np.stack(fits)).float().unsqueeze(1)

    def coefficients(self, samples: Tensor) -> Tensor:
        """Coefficients (N, T, Q) of `samples` (N, S), T = 1 + S // hop."""
        window = torch.hann_window(self.window_samples, dtype=samples.dtype)
        hop, width = self.hop_samples, self.window_samples
        spectrum = torch.stft(samples, self.fft, hop, width, window, pad_mode="constant", return_complex=True)
        power = spectrum.abs().square()
        level = 10 * (self.filters @ power).clamp_min(AMIN).log10()
        level = torch.maximum(level, level.amax((1, 2), keepdim=True) - self.top_db)
        return (self.dct @ level).transpose(1, 2)

    def require_length(self, samples: int) -> None:
        """Refuse a recording that is too short.

        Raises:
            DataError: it has fewer samples than `least`.
        """
        if samples < self.least:
            raise DataError(
                f"a recording must last at least {self.least / self.sample_rate:g} s, {WIDTH} frames, to "
                f"have derivatives; got {samples / self.sample_rate:g} s ({samples} samples). Leave it out."
            )

    def __call__(self, samples: Tensor) -> Tensor:
        """Features (N, T, 3 Q) of `samples` (N, S), float32 in [-1, 1]: coefficients, deltas, double deltas.

        Raises:
            DataError: the recordings are shorter than `least`.
        """
        self.require_length(samples.shape[1])
        values = self.coefficients(samples)
        recordings, frames, _ = values.shape
        series = values.transpose(1, 2).reshape(recordings * self.n_mfcc, 1, frames)
        moved = pad(conv1d(series, self.taps), (WIDTH // 2, WIDTH // 2), mode="replicate")  # (N Q, 2, T)
        derivatives = moved.view(recordings, self.n_mfcc, 2, frames).permute(0, 3, 2, 1).flatten(2)
        return torch.cat([values, derivatives], -1)


def _mel(hertz: float) -> float:
    if hertz < _LOG_FROM:
        return hertz / _LINEAR
    return _LOG_FROM / _LINEAR + math.log(hertz / _LOG_FROM) / _LOG_STEP


def _hertz(mel: np.ndarray) -> np.ndarray:
    border = _LOG_FROM / _LINEAR
    logarithmic = _LOG_FROM * np.exp(_LOG_STEP * (np.maximum(mel, border) - border))
    return np.where(mel < border, _LINEAR * mel, logarithmic)
