"""Utterances: what is in which part, what a batch holds, and what is refused."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dream import ConfigError, DataError
from lightning_modules.speech import FSDD, SpeechFolder, ToneWords
from lightning_modules.speech.mfcc import MFCC
from lightning_modules.speech.utterances import Utterance
from tests.lightning_modules.speech.test_audio import sound, wav


def tone_words(**options: Any) -> ToneWords:
    return ToneWords(**{"words": 3, "voices": 4, "takes": 4, "batch_size": 8} | options)


STRINGS = dict(task="recognition", string=[2, 4], stack=2)


def test_generated_words_are_the_same_bit_for_bit() -> None:
    one, other, another = (tone_words(seed=seed).recordings for seed in (1, 1, 2))
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(one, other, strict=True))
    assert not np.array_equal(one[0].samples, another[0].samples)
    assert {recording.transcript for recording in one} == {"alpha", "bravo", "charlie"}


def test_the_order_of_the_notes_tells_what_their_mean_does_not() -> None:
    """A linear model on mean and deviation of the features is far from right on new voices."""
    data = ToneWords(voices=12, takes=3)
    features = [data.mfcc(torch.from_numpy(recording.samples)[None])[0] for recording in data.recordings]
    x = torch.stack([torch.cat([part.mean(0), part.std(0)]) for part in features])
    y = torch.tensor([data.vocabulary.index(recording.transcript or "") for recording in data.recordings])
    train = torch.tensor([recording.part != "test" for recording in data.recordings])
    x = torch.cat([(x - x[train].mean(0)) / x[train].std(0), torch.ones(len(x), 1)], 1)
    ridge = x[train].T @ x[train] + 10 * torch.eye(x.shape[1])
    weights = torch.linalg.solve(ridge, x[train].T @ torch.nn.functional.one_hot(y[train]).float())
    right = (x @ weights).argmax(1) == y
    assert right[~train].float().mean() < 0.6


@pytest.mark.parametrize("options", [{}, STRINGS])
def test_no_recording_is_in_two_parts(options: dict[str, Any]) -> None:
    data = tone_words(**options)
    seen = {part: [k for u in us for k in u.recordings] for part, us in data.utterances.items()}
    assert all(len(set(numbers)) == len(numbers) for numbers in seen.values())
    assert not set(seen["train"]) & set(seen["val"])
    assert not (set(seen["train"]) | set(seen["val"])) & set(seen["test"])
    speakers = {part: {data.recordings[k].speaker for k in numbers} for part, numbers in seen.items()}
    assert not speakers["test"] & (speakers["train"] | speakers["val"])
    for part, numbers in seen.items():
        assert all(data.recordings[k].part == part for k in numbers)


def test_validation_is_spread_over_what_is_said() -> None:
    data = tone_words(takes=10, validation=0.1)
    counts: dict[str | None, int] = {}
    for recording in data.recordings:
        counts[recording.transcript] = counts.get(recording.transcript, 0) + (recording.part == "val")
    assert counts == {"alpha": 3, "bravo": 3, "charlie": 3}


def test_strings_are_of_one_speaker_and_joined_with_silence() -> None:
    data = tone_words(**STRINGS, silence=[0.05, 0.05])
    for utterances in data.utterances.values():
        for utterance in utterances:
            assert len({data.recordings[k].speaker for k in utterance.recordings}) == 1
            assert 2 <= len(utterance.recordings) <= 4
            assert utterance.gaps == (400,) * (len(utterance.recordings) - 1)
    utterance = data.utterances["test"][0]
    samples, first = data.samples(utterance), data.recordings[utterance.recordings[0]].samples
    assert (samples[len(first) : len(first) + 400] == 0).all()
    np.testing.assert_array_equal(samples[: len(first)], first)
    assert data.transcript(utterance) == " ".join(
        str(data.recordings[k].transcript) for k in utterance.recordings
    )


def test_speed_shortens_and_raises() -> None:
    data = tone_words(speeds=[1.25])
    (number,) = data.utterances["train"][0].recordings
    slow, fast = (data.samples(Utterance((number,), (), speed)) for speed in (1.0, 1.25))
    assert len(fast) == -(-len(slow) * 4 // 5)
    loudest = [np.abs(np.fft.rfft(part)).argmax() / len(part) for part in (slow, fast)]
    assert loudest[1] / loudest[0] == pytest.approx(1.25, rel=0.02)
    assert {u.speed for u in data.utterances["train"]} == {1.25}
    assert {u.speed for part in ("val", "test") for u in data.utterances[part]} == {1.0}


@pytest.mark.parametrize("options", [{}, STRINGS])
def test_an_epoch_is_a_function_of_seed_and_number(options: dict[str, Any]) -> None:
    def names(epoch: int, first: int = 0, data: ToneWords | None = None) -> list[list[str]]:
        loader = (data or tone_words(**options)).train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        loader.sampler.first = first  # type: ignore[attr-defined]
        return [batch.names for batch in loader]

    data = tone_words(**options)
    zero, one = names(0, data=data), names(1, data=data)
    assert zero != one
    assert names(1) == one
    assert names(1, first=1) == one[1:]
    assert len(data.train_dataloader()) == len(one)
    flat = sorted(part for batch in one for name in batch for part in name.split(" + "))
    assert len(set(flat)) == len(flat)
    if not options:
        assert flat == sorted(r.name for r in data.recordings if r.part == "train")
    else:
        assert sorted(map(len, zero)) == sorted(map(len, one))


def test_a_batch_is_padded_and_says_so() -> None:
    data = tone_words(**STRINGS)
    for batch in data.test_dataloader():
        steps = torch.arange(batch.features.shape[1])
        assert batch.features.shape[-1] == data.inputs == 78
        assert int(batch.lengths.max()) == batch.features.shape[1]
        assert (batch.features[steps >= batch.lengths[:, None]] == 0).all()
        for row, name in enumerate(batch.names):
            tokens = batch.tokens[row, : int(batch.counts[row])].tolist()
            assert [data.vocabulary[token] for token in tokens] == [
                part.split("-")[0] for part in name.split(" + ")
            ]
        assert (batch.tokens[torch.arange(batch.tokens.shape[1]) >= batch.counts[:, None]] == -1).all()
    lengths = [int(length) for batch in data.test_dataloader() for length in batch.lengths]
    assert lengths == sorted(lengths)


def test_processes_share_a_batch() -> None:
    data = tone_words(batch_size=5)
    whole = [set(batch.names) for batch in data.train_dataloader()]
    parts = []
    for rank in range(2):
        order = data.train_dataloader().sampler.shared(rank, 2)  # type: ignore[attr-defined]
        parts.append([[data.name_of(utterance) for utterance in key] for key in order])
    assert [set(a) | set(b) for a, b in zip(*parts, strict=True)] == whole
    assert all(abs(len(a) - len(b)) <= 1 for a, b in zip(*parts, strict=True))
    spare = data.train_dataloader().dataset[[]]
    assert spare.spare
    assert len(spare.names) == 1


def test_neither_loudness_nor_a_silent_recording_matters() -> None:
    data = tone_words()
    utterance = data.utterances["test"][0]
    features = data.features(utterance)
    torch.testing.assert_close(features.mean(0), torch.zeros(39), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.std(0, correction=0), torch.ones(39))
    quieter, silent = (tone_words() for _ in range(2))
    for other, factor in ((quieter, 0.2), (silent, 0.0)):
        (number,) = utterance.recordings
        other.recordings[number] = replace(
            other.recordings[number], samples=factor * data.recordings[number].samples
        )
    torch.testing.assert_close(quieter.features(utterance), features, atol=1e-3, rtol=1e-3)
    assert silent.features(utterance).abs().max() < 1


def test_stacked_frames_are_the_frames() -> None:
    plain, stacked = tone_words(), tone_words(stack=4)
    utterance = plain.utterances["test"][0]
    frames, steps = plain.features(utterance), stacked.features(utterance)
    assert steps.shape == (-(-len(frames) // 4), 4 * 39)
    torch.testing.assert_close(steps.reshape(-1, 39)[: len(frames)], frames)
    torch.testing.assert_close(steps.reshape(-1, 39)[len(frames) :], torch.zeros(-len(frames) % 4, 39))
    assert len(frames) == plain.frames(utterance)


def test_the_nearest_mean_hears_steps_of_many_frames() -> None:
    data = tone_words(stack=1000)
    (batch,) = tone_words(stack=1000, batch_size=50).test_dataloader()
    assert batch.features.shape[1] == 1  # no thirds of that
    assert len(set(data.nearest_mean([batch]).tolist())) > 1


def test_characters_and_a_vocabulary_of_ones_own() -> None:
    data = tone_words(**STRINGS, tokens="characters")
    assert data.vocabulary == tuple(sorted(set("alphabravocharlie ")))
    text = data.transcript(data.utterances["test"][0])
    assert data.glue.join(data.vocabulary[k] for k in data.numbers(data.utterances["test"][0])) == text
    assert tone_words(vocabulary=["delta", "charlie", "bravo", "alpha"]).vocabulary == (
        "delta",
        "charlie",
        "bravo",
        "alpha",
    )
    with pytest.raises(
        ConfigError, match="`vocabulary` must hold every class or token of the data; 'charlie' is not in it"
    ):
        _ = tone_words(vocabulary=["alpha", "bravo"]).vocabulary


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(task="translation"), "`task` must be classification or recognition; got 'translation'"),
        (dict(tokens="phones"), "`tokens` must be words or characters"),
        (dict(string=[2, 3]), "`string` must be null for classification"),
        (dict(task="recognition", string=[3, 2]), "`string` must be two numbers from 1 to 1000"),
        (dict(silence=[0.5]), "`silence` must be two times"),
        (dict(speeds=[]), "`speeds` must hold one or more from 0.5 to 2"),
        (dict(validation=1), "`validation` must be a share"),
        (dict(stack=0), "`stack` must be a whole number of at least 1"),
        (dict(vocabulary=["a", "a"]), "`vocabulary` must name two things or more, each once"),
        (dict(words=1), "`words` must be from 2 to 12; got 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        tone_words(**options)
    assert message in str(refused.value)


def test_too_few_steps_for_what_is_said_are_refused() -> None:
    data = tone_words(**STRINGS | {"stack": 60})
    with pytest.raises(DataError, match=r"tokens need \d+ steps; there are \d\. Lower `stack`"):
        data.setup()


@pytest.mark.parametrize("string", [None, [1, 2]])
def test_no_speed_makes_a_legal_transcript_illegal(string: list[int] | None, tmp_path: Path) -> None:
    """Recordings with just the steps that their characters need are played no faster than recorded."""
    rows = [f"{k}.wav,{'abcdefghijklmno'[k % 3 :][:13] if k % 4 else 'ab'},{k % 2}" for k in range(24)]
    path = folder(tmp_path, rows, seconds=0.14, head="path,text,speaker")
    data = SpeechFolder(
        str(path),
        task="recognition",
        tokens="characters",
        string=string,
        speeds=[0.9, 1.2, 1.5],
        mfcc=MFCC(sample_rate=16000),
    )
    data.setup()
    seen: dict[str, set[float]] = {"short": set(), "long": set()}
    for epoch in range(8):
        for utterance in data._drawn("train", torch.Generator().manual_seed(epoch)):
            many = any(len(data.recordings[k].transcript or "") == 13 for k in utterance.recordings)
            seen["long" if many else "short"].add(utterance.speed)
            steps = len(data.features(utterance))
            assert steps >= len(data.numbers(utterance))
    assert seen == {"short": {0.9, 1.2, 1.5}, "long": {0.9, 1.0}}


def folder(path: Path, rows: list[str], seconds: float = 0.2, head: str = "path,label") -> Path:
    """A table and the WAV files that it names."""
    random = np.random.default_rng(0)
    for row in rows:
        place = path / row.split(",")[0]
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(wav(0.1 * random.standard_normal(int(seconds * 8000))))
    (path / "table.csv").write_text("\n".join([head, *rows]) + "\n")
    return path / "table.csv"


ROWS = [f"a/{k}.wav,{'yes' if k % 2 else 'null'}" for k in range(20)]


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    data = SpeechFolder(str(folder(tmp_path, [*ROWS, "b/new.wav,"])))
    assert data.vocabulary == ("null", "yes")
    counts = {part: len(found) for part, found in data.utterances.items()}
    assert counts == {"train": 14, "val": 2, "test": 4, "predict": 1}
    assert [batch.names for batch in data.predict_dataloader()] == [["b/new.wav"]]
    assert len([k for k in data.recordings if k.part == "test" and k.transcript == "yes"]) == 2


def test_a_folder_with_its_own_split_and_texts(tmp_path: Path) -> None:
    parts = ["train"] * 14 + ["val"] * 3 + ["test"] * 3
    rows = [f"{k}.wav,{'go on' if k % 2 else 'no'},sam,{part}" for k, part in enumerate(parts)]
    path = folder(tmp_path, rows, head="path,text,speaker,split")
    data = SpeechFolder(str(path), task="recognition", tokens="characters")
    assert [recording.part for recording in data.recordings] == parts
    assert data.vocabulary == (" ", "g", "n", "o")
    assert {recording.speaker for recording in data.recordings} == {"sam"}


def words(path: Path, files: dict[str, bytes]) -> Path:
    """A folder of recordings, without a table."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def test_a_folder_for_each_word(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (11, 4000))
    files = {f"{'no' if k % 2 else 'turn on'}/{k}.WAV": wav(noise[k], 16000) for k in range(8)}
    files |= {
        "no/deep/8.flac": sound("FLAC", 16000, samples=noise[8]),
        "new.ogg": sound("OGG", 16000, samples=noise[9]),
    }
    files |= {"_background_/a.wav": wav(noise[10], 16000), ".trash/a.wav": b"", "no/notes.txt": b"x"}
    data = SpeechFolder(str(words(tmp_path / "mine", files)))
    assert data.vocabulary == ("no", "turn on")
    assert [(r.name, r.transcript) for r in data.recordings if r.part == "predict"] == [("new.ogg", None)]
    assert {r.name for r in data.recordings if r.transcript == "no"} == {
        f"no/{k}.WAV" for k in (1, 3, 5, 7)
    } | {"no/deep/8.flac"}
    assert sum(r.part == "test" for r in data.recordings) == 2
    with pytest.raises(ConfigError, match="`archive` must be left out where `path` is a folder"):
        SpeechFolder(str(tmp_path / "mine"), archive="a.zip").setup()
    with pytest.raises(DataError, match=r"such as yes/001\.wav; there is no file ending in \.wav, \.flac"):
        SpeechFolder(str(words(tmp_path / "none", {"a/b.txt": b""}))).setup()


