"""Features: the values of another implementation, and what must hold of any."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
import torch

from dream import ConfigError, DataError
from lightning_modules.speech.mfcc import MFCC

with pytest.MonkeyPatch.context() as patch:
    # numba would compile for 15 s what librosa has in Python as well
    for name in ("guvectorize", "jit", "stencil", "vectorize"):
        patch.setattr(numba, name, lambda *_, **__: lambda function: function)
    import librosa.feature.spectral
    import librosa.util.utils


def speech_like(seconds: float, rate: int) -> np.ndarray:
    """Noise and gliding tones that rise and fall."""
    random = np.random.default_rng(0)
    time = np.arange(int(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * (200 * time + 300 * time**2)) + 0.3 * np.sin(2 * np.pi * 1700 * time)
    return ((0.1 * tone + 0.01 * random.standard_normal(len(time))) * np.hanning(len(time))).astype(
        np.float32
    )


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        (dict(sample_rate=8000), 0.43),
        (dict(sample_rate=16000, n_mels=64, n_mfcc=20), 0.31),
        (dict(sample_rate=22050, window=0.03, hop=0.0125, n_fft=2048), 0.25),
        (dict(sample_rate=8000), 0.081),
        (dict(sample_rate=8000, top_db=40.0), 0.43),
    ],
)
def test_it_agrees_with_librosa(settings: dict[str, Any], seconds: float) -> None:
    mfcc = MFCC(**settings)
    samples = speech_like(seconds, mfcc.sample_rate)
    own = mfcc(torch.from_numpy(samples)[None])[0].numpy()
    power = librosa.feature.melspectrogram(
        y=samples,
        sr=mfcc.sample_rate,
        n_fft=mfcc.fft,
        hop_length=mfcc.hop_samples,
        win_length=mfcc.window_samples,
        n_mels=mfcc.n_mels,
    )
    values = librosa.feature.mfcc(S=librosa.power_to_db(power, top_db=mfcc.top_db), n_mfcc=mfcc.n_mfcc)
    theirs = np.concatenate([values, librosa.feature.delta(values), librosa.feature.delta(values, order=2)]).T
    assert own.shape == (1 + len(samples) // mfcc.hop_samples, mfcc.features)
    np.testing.assert_allclose(own, theirs, atol=1e-3)


def test_the_features_of_the_guide() -> None:
    assert MFCC().features == 39


def test_loudness_moves_the_first_coefficient_only() -> None:
    samples = 0.1 * torch.randn(1, 2400)
    mfcc = MFCC()
    change = mfcc(0.1 * samples) - mfcc(samples)
    expected = torch.zeros(39)
    expected[0] = -20 * mfcc.n_mels**0.5  # 20 dB in every band, through the first row of the orthonormal DCT
    torch.testing.assert_close(change, expected.expand_as(change), atol=2e-3, rtol=0)


def test_noise_below_the_range_of_levels_does_not_matter() -> None:
    word, random = torch.from_numpy(speech_like(0.3, 8000)), torch.Generator().manual_seed(0)
    silence = torch.zeros(1200)
    quiet, noisy = (
        torch.cat([word, silence + level * torch.randn(1200, generator=random)])[None]
        for level in (1e-5, 5e-4)
    )
    narrow, wide = MFCC(top_db=40.0), MFCC()
    frames = slice(40, None)  # of the silence alone
    torch.testing.assert_close(narrow(noisy)[:, frames], narrow(quiet)[:, frames])
    assert not torch.allclose(wide(noisy)[:, frames], wide(quiet)[:, frames], atol=1.0)


def test_rows_are_independent() -> None:
    samples = torch.from_numpy(speech_like(0.3, 8000))
    both = MFCC()(torch.stack([samples, 0.3 * samples.flip(0)]))
    torch.testing.assert_close(both[0], MFCC()(samples[None])[0])


def test_a_derivative_of_a_line_is_its_slope() -> None:
    taps = MFCC().taps[:, 0]
    place = torch.arange(-4.0, 5.0)
    polynomial = torch.stack([7 + 3 * place, 1 - 2 * place + 0.5 * 5 * place**2])
    torch.testing.assert_close((taps * polynomial).sum(1), torch.tensor([3.0, 5.0]))


def test_silence_is_finite() -> None:
    features = MFCC()(torch.zeros(1, 2000))
    assert features.isfinite().all()
    assert features[..., 13:].abs().max() < 1e-3  # rounding of a constant level of -100 dB


def test_a_recording_shorter_than_a_derivative_is_refused() -> None:
    assert MFCC()(torch.zeros(1, MFCC().least)).shape[1] == 9
    with pytest.raises(
        DataError, match=r"must last at least 0.08 s, 9 frames, to have derivatives; got 0.079875 s"
    ):
        MFCC()(torch.zeros(1, MFCC().least - 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(sample_rate=10), "`sample_rate` must be at least 1000 Hz; got 10"),
        (dict(window=2.0), "`window` must be from 8 samples to 1 second; got 2.0"),
        (dict(hop=0.0), "`hop` must be from 8 samples"),
        (dict(n_fft=100), "`n_fft` must be even, from the window's samples"),
        (dict(n_fft=301), "`n_fft` must be even, from the window's samples to 65536; got 301"),
        (dict(top_db=0.0), "`top_db` must be from 10 to 200 dB; got 0.0"),
        (dict(top_db=float("nan")), "`top_db` must be from 10 to 200 dB; got nan"),
        (dict(n_mfcc=41), "`n_mfcc` must be from 1 to `n_mels`; got 41"),
        (
            dict(n_mels=200),
            "`n_mels` must be few enough for every band to hold a frequency of `n_fft` 256; got 200",
        ),
        (dict(n_mels=10**9), "`n_mels` must be few enough"),
        (dict(n_mels=0), "`n_mfcc` must be from 1 to `n_mels`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MFCC(**settings)
