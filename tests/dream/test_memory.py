"""Too little memory, sizes beyond any, and tensors that are not dense: one sentence each."""

from __future__ import annotations

import mmap
import os
import re
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.masked import masked_tensor
from torch.nn.utils.rnn import pack_padded_sequence

from dream import (
    DREAM,
    ConfigError,
    DataError,
    DREAMCell,
    DREAMConfig,
    DREAMError,
    DREAMStack,
    DREAMState,
    StateError,
    memory,
)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("build", "setting"),
    [
        (lambda: DREAM(hidden_dim=10**6), "`hidden_dim`=1000000, .* take at least 7.28 TiB"),
        (lambda: DREAM(hidden_dim=10**12), "`hidden_dim`=1000000000000, .*EiB"),
        (lambda: DREAM(hidden_dim=10**300), "more than any machine has"),
        (
            lambda: DREAM(rank=10**12),
            "`rank`=1000000000000 must fit into memory; they take at least 1.05 PiB",
        ),
        (lambda: DREAM(input_dim=10**12), "`input_dim`=1000000000000 "),
        (lambda: DREAMCell(DREAMConfig(hidden_dim=10**7)), "`hidden_dim`=10000000,"),
        (lambda: DREAMStack(hidden_dims=[10**4] * 10**3), "`hidden_dim`=10000 in 1000 layers"),
        (lambda: small_layer().init_state(10**9), "`batch_size`=1000000000 states"),
        (lambda: small_layer().init_state(10**30), "`batch_size`=1000000"),
    ],
)
def test_what_fits_into_no_machine(
    build: Callable[[], Any], setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "limit", lambda: 2**35)
    with pytest.raises(ConfigError, match=f"{setting}.*this process may use 32 GiB"):
        build()


def small_layer() -> DREAM:
    return DREAM(input_dim=3, hidden_dim=8, rank=2)


def limited(work: Callable[[], Any], folder: Path, more: int = 256 << 20) -> str:
    """The message of the error that `work` ends with in a fork that may map `more` bytes."""
    said = folder / "said"
    if (child := os.fork()) == 0:
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more,) * 2)
            torch.set_num_threads(1)
            work()
            said.write_text("nothing")
        except DREAMError as error:
            said.write_text(f"{type(error).__name__}: {error}")
        except BaseException as error:
            said.write_text(f"raw {error!r}")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return said.read_text()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
class TestLimited:
    def test_building(self, tmp_path: Path) -> None:
        said = limited(lambda: DREAM(hidden_dim=9000), tmp_path)
        assert re.match(
            r"ConfigError: `hidden_dim`=9000, .* must fit into memory; they take at least 625 MiB", said
        )

    def test_states(self, tmp_path: Path) -> None:
        layer = small_layer()
        said = limited(lambda: layer.init_state(20_000_000), tmp_path)
        assert said.startswith(
            "ConfigError: `batch_size`=20000000 states of `hidden_dim`=8 and `rank`=2 must fit"
        )

    def test_a_sequence(self, tmp_path: Path) -> None:
        layer, x = DREAM(input_dim=3, hidden_dim=64, rank=2), torch.zeros(64, 20000, 3)
        said = limited(lambda: layer(x), tmp_path)
        assert said.startswith("ConfigError: 64 samples of 20000 steps in a layer of `hidden_dim`=64")

    def test_backward(self, tmp_path: Path) -> None:
        """Of the kernel; what torch itself allocates in between stays torch's error."""
        layer, x = DREAM(input_dim=2000, hidden_dim=8, rank=2), torch.zeros(16, 600, 2000, requires_grad=True)
        loss = layer(x)[0].sum()
        said = limited(loss.backward, tmp_path, more=16 << 20)
        assert "ConfigError: 16 samples of 600 steps" in said

    def test_enough_is_enough(self, tmp_path: Path) -> None:
        layer = small_layer()
        assert limited(lambda: layer(torch.zeros(2, 5, 3)), tmp_path) == "nothing"


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
            ),
            True,
        ),
        (RuntimeError("Storage size calculation overflowed with sizes=[1000000000000, 1000000000000]"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (ValueError("array is too big; `arr.size * arr.dtype.itemsize` is larger"), True),
        (OverflowError("Python int too large to convert to C long"), True),
        (RuntimeError("shapes do not match"), False),
        (ConfigError("not enough memory"), False),
        (KeyError("out of memory"), False),
    ],
)
def test_errors_of_memory(error: Exception, is_memory: bool) -> None:
    assert memory.exhausted(error) == is_memory
    wrapped = RuntimeError("worker failed")
    wrapped.__cause__ = error
    assert memory.exhausted(wrapped) == is_memory