def test_a_folder_to_predict_only(tmp_path: Path) -> None:
    data = SpeechFolder(str(folder(tmp_path, ["a.wav,", "b.wav,"])), vocabulary=["yes", "no"])
    data.setup()
    assert len(data.utterances["predict"]) == 2
    with pytest.raises(DataError, match="there is no utterance in the train part"):
        data.train_dataloader()
    with pytest.raises(
        ConfigError, match="`vocabulary` must be that of the checkpoint for recordings without labels"
    ):
        SpeechFolder(data.path).setup()


def test_a_folder_in_an_archive_is_not_unpacked(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    table = folder(plain, ROWS)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for row in ROWS:
            archive.write(plain / row.split(",")[0], row.split(",")[0])
    (tmp_path / "table.csv").write_bytes(table.read_bytes())
    packed = SpeechFolder(str(tmp_path / "table.csv"), archive=str(tmp_path / "a.zip"))
    for ours, theirs in zip(packed.recordings, SpeechFolder(str(table)).recordings, strict=True):
        assert np.array_equal(ours.samples, theirs.samples)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "plain", "table.csv"]


@pytest.mark.parametrize("prefix", ["", "./", "a/../", ".//"])
def test_a_recording_that_is_there_twice_is_refused(prefix: str, tmp_path: Path) -> None:
    said = (
        "must lie below"
        if ".." in prefix
        else r"every recording must be there once; a/0\.wav is there more often"
    )
    with pytest.raises(DataError, match=said):
        SpeechFolder(str(folder(tmp_path, [*ROWS, prefix + ROWS[0]]))).setup()


