"""The one-shot protocol of Omniglot: its features, its parts, and archives that are refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imsave

from dream import ConfigError, DataError
from lightning_modules.classification import Omniglot
from lightning_modules.classification.omniglot import TESTED, drawings
from lightning_modules.naive import nearest_labelled, nearest_mean_so_far


def png(side: int = 105, level: float = 0.0) -> bytes:
    """A grey PNG of one brightness."""
    written = io.BytesIO()
    imsave(written, np.full((side, side), level), cmap="gray", vmin=0, vmax=1, format="png")
    return written.getvalue()


def grey(content: bytes) -> bytes:
    """The same PNG with one channel, as the set's are."""
    from PIL import Image

    written = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("1").save(written, "png")
    return written.getvalue()


def archive(folder: Path, members: dict[str, bytes]) -> None:
    (folder / "omniglot").mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "omniglot/images_background_small1.zip", "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


@pytest.mark.data
def test_the_parts_are_those_of_the_protocol() -> None:
    data = Omniglot()
    assert {part: len(classes) for part, classes in data.pool.items()} == {
        "train": 4 * (136 - 22),
        "val": 22,
        "test": 106,
    }
    assert {len(examples) for classes in data.pool.values() for examples in classes} == {20}
    features = np.concatenate(data.pool["train"])
    assert features.shape[1] == data.shape.features == 64
    np.testing.assert_allclose(np.cov(features.T), np.eye(64), atol=2e-3)
    assert data.sequence("test", 999).name == "Omniglot, validation Early_Aramaic, test sequence 999"


@pytest.mark.data
def test_what_needs_no_training_is_as_good_as_measured_elsewhere() -> None:
    """Nearest neighbour 0.507, nearest mean 0.460, over all instances."""
    right: dict[str, list[torch.Tensor]] = {"neighbour": [], "mean": []}
    for batch in Omniglot().test_dataloader():
        features = batch.inputs[..., :64]
        right["neighbour"].append(nearest_labelled(features, batch.labels) == batch.labels)
        right["mean"].append(nearest_mean_so_far(features, batch.labels, 5) == batch.labels)
    found = {name: float(torch.cat(parts).float().mean()) for name, parts in right.items()}
    assert found == pytest.approx({"neighbour": 0.507, "mean": 0.460}, abs=0.01)


@pytest.mark.data
def test_an_unknown_alphabet_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`validation` must be one of Balinese, .*; got 'Latim'\. Did you"):
        Omniglot(validation="Latim").setup()


def test_drawings_are_read_by_alphabet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAM_DATA", str(tmp_path))
    names = [f"set/{alphabet}/character01/{k}.png" for alphabet in TESTED for k in range(2)]
    archive(tmp_path, {name: grey(png(level=k % 2)) for k, name in enumerate(names)} | {"set/": b""})
    found = drawings("images_background_small1.zip")
    assert sorted(found) == sorted(TESTED)
    (images,) = found["Tagalog"]
    assert images.shape == (2, 28, 28)
    np.testing.assert_allclose(images.mean((1, 2)), [1, 0], atol=1e-6)  # ink is 1, paper 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "set/Latin/one.png",
            b"",
            r"must be called ARCHIVE/ALPHABET/CHARACTER/NAME\.png; got 'set/Latin/one",
        ),
        ("set/Latin/a/one.png", b"GIF", r"one\.png: must be a PNG of 105 x 105 pixels"),
        ("set/Latin/a/one.png", png(104), r"one\.png: must be a PNG of 105 x 105 pixels"),
        ("set/Latin/a/one.png", png(), r"one\.png: must be a PNG without colours"),
        ("set/Latin/a/one.png", grey(png())[:45], r"one\.png: cannot be read as PNG"),
        ("set/Latin/a/one.png", bytes(1 << 17), r"a drawing must have at most 65536 bytes"),
    ],
)
def test_what_is_broken_is_refused(
    name: str, content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREAM_DATA", str(tmp_path))
    archive(tmp_path, {name: content})
    with pytest.raises(DataError, match=message):
        drawings("images_background_small1.zip")


def test_a_set_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAM_DATA", str(tmp_path))
    with pytest.raises(DataError, match="run `dream data get omniglot`"):
        Omniglot().setup()
