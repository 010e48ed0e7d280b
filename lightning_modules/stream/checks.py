"""Checks of the tensors that a learner resumes from, which may come from a file or from other code."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from dream.errors import CheckpointError
from lightning_modules.data.limits import LARGEST

_MISSING = re.compile(
    r"(memory\.(rows|feedback|targets)|(state|rule\.kept\.\d+)\.(window|recent)|feedback|scale\.last|past)"
)
"""Names of tensors that hold values of the stream, NaN where one is missing."""
_NOT_NEGATIVE = re.compile(
    r".*\.(count|var|usual|row|rows|visits|size|spread|step|exp_avg_sq|error_var|error_var_prior|prior_updates"
    r"|quantile|sum|squares)|tail\.mean|score\.burst|place"
)
_SIZE = re.compile(r"memory\.scale")
"""Names of tensors that hold scales, NaN until a column has varied."""


def require_like(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose names, dtypes and shapes are not those of `like`, or whose values make no sense.

    What the memory holds may have any number of rows.

    Raises:
        CheckpointError: naming the first such tensor.
    """
    for name in sorted(tensors.keys() ^ like.keys()):
        raise CheckpointError(
            f"the tensors must be those of a learner of these settings; `{name}` is "
            f"{'missing' if name in like else 'none of them'}."
        )
    for name, value in tensors.items():
        skip = int(name.startswith("memory."))
        wanted, got = ((tuple(part.shape[skip:]), part.dtype) for part in (like[name], value))
        if wanted != got or value.dim() != like[name].dim():
            raise CheckpointError(f"`{name}` must be {wanted[0]}, {wanted[1]}; got {got[0]}, {got[1]}.")
        _require_values(name, value)


def _require_values(name: str, value: Tensor) -> None:
    if _MISSING.fullmatch(name):
        fits, rule = ~(value.abs() > LARGEST), f"NaN or at most {LARGEST:.1e} in size"
    elif _SIZE.fullmatch(name):
        fits, rule = ~(value.isinf() | (value <= 0)), "NaN, or finite and positive"
    elif _NOT_NEGATIVE.fullmatch(name):
        fits, rule = value.isfinite() & (value >= 0), "finite and not negative"
    else:
        fits, rule = value.isfinite(), "finite"
    if not bool(fits.all()):
        raise CheckpointError(f"`{name}` must be {rule}; it holds {value[~fits].reshape(-1)[0]:g}.")


def require_place(place: Tensor, memory: Mapping[str, Tensor], classes: int | None) -> None:
    """Refuse numbers of rows that do not fit each other and the memory, and classes that there are not.

    Args:
        place: Rows read, rows learnt from, number of the first row in memory, whether it still learns.
        memory: What the memory holds, by name.
        classes: Number of classes; None where the targets are numbers.

    Raises:
        CheckpointError: naming what does not fit.
    """
    row, learnt, first, learning = place.tolist()
    if not (learnt <= row and first <= row and learning <= 1 and (first <= learnt or not learning)):
        raise CheckpointError(f"`place` must hold rows that follow each other; got {place.tolist()}.")
    for name, value in memory.items():
        if len(value) != row - first:
            raise CheckpointError(f"`memory.{name}` must have {row - first} rows; got {len(value)}.")
    targets = memory["targets"]
    if classes is not None and bool(((targets < 0) | (targets >= classes)).any()):
        raise CheckpointError(
            f"`memory.targets` must be from 0 to {classes - 1}; got {targets.tolist()[:8]}."
        )


def require_gram(name: str, value: Tensor) -> None:
    """Refuse a matrix (L, F, F) that is no sum of ``z z^T``.

    Raises:
        CheckpointError: naming the tensor.
    """
    squares = value.diagonal(dim1=-2, dim2=-1)
    size = (squares.unsqueeze(-1) * squares.unsqueeze(-2)).clamp_min(0).sqrt()
    if bool((squares < 0).any() or (value.abs() > 1.000001 * size).any()):
        raise CheckpointError(f"`{name}` must be a sum of squares; its diagonal is too small.")
    if bool(((value - value.mT).abs() > 1e-6 * size).any()):
        raise CheckpointError(f"`{name}` must be symmetric, as a sum of squares is.")