def test_blanks_are_nothing_said(tmp_path: Path) -> None:
    rows = [f"{row},{'test' if k > 15 else 'train'}" for k, row in enumerate(ROWS)]
    data = SpeechFolder(str(folder(tmp_path, [*rows, "b/new.wav,  ,train"], head="path,label,split")))
    assert [recording.name for recording in data.recordings if recording.part == "predict"] == ["b/new.wav"]


def test_of_label_and_text_the_task_reads_its_own(tmp_path: Path) -> None:
    path = str(folder(tmp_path, [f"{row},go {k}" for k, row in enumerate(ROWS)], head="path,label,text"))
    assert SpeechFolder(path).vocabulary == ("null", "yes")
    assert SpeechFolder(path, task="recognition").vocabulary == tuple(sorted(["go", *map(str, range(20))]))


def test_strings_that_no_speaker_can_fill_are_refused_before_anything_runs(tmp_path: Path) -> None:
    data = SpeechFolder(str(folder(tmp_path, ROWS)), task="recognition", string=[3, 4])
    with pytest.raises(
        DataError, match=r"no utterance in the val part \(no speaker has 3 recordings there, see `string`\)"
    ):
        data.setup()


@pytest.mark.data
def test_the_official_split_of_fsdd() -> None:
    data = FSDD()
    counts = {part: len(found) for part, found in data.utterances.items()}
    assert counts["test"] == 300
    assert counts["train"] + counts["val"] == 2700
    assert all(
        int(r.name.removesuffix(".wav").split("_")[-1]) < 5 for r in data.recordings if r.part == "test"
    )
    held = FSDD(split="speaker=theo", mfcc=MFCC(hop=0.02))
    assert {r.speaker for r in held.recordings if r.part == "test"} == {"theo"}
    assert "theo" not in {r.speaker for r in held.recordings if r.part != "test"}
    with pytest.raises(
        ConfigError, match=r"with one of george, .*; got 'speaker=teo'. Did you mean `theo`\?"
    ):
        FSDD(split="speaker=teo").read()


def test_by_the_training_part_loudness_stays_and_checkpoints_keep_the_scale() -> None:
    data = tone_words(per_sequence=False)
    data.setup()
    trained = [data.features(utterance) for utterance in data.utterances["train"] if utterance.speed == 1]
    mean, std = torch.cat(trained).mean(0), torch.cat(trained).std(0)
    assert mean.abs().max() < 0.3
    assert (std - 1).abs().max() < 0.3
    quiet = [replace(recording, samples=recording.samples / 8) for recording in data.recordings]
    other = tone_words(per_sequence=False)
    other.read = lambda: quiet  # type: ignore[method-assign]
    other.follow(data.schema)
    utterance = data.utterances["test"][0]
    assert other.features(utterance)[:, 0].mean() < data.features(utterance)[:, 0].mean() - 1
    assert len(data.schema.scales) == data.mfcc.features
    by_itself = tone_words()
    assert by_itself.schema.scales == {}
    with pytest.raises(DataError, match="`per_sequence` must be False, as in the training of the checkpoint"):
        by_itself.follow(data.schema)
