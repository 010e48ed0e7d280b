"""Sequences that draw their own classes: what is in which part, what a batch holds, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dream import ConfigError, DataError
from lightning_modules.classification import GaussianClasses, LabelledSequence


def small_classes(**options: Any) -> GaussianClasses:
    """Gaussian classes of 6 features in short sequences: 3 classes of 4 examples."""
    settings: dict[str, Any] = dict(width=6, traits=2, pool=20, ways=3, shots=4, batch_size=8)
    return GaussianClasses(**settings | dict(episodes=20, validation_episodes=5, test_episodes=9) | options)


def test_generated_classes_are_the_same_bit_for_bit() -> None:
    one, other, another = (small_classes(seed=seed) for seed in (1, 1, 2))
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != another.fingerprint
    for part in ("train", "val", "test"):
        assert torch.equal(one.sequence(part, 3).features, other.sequence(part, 3).features)
        assert not torch.equal(one.sequence(part, 3).features, one.sequence(part, 4).features)


def test_only_the_traits_tell_classes_apart() -> None:
    data = small_classes(pool=4000, noise=0.1)
    means = np.stack([examples.mean(0) for examples in data.pool["train"]])
    values = np.linalg.eigvalsh(np.cov(means.T))
    np.testing.assert_allclose(values, [1 / 20] * 4 + [1 + 0.01 / 20] * 2, rtol=0.15)


def test_classes_of_the_test_are_new() -> None:
    pool = small_classes(pool=40).pool
    assert {part: len(classes) for part, classes in pool.items()} == {"train": 24, "val": 6, "test": 10}
    seen = [tuple(examples[0]) for classes in pool.values() for examples in classes]
    assert len(set(seen)) == 40


def test_a_sequence_numbers_its_classes_anew() -> None:
    data = small_classes()
    means = {tuple(example): k for k, examples in enumerate(data.pool["test"]) for example in examples}
    numbered = set()
    for key in range(20):
        found = data.sequence("test", key)
        assert torch.bincount(found.labels).tolist() == [4, 4, 4]
        pairs = {
            (means[tuple(x)], int(label))
            for x, label in zip(found.features.numpy(), found.labels, strict=True)
        }
        assert len(pairs) == 3
        assert len({tuple(x) for x in found.features.numpy()}) == 12  # without replacement
        numbered |= pairs
    assert len(numbered) > len(data.pool["test"])


@pytest.mark.parametrize("delay", [1, 3, 40])
def test_labels_are_inputs_when_they_are_known(delay: int) -> None:
    data = small_classes(label_delay=delay)
    (batch, *_) = data.test_dataloader()
    assert batch.inputs.shape == (8, 12, 6 + 3)
    assert batch.lengths is None
    late = batch.inputs[..., 6:]
    assert (late[:, :delay] == 0).all()
    assert torch.equal(late[:, delay:].argmax(-1), batch.labels[:, : max(12 - delay, 0)])
    assert (late[:, delay:].sum(-1) == 1).all()


def test_a_batch_is_padded_and_says_so() -> None:
    data = small_classes()
    sequences = [
        LabelledSequence(torch.ones(steps, 6), torch.tensor([1] * (steps - 1) + [-1]), f"{steps}")
        for steps in (4, 2)
    ]
    batch = data.batch(sequences)
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [4, 2]
    assert batch.labels.tolist() == [[1, 1, 1, -1], [1, -1, -1, -1]]
    assert (batch.inputs[1, 2:] == 0).all()
    assert batch.inputs[0, :, 7].tolist() == [0, 1, 1, 1]


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    def epoch(number: int, first: int = 0) -> list[torch.Tensor]:
        torch.manual_seed(5)
        loader = small_classes().train_dataloader()
        loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
        loader.sampler.first = first  # type: ignore[attr-defined]
        return [batch.inputs for batch in loader]

    zero, one = epoch(0), epoch(1)
    assert [len(inputs) for inputs in one] == [8, 8, 4]
    assert not torch.equal(zero[0], one[0])
    assert all(torch.equal(a, b) for a, b in zip(epoch(1), one, strict=True))
    assert torch.equal(epoch(1, first=1)[0], one[1])


def test_processes_share_a_batch() -> None:
    torch.manual_seed(5)
    data = small_classes(batch_size=5)
    keys = [list(data.order("train").shared(rank, 2)) for rank in range(2)]
    assert [sorted([*a, *b]) for a, b in zip(*keys, strict=True)] == [
        sorted(key) for key in data.order("train")
    ]
    spare = data.train_dataloader().dataset[[]]
    assert spare.spare
    assert len(spare.names) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(ways=1), "`ways` must be a whole number of at least 2; got 1"),
        (dict(shots=0), "`shots` must be a whole number of at least 1"),
        (dict(label_delay=0), "`label_delay` must be a whole number of at least 1; got 0"),
        (dict(label_delay=None), "`label_delay` must be given where each sequence draws its own classes"),
        (dict(traits=7), "`traits` must be at most `width`, 6; got 7"),
        (dict(noise=-1.0), "`noise` must be from 0 to 100"),
        (dict(pool=3), "`pool` must be a whole number of at least 20"),
        (dict(test_episodes=0), "`test_episodes` must be a whole number of at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        small_classes(**options)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(ways=4), r"a sequence draws 4 classes; the val part has 3\. Lower `ways`"),
        (dict(shots=21), r"draws 21 examples of a class; the train part has 20\. Lower `shots`"),
    ],
)
def test_a_pool_that_is_too_small_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        small_classes(**options).setup()