def test_an_allocation_beyond_the_machine_fails(tmp_path: Path) -> None:
    def work() -> None:
        before = resource.getrlimit(resource.RLIMIT_DATA)
        with memory.within_machine():
            most = memory.limit()
            assert most is not None
            allowed = resource.getrlimit(resource.RLIMIT_DATA)[0]
            assert most < allowed
            with memory.enough(lambda: "`rows`=9", "Have fewer.", key="rows"):
                np.zeros(allowed, dtype=np.uint8)
        assert resource.getrlimit(resource.RLIMIT_DATA) == before

    assert limited(work, tmp_path, more=1 << 45).startswith(
        "ConfigError: `rows`=9 must fit into memory; they take"
    )


def test_what_is_reserved_and_never_used_fits_into_a_small_machine(tmp_path: Path) -> None:
    def work() -> None:
        memory.limit = lambda: 2**29  # as of a container
        with mmap.mmap(-1, 2**32, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), memory.within_machine():
            mmap.mmap(-1, 2**30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    assert limited(work, tmp_path, more=1 << 45) == "nothing"


X = torch.randn(2, 5, 3)
ODD: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "COO": (lambda x: x.to_sparse(), "dense tensor; got a sparse one. Use .to_dense()"),
    "CSR": (lambda x: (x + 9).to_sparse_csr(), "dense tensor; got a sparse one"),
    "nested": (lambda x: torch.nested.nested_tensor([x[0], x[1][:1]]), "got a nested one. Pad it"),
    "jagged": (lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged), "got a nested one"),
    "MKL-DNN": (lambda x: x.to_mkldnn(), "got a MKL-DNN one. Use .to_dense()"),
    "quantized": (
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        "got a quantized one. Use .dequantize()",
    ),
    "masked": (lambda x: masked_tensor(x, x > 0), "got a masked one. Fill what is masked"),
    "meta": (
        lambda x: x.to("meta"),
        "on the parameters' device cpu; got meta|cpu like `x`; got torch.float32 on meta",
    ),
    "complex": (lambda x: x.to(torch.complex64), "torch.complex64"),
    "float8": (lambda x: x.to(torch.float8_e4m3fn), "torch.float8_e4m3fn"),
    "bool": (lambda x: x > 0, "torch.bool"),
    "a masked array": (lambda x: np.ma.masked_array(x.numpy()), "must be a tensor; got MaskedArray"),
}


def alternatives(message: str) -> str:
    return "|".join(map(re.escape, message.split("|")))


@pytest.mark.parametrize(("make", "message"), ODD.values(), ids=ODD)
class TestOdd:
    def test_input(self, make: Callable[[Tensor], Any], message: str) -> None:
        for call in (small_layer(), DREAMStack(input_dim=3, hidden_dims=[8], rank=2)):
            with pytest.raises(DataError, match=alternatives(message)):
                call(make(X))
        with pytest.raises(DataError, match=alternatives(message)):
            small_layer().cell(make(X[0]))

    def test_timespans(self, make: Callable[[Tensor], Any], message: str) -> None:
        with pytest.raises(DataError, match=alternatives(message)):
            small_layer()(X, timespans=make(X[..., 0].abs()))

    def test_state(self, make: Callable[[Tensor], Any], message: str) -> None:
        layer = small_layer()
        state = layer.init_state(2)
        if "MaskedArray" in message or "masked" in message:
            pytest.skip("a state is made by the layer")
        with pytest.raises(StateError, match=r"`state.h` must be \(2, 8\), torch.float32, cpu"):
            layer(X, replace(state, h=make(state.h)))


@pytest.mark.parametrize("dtype", [torch.uint64, torch.bool, torch.complex64, torch.float32])
def test_lengths_that_are_no_integers(dtype: torch.dtype) -> None:
    with pytest.raises(DataError, match=f"`lengths` must be integers; got {dtype}"):
        small_layer().forward_with_mask(X, torch.tensor([5, 3]).to(dtype))


def test_odd_lengths_and_packed_data() -> None:
    with pytest.raises(DataError, match="`lengths` must be a dense tensor; got a sparse one"):
        small_layer().forward_with_mask(X, torch.tensor([5, 3]).to_sparse())
    with pytest.raises(DataError, match="`lengths` must hold values; it is on meta"):
        small_layer().forward_with_mask(X, torch.tensor([5, 3], device="meta"))
    with torch.device("meta"):
        empty = small_layer()
    with pytest.raises(DataError, match="`x` must hold values; it is on meta"):
        empty(X.to("meta"))
    packed = pack_padded_sequence(X, [5, 3], batch_first=True)
    with pytest.raises(DataError, match=r"`x.data` must be a dense tensor; got a sparse one"):
        small_layer()(packed._replace(data=packed.data.to_sparse()))


def test_views_are_dense() -> None:
    layer = small_layer().eval()
    expected = layer(X.transpose(0, 1).contiguous())[0]
    torch.testing.assert_close(layer(X.transpose(0, 1))[0], expected, rtol=0, atol=0)
    torch.testing.assert_close(layer(torch.nn.Parameter(X.transpose(0, 1)))[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("h", [None, 3, [], "h"])
def test_a_state_of_something_else(h: Any) -> None:
    with pytest.raises(StateError, match="needs seven tensors"):
        DREAMState(h)
