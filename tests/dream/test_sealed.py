"""Files with a checksum."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dream.errors import CheckpointError
from dream.sealed import checksum, note, read_note, read_sealed, write_sealed

KIND = {"format": "test"}
FINE = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int64, torch.complex64, *FINE])
@pytest.mark.parametrize("shape", [(), (3, 2), (0, 4)])
def test_every_kind_of_tensor_goes_round_and_none_may_change(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    value = torch.rand(shape).to(dtype)
    write_sealed(tmp_path / "file", KIND, {"x": value})
    back = read_sealed(tmp_path / "file", "a test", KIND)[1]["x"]
    assert back.dtype == dtype
    assert torch.equal(back.reshape(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8))
    if value.numel():
        content = (tmp_path / "file").read_bytes()
        (tmp_path / "file").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(CheckpointError, match="is damaged"):
            read_sealed(tmp_path / "file", "a test", KIND)


def test_an_empty_tensor_may_have_any_stride(tmp_path: Path) -> None:
    write_sealed(tmp_path / "file", KIND, {"x": torch.zeros(1, dtype=torch.int64).as_strided((0,), (0,))})
    assert read_sealed(tmp_path / "file", "a test", KIND)[1]["x"].shape == (0,)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.arange(6.0).reshape(2, 3).T, "341c19d5d190aa27"),
        (torch.tensor([True, False]), "20ec91dfc9dd9071"),
        (torch.tensor(5), "fafcafe63da97c83"),
        (torch.ones(2, dtype=torch.complex64).conj(), "518c23538b3ed95c"),
    ],
)
def test_checksums_of_older_files_hold(value: Tensor, expected: str) -> None:
    assert checksum({"a": "b"}, {"x": value})[:16] == expected


def test_a_changed_note_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "note"
    path.write_bytes(note({"a": [1, None, "b"]}))
    assert read_note(path) == {"a": [1, None, "b"]}
    content = path.read_bytes()
    flipped = [content[:k] + bytes([content[k] ^ 1]) + content[k + 1 :] for k in range(len(content))]
    write_sealed(other := tmp_path / "other", {}, {"x": torch.zeros(3)})
    for damage in (b"", content[:-1], b"\xff" + content, b"{}", other.read_bytes(), *flipped):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match="is damaged"):
            read_note(path)
