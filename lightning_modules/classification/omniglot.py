"""The Omniglot set: drawings of characters, and the sequences of its one-shot protocol."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from matplotlib.image import imread
from torch.nn.functional import interpolate

from dream.errors import ConfigError, DataError, nearest
from lightning_modules.checks import require, require_int
from lightning_modules.classification.data import EpisodeData, Part
from lightning_modules.data.archive import UNREADABLE, Archive
from lightning_modules.data.catalogue import data_path

DRAWN = 105  # pixels a side of a drawing
SIDE = 28  # pixels a side, scaled down
TESTED = ("Japanese_(katakana)", "Sanskrit", "Tagalog")
TURNS = 4  # by 90 degrees
_MOST_BYTES = 1 << 16


class Omniglot(EpisodeData):
    """Handwritten characters of the Omniglot set, one-shot: alphabets of the test are never trained on.

    Training draws from the five alphabets of `images_background_small1.zip` except that of the validation,
    each character also turned by 90, 180 and 270 degrees as three further classes; the test draws from
    Japanese, Sanskrit and Tagalog of `images_background_small2.zip`. A drawing is scaled down to 28 x 28
    pixels, of which `components` principal components are kept, fitted to the training drawings and scaled to
    variance 1. Source: Lake, Salakhutdinov and Tenenbaum, Human-level concept learning through probabilistic
    program induction, 2015.

    Args:
        components: Principal components of a drawing, its features.
        validation: Alphabet that picks the best epoch, without turned characters.
    """

    deviations: np.ndarray
    """(F,) float32, deviation over the training drawings of each component, by which it is divided; set once
    the drawings are read"""

    def __init__(self, components: int = 64, validation: str = "Early_Aramaic", **options: Any) -> None:
        super().__init__(**options)
        self.components = require_int("components", components)
        require("components", components, components <= SIDE * SIDE, f"at most {SIDE * SIDE}")
        self.validation = validation

    @property
    def source(self) -> str:
        return f"Omniglot, validation {self.validation}"

    @property
    def features(self) -> int:
        return self.components

    @property
    def readings(self) -> Mapping[str, Any]:
        return {**super().readings, "components": self.components, "validation": self.validation}

    def read(self) -> Mapping[Part, list[np.ndarray]]:
        trained, tested = (drawings(f"images_background_small{number}.zip") for number in (1, 2))
        if self.validation not in trained:
            raise ConfigError(
                f"`validation` must be one of {', '.join(trained)}; got {self.validation!r}. "
                f"{nearest(self.validation, trained)}",
                key="validation",
            )
        if missing := [name for name in TESTED if name not in tested]:
            raise DataError(
                f"images_background_small2.zip: the alphabet {missing[0]} is not there. Copy it again."
            )
        held = trained.pop(self.validation)
        turned = [
            np.rot90(images, turn, (1, 2))
            for alphabet in trained.values()
            for images in alphabet
            for turn in range(TURNS)
        ]
        parts: dict[Part, list[np.ndarray]] = {
            "train": turned,
            "val": held,
            "test": [images for name in TESTED for images in tested[name]],
        }
        pixels = np.concatenate(turned).reshape(-1, SIDE * SIDE)
        mean = pixels.mean(0)
        values, vectors = np.linalg.eigh((pixels - mean).T @ (pixels - mean) / len(pixels))
        self.deviations = np.sqrt(values.clip(1e-12))[::-1][: self.components].astype(np.float32)
        axes = vectors[:, ::-1][:, : self.components] / self.deviations
        return {
            part: [((images.reshape(-1, SIDE * SIDE) - mean) @ axes).astype(np.float32) for images in classes]
            for part, classes in parts.items()
        }


def drawings(file: str) -> dict[str, list[np.ndarray]]:
    """Alphabets of an archive of Omniglot, by name, each the drawings (M, 28, 28) of its characters, ink 1.

    Raises:
        DataError: the archive is not there or damaged, or a drawing is no PNG of 105 x 105 pixels.
    """
    archive = Archive(data_path("omniglot", file), "drawing", ".png", _MOST_BYTES)
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for name in sorted(archive.names):
        folders = PurePosixPath(name).parts
        if len(folders) != 4:
            raise DataError(
                f"{archive.path}: drawings must be called ARCHIVE/ALPHABET/CHARACTER/NAME.png; got {name!r}."
            )
        image = _pixels(archive.content(name), f"{archive.path}, {name}")
        found.setdefault(folders[1], {}).setdefault(folders[2], []).append(image)
    return {
        alphabet: [_scaled_down(np.stack(images)) for images in characters.values()]
        for alphabet, characters in found.items()
    }


def _pixels(content: bytes, name: str) -> np.ndarray:
    """(105, 105) pixels of a PNG file, ink 1 and paper 0."""
    size = tuple(int.from_bytes(content[start : start + 4]) for start in (16, 20))
    if content[:8] != b"\x89PNG\r\n\x1a\n" or size != (DRAWN, DRAWN):  # before anything is unpacked
        raise DataError(f"{name}: must be a PNG of {DRAWN} x {DRAWN} pixels. Copy the archive again.")
    try:
        image = imread(io.BytesIO(content), format="png")
    except (*UNREADABLE, SyntaxError) as error:  # the latter is what damaged chunks raise
        raise DataError(f"{name}: cannot be read as PNG ({error}). Copy the archive again.") from None
    if image.shape != (DRAWN, DRAWN):
        raise DataError(f"{name}: must be a PNG without colours. Copy the archive again.")
    return np.asarray(1 - image, dtype=np.float32)


def _scaled_down(images: np.ndarray) -> np.ndarray:
    """(M, 105, 105) pixels as (M, 28, 28), bilinear with antialiasing."""
    small = interpolate(torch.from_numpy(images)[:, None], size=SIDE, mode="bilinear", antialias=True)
    return small[:, 0].numpy()
