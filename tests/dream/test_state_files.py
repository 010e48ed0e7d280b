"""Files of states: what is written, what is refused, and what a failure leaves behind."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dream import DREAM, CheckpointError, DREAMError, DREAMState, DREAMWarning, StateError
from dream.numerics import largest
from dream.sealed import read_sealed, write_sealed
from dream.state import KIND
from tests.dream.support import F32, F64, assert_same, random_state, small


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "state.safetensors"
    random_state(small(), 3).save(path, small())
    return path


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], None]) -> None:
    """The same file with other contents, sealed again."""
    header, tensors = read_sealed(path, "DREAMState.save", KIND)
    change(tensors, header)
    write_sealed(path, header, tensors)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kind", [str, Path])
def test_round_trip(tmp_path: Path, rows: int, dtype: torch.dtype, kind: type) -> None:
    config, state = small(), random_state(small(), rows, dtype=dtype)
    path = kind(tmp_path / "state.safetensors")
    state.save(path, config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = DREAMState.load(path, config)
    assert_same(loaded, state, atol=0, rtol=0)
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]


def test_it_is_safetensors_with_a_version_and_the_config(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        header = file.metadata()
        assert set(file.keys()) == {field.name for field in dataclasses.fields(DREAMState)}
    assert int(header["version"]) >= 1
    assert json.loads(header["config"]) == dataclasses.asdict(small())


def test_views_shared_tensors_and_gradients_can_be_saved(tmp_path: Path) -> None:
    config = small()
    layer = DREAM.from_config(config)
    state = layer(torch.randn(4, 6, 3, requires_grad=True))[1]
    awkward = [state, state[1:3], state[::2], dataclasses.replace(state, U_target=state.U)]
    awkward.append(dataclasses.replace(state, error_mean=torch.zeros(1, 3).expand(4, 3)))
    for k, one in enumerate(awkward):
        one.save(tmp_path / f"{k}.safetensors", config)
        assert_same(DREAMState.load(tmp_path / f"{k}.safetensors", config), one.detach(), atol=0, rtol=0)


def test_going_on_from_a_file_is_going_on(tmp_path: Path) -> None:
    layer = DREAM(3, 5, 2).eval()
    x = torch.randn(2, 20, 3)
    whole, _ = layer(x)
    _, state = layer(x[:, :9])
    state.save(tmp_path / "s.safetensors", layer.get_config())
    rest, _ = layer(x[:, 9:], DREAMState.load(tmp_path / "s.safetensors", layer.get_config()))
    torch.testing.assert_close(rest, whole[:, 9:], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("field", "value"), [("input_dim", 4), ("hidden_dim", 6), ("rank", 3)])
def test_other_dimensions_are_refused(saved: Path, field: str, value: int) -> None:
    was = getattr(small(), field)
    with pytest.raises(CheckpointError, match=rf"`{field}` {was} in the file, {value} here"):
        DREAMState.load(saved, small(**{field: value}))


def test_other_knobs_are_warned_about(saved: Path) -> None:
    with pytest.warns(
        DREAMWarning, match=r"`base_threshold` 0\.5 in the file, 0\.4 here; `kappa` 0\.5 in the file, 0\.9"
    ) as seen:
        state = DREAMState.load(saved, small(kappa=0.9, base_threshold=0.4))
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert_same(state, random_state(small(), 3), atol=0, rtol=0)


def test_a_state_that_does_not_fit_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"`state\.U`"):
        random_state(small(), 3).save(tmp_path / "s.safetensors", small(rank=3))
    assert list(tmp_path.iterdir()) == []


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def damage_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 20)


def foreign_torch(path: Path) -> None:
    torch.save({"h": torch.zeros(2)}, path)


def foreign_safetensors(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, path)


def foreign_text(path: Path) -> None:
    path.write_text("model:\n  rank: 8\n")


def later_version(path: Path) -> None:
    rewrite(path, lambda _, header: header.update(version="999"))


def without_config(path: Path) -> None:
    rewrite(path, lambda _, header: header.pop("config"))


def broken_config(path: Path) -> None:
    rewrite(path, lambda _, header: header.update(config="{"))


def illegal_config(path: Path) -> None:
    rewrite(path, lambda _, header: header.update(config='{"rank": -1}'))


def missing_field(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.pop("U"))


def extra_field(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update(W=torch.zeros(2)))


def wrong_shape(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update(U=torch.zeros(3, 5, 9, dtype=F64)))


def wrong_dtype(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update(U=torch.zeros(3, 5, 2, dtype=torch.int64)))


def scalar(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update(h=torch.tensor(1.0, dtype=F64)))


def all_integers(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({n: value.long() for n, value in tensors.items()}))


def all_complex(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({n: value.cfloat() for n, value in tensors.items()}))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def missing(path: Path) -> None:
    path.unlink()


DAMAGES = [
    damage_truncate,
    damage_header,
    damage_empty,
    damage_noise,
    foreign_torch,
    foreign_safetensors,
    foreign_text,
]
DAMAGES += [later_version, without_config, broken_config, illegal_config, missing_field, extra_field]
DAMAGES += [wrong_shape, wrong_dtype, scalar, all_integers, all_complex, folder, missing]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_foreign_files_are_refused(saved: Path, damage: Callable[[Path], None]) -> None:
    damage(saved)
    with pytest.raises(CheckpointError) as caught:
        DREAMState.load(saved, small())
    assert isinstance(caught.value, DREAMError)
    assert saved.name in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(
    ("field", "value"),
    [(name, value) for name in DREAMState.shapes(small(), 1) for value in (math.nan, math.inf, -math.inf)]
    + [("h", 1.01), ("h", -2.0), ("adaptive_tau", 0.0), ("adaptive_tau", -0.5), ("error_var", -1e-9)]
    + [("error_var", 3e38), ("avg_surprise", -0.01), ("avg_surprise", 1.1)],
)
def test_values_that_no_layer_reaches_are_refused(
    tmp_path: Path, field: str, value: float, dtype: torch.dtype
) -> None:
    if (field, value, dtype) == ("error_var", 3e38, F64):
        value = 1.7e308
    path, state = tmp_path / "state.safetensors", random_state(small(), 3, dtype=dtype)
    state.save(path, small())

    def change(tensors: dict[str, torch.Tensor], _: dict[str, str]) -> None:
        tensors[field].view(-1)[-1] = value

    rewrite(path, change)
    with pytest.raises(CheckpointError, match=rf"{path.name} is inconsistent: `state\.{field}` must "):
        DREAMState.load(path, small())
    getattr(state, field).view(-1)[-1] = value
    if field != "h" or not math.isfinite(value):  # h may be the memory of another core
        assert state.sound().tolist() == [True, True, False]
        with pytest.raises(StateError, match=rf"`state\.{field}` must be "):
            state.save(path, small())


def test_what_a_stream_that_rests_reaches_is_a_state(tmp_path: Path) -> None:
    config = small(error_smoothing=0.9, surprise_smoothing=0.9)
    layer, path = DREAM.from_config(config).eval(), tmp_path / "state.safetensors"
    _, state = layer(torch.zeros(2, 300, 3))
    assert not state.error_var.any()
    state.save(path, config)
    assert_same(DREAMState.load(path, config), state.detach(), atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_what_the_wildest_input_leaves_is_a_state(tmp_path: Path, dtype: torch.dtype) -> None:
    config, generator = small(error_smoothing=0.5), torch.Generator().manual_seed(0)
    layer, path = DREAM.from_config(config).to(dtype).eval(), tmp_path / "state.safetensors"
    x = torch.randn(4, 400, 3, generator=generator, dtype=dtype).sign() * largest(dtype) * 0.99
    _, state = layer(x)
    assert float(state.error_var.max()) > largest(dtype) ** 2 / 40
    state.save(path, config)
    assert_same(DREAMState.load(path, config), state.detach(), atol=0, rtol=0)


def test_no_changed_byte_goes_unnoticed(saved: Path) -> None:
    content, state = saved.read_bytes(), random_state(small(), 3)
    for place in range(len(content)):
        saved.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        with pytest.raises(CheckpointError, match=saved.name):
            DREAMState.load(saved, small())
    saved.write_bytes(content)
    assert_same(DREAMState.load(saved, small()), state, atol=0, rtol=0)


def test_a_file_without_a_checksum_is_refused(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        header = {name: value for name, value in file.metadata().items() if name != "checksum"}
    save_file(load_file(saved), saved, header)
    with pytest.raises(CheckpointError, match="is damaged"):
        DREAMState.load(saved, small())
    save_file(load_file(saved), saved, header | {"version": "1"})
    with pytest.raises(CheckpointError, match=r"dream-state 3; .* holds dream-state 1"):
        DREAMState.load(saved, small())


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_state_of_the_first_edition_of_the_cell_is_refused(saved: Path, version: str) -> None:
    rewrite(saved, lambda _, header: header.update(version=version))
    stated = (
        rf"dream-state 3; .* holds dream-state {version}, of the first edition of the cell.* anew, or stay"
    )
    with pytest.raises(CheckpointError, match=stated):
        DREAMState.load(saved, small())


def test_a_newer_version_is_named(saved: Path) -> None:
    later_version(saved)
    with pytest.raises(CheckpointError, match=r"holds dream-state 999\.$"):
        DREAMState.load(saved, small())


@pytest.mark.parametrize("stage", ["write", "fsync", "rename"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failing_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, existing: bool
) -> None:
    path, config = tmp_path / "state.safetensors", small()
    if existing:
        random_state(config, 3).save(path, config)
    before = path.read_bytes() if existing else None

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if stage == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif stage == "rename":
        monkeypatch.setattr(os, "replace", fail)
        monkeypatch.setattr(os, "rename", fail)
        monkeypatch.setattr(Path, "replace", fail)
        monkeypatch.setattr(Path, "rename", fail)
    else:
        monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(CheckpointError, match=r"`path` must be writable.*No space left"):
        random_state(config, 2).save(path, config)
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ([path.name] if existing else [])
    assert not existing or path.read_bytes() == before


def test_a_missing_folder_a_file_for_a_folder_and_a_folder_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    for bad in ("none/state.safetensors", "file/state.safetensors", "folder"):
        with pytest.raises(CheckpointError, match="`path` must be writable"):
            random_state(small(), 2).save(tmp_path / bad, small())
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="`path` must be writable"):
            random_state(small(), 2).save(tmp_path / "state.safetensors", small())
    finally:
        tmp_path.chmod(0o700)


def test_an_old_file_is_replaced_whole(tmp_path: Path) -> None:
    path, config = tmp_path / "state.safetensors", small()
    random_state(config, 50).save(path, config)
    random_state(config, 1).save(path, config)
    assert DREAMState.load(path, config).batch_size == 1
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_load_to_a_device(saved: Path) -> None:
    assert DREAMState.load(saved, small(), device=torch.device("cpu")).h.device.type == "cpu"
