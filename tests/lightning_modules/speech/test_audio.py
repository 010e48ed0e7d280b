"""Recordings from files and archives, whole and broken."""

from __future__ import annotations

import io
import struct
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dream import DataError, DREAMWarning
from lightning_modules.data import archive as archive_module
from lightning_modules.speech import audio
from lightning_modules.speech.audio import MOST_BYTES, WavZip, decode, read_wav


def wav(samples: np.ndarray, rate: int = 8000, kind: str = "PCM_16") -> bytes:
    """A WAV file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype=kind)
    return buffer.getvalue()


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


TONE = 0.5 * np.sin(np.arange(2000) / 5)


def test_samples_come_back() -> None:
    for kind, error in (("PCM_16", 2**-15), ("PCM_24", 2**-23), ("FLOAT", 1e-7)):
        np.testing.assert_allclose(decode(wav(TONE, kind=kind), "a.wav", 8000), TONE, atol=error)
    assert decode(wav(TONE), "a.wav", 8000).dtype == np.float32


def test_compressed_samples_come_back() -> None:
    for kind in ("ULAW", "MS_ADPCM", "GSM610"):  # the last cannot tell its length in advance
        samples = decode(wav(TONE, kind=kind), "a.wav", 8000)
        assert len(samples) >= len(TONE)
        assert np.corrcoef(samples[: len(TONE)], TONE)[0, 1] > 0.98


def test_channels_are_averaged() -> None:
    both = np.stack([TONE, np.zeros_like(TONE)], 1)
    np.testing.assert_allclose(decode(wav(both, kind="FLOAT"), "a.wav", 8000), TONE / 2, atol=1e-7)


def test_a_silent_recording_is_legal() -> None:
    assert (decode(wav(np.zeros(900)), "a.wav", 8000) == 0).all()


def sound(
    kind: str,
    rate: int = 8000,
    subtype: str | None = None,
    samples: np.ndarray = TONE,
    loss: float | None = None,
) -> bytes:
    """A recording in another format; `loss` from 0 to 1 is that of Vorbis."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype, compression_level=loss)
    return buffer.getvalue()


def piped(riff: int, data: int) -> bytes:
    """A WAV file with these sizes in its header."""
    content = wav(TONE)
    place = content.index(b"data") + 4
    sized = content[:4] + struct.pack("<I", riff) + content[8:place] + struct.pack("<I", data)
    return sized + content[place + 4 :]


@pytest.mark.parametrize(
    ("riff", "data"),
    [
        (2**32 - 1, 2**32 - 1),
        (0, 0),
        (36, 0),
        (0x7FFFFFFF, 0x7FFFFFDB),
        (0x80000024, 0x80000000),
        (0, 4000),
        (2**32 - 1, 4000),
    ],
)
def test_a_wav_file_that_was_written_to_a_pipe(riff: int, data: int) -> None:
    """Such a program can't go back and enter the sizes: the samples go on to the end."""
    np.testing.assert_array_equal(decode(piped(riff, data), "a.wav", 8000), decode(wav(TONE), "a.wav", 8000))


def test_a_wav_file_without_samples_holds_none_even_before_other_chunks() -> None:
    info = b"LIST" + struct.pack("<I", 4) + b"INFO"
    content = wav(np.zeros(0)) + info
    content = content[:4] + struct.pack("<I", len(content) - 8) + content[8:]
    with pytest.raises(DataError, match="there is no sample"):
        decode(content, "a.wav", 8000)


def test_flac_and_ogg() -> None:
    np.testing.assert_allclose(decode(sound("FLAC"), "a.flac", 8000), TONE, atol=2**-15)
    for subtype in ("VORBIS", "OPUS"):
        samples = decode(sound("OGG", subtype=subtype), "a.ogg", 8000)
        assert len(samples) == len(TONE)
        assert np.corrcoef(samples, TONE)[0, 1] > 0.98


@pytest.mark.parametrize("seconds", [1, 16])
def test_a_flac_file_that_was_written_to_a_pipe(seconds: int) -> None:
    """Its header says no length."""
    samples = 0.5 * np.sin(np.arange(8000 * seconds) / 5)
    content = bytearray(sound("FLAC", samples=samples))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    np.testing.assert_allclose(decode(bytes(content), "a.flac", 8000), samples, atol=2**-15)


def test_other_rates_are_resampled() -> None:
    for rate, said in ((44100, "recordings of 44100 Hz are resampled to 8000"), (4000, "nothing above half")):
        tone = 0.5 * np.sin(2 * np.pi * 300 * np.arange(rate) / rate)
        with pytest.warns(DREAMWarning, match=said):
            samples = decode(wav(tone, rate=rate), "a.wav", 8000)
        expected = 0.5 * np.sin(2 * np.pi * 300 * np.arange(8000) / 8000)
        assert (len(samples), samples.dtype) == (8000, np.float32)
        np.testing.assert_allclose(samples[200:-200], expected[200:-200], atol=1e-3)


def test_without_soxr_another_rate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(
        DataError, match=r"must be 8000 Hz; it has 44100\. .* pip install 'dream-memory\[sound\]'"
    ):
        decode(wav(TONE, rate=44100), "a.wav", 8000)


def test_no_more_is_resampled_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MOST_SAMPLES", 3000)
    with pytest.raises(DataError, match="at most 3000 samples; its header says 16000"):
        decode(wav(TONE, rate=1000), "a.wav", 8000)


def infinite(value: float) -> bytes:
    samples = TONE.copy()
    samples[7] = value
    return wav(samples, kind="FLOAT")


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "must be a WAV file"),
    "text": (b"hello, this is no recording", "must be a WAV file"),
    "another header": (b"RIFX" + wav(TONE)[4:], "it starts with b'RIFX"),
    "another kind of RIFF": (wav(TONE)[:8] + b"AVI " + wav(TONE)[12:], "must be a WAV file"),
    "another format": (sound("AIFF"), "must be a WAV file (RIFF, WAVE), FLAC or OGG; it starts with b'FORM"),
    "truncated FLAC": (sound("FLAC")[:-300], "cannot be read as FLAC"),
    "truncated OGG": (sound("OGG")[:-10], "truncated: the last page of its stream is missing"),
    "OGG without its last pages": (sound("OGG")[:2000], "truncated: the last page of its stream is missing"),
    "no more than the name of OGG": (b"OggS", "truncated: the last page of its stream is missing"),
    "truncated": (wav(TONE)[:-700], "truncated: its header says 4044 bytes; there are 3344"),
    "header only": (b"RIFF" + struct.pack("<I", 4) + b"WAVE", "cannot be read as WAV"),
    "a broken chunk": (wav(TONE)[:16] + b"\xff" * 20 + wav(TONE)[36:], "a.wav: "),
    "no samples": (wav(np.zeros(0)), "there is no sample"),
    "NaN": (infinite(np.nan), "number 7 is nan"),
    "inf": (infinite(np.inf), "number 7 is inf"),
    "far too loud": (infinite(1e30), "number 7 is 1e"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused(name: str) -> None:
    content, message = BROKEN[name]
    with pytest.raises(DataError) as refused:
        decode(content, "a.wav", 8000)
    assert str(refused.value).startswith("a.wav: ")
    assert message in str(refused.value)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(TONE))
    assert len(read_wav(tmp_path / "a.wav", 8000)) == 2000
    with pytest.raises(DataError, match=r"b\.wav: no such file"):
        read_wav(tmp_path / "b.wav", 8000)
    with pytest.raises(DataError, match="not an address"):
        read_wav("https://example.org/a.wav", 8000)
    with (tmp_path / "large.wav").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(DataError, match=r"must have at most \d+ bytes; it has"):
        read_wav(tmp_path / "large.wav", 8000)


def test_members_are_read_by_their_names_and_nothing_is_unpacked(tmp_path: Path) -> None:
    found = WavZip(
        archive(
            tmp_path / "a.zip",
            {"x/one.wav": wav(TONE), "two.WAV": wav(TONE[:900]), "3.flac": sound("FLAC"), "readme.txt": b"x"},
        )
    )
    assert found.names == ["x/one.wav", "two.WAV", "3.flac"]
    assert [len(found.read(name, 8000)) for name in found.names] == [2000, 900, 2000]
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    with pytest.raises(DataError, match=r"there is no member 'three\.wav'"):
        found.read("three.wav", 8000)
    with pytest.raises(DataError, match=r"a\.zip, readme\.txt: must be a WAV file"):
        found.read("readme.txt", 8000)


@pytest.mark.parametrize("name", ["../a.wav", "/etc/a.wav", "x/../../a.wav", "..\\a.wav", "C:\\a.wav"])
def test_members_outside_of_the_archive_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="members must lie within the archive"):
        WavZip(archive(tmp_path / "slip.zip", {"good.wav": wav(TONE), name: wav(TONE)}))


def test_a_bomb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "bomb.zip", {"zeros.wav": bytes(MOST_BYTES + 1)})
    assert path.stat().st_size < MOST_BYTES // 100
    with pytest.raises(DataError, match=r"'zeros\.wav' unpacks to \d+"):
        WavZip(path)


def damaged(content: bytes) -> bytes:
    return content[:200] + bytes(byte ^ 0x5A for byte in content[200:260]) + content[260:]


def lying(content: bytes) -> bytes:
    """The archive's own list says that a member is small; it is not."""
    place = content.rindex(b"PK\1\2") + 24
    return content[:place] + struct.pack("<I", 100) + content[place + 4 :]


@pytest.mark.parametrize("change", [damaged, lying])
def test_a_damaged_member_is_named(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"one.wav": wav(np.random.default_rng(0).uniform(-1, 1, 3000))})
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=r"a\.zip.*one\.wav"):
        WavZip(path).read("one.wav", 8000)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_method_that_unpacks_without_a_bound_is_refused(method: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("one.wav", wav(TONE))
    with pytest.raises(DataError, match=rf"'one\.wav' is packed by method {method}\. Pack it again"):
        WavZip(path).read("one.wav", 8000)


def peak(work: Callable[[], object]) -> int:
    """Bytes of Python's memory that `work` needs at once, whatever comes of it."""
    tracemalloc.start()
    try:
        with suppress(DataError):
            work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def pretends(path: Path, content: bytes, real: bytes) -> Path:
    """An archive whose member is said to hold `content` and unpacks to `real`."""
    raw = archive(path, {"one.wav": real}).read_bytes()
    for old, new in ((len(real), len(content)), (zlib.crc32(real), zlib.crc32(content))):
        raw = raw.replace(struct.pack("<L", old), struct.pack("<L", new))
    path.write_bytes(raw)
    return path


def test_no_more_is_unpacked_than_the_archive_says(tmp_path: Path) -> None:
    """64 MiB behind a recording of 4 KB."""
    path = pretends(tmp_path / "a.zip", wav(TONE), wav(TONE) + bytes(1 << 26))
    found = WavZip(path)
    assert peak(lambda: found.read("one.wav", 8000)) < 1 << 20
    for end in (b"\0", bytes(1 << 20)):
        path = pretends(tmp_path / "a.zip", wav(TONE), wav(TONE) + end)
        with pytest.raises(DataError, match=r"a\.zip: 'one\.wav' (cannot be read|must unpack to 4044 bytes)"):
            WavZip(path).read("one.wav", 8000)


def test_an_archive_that_is_far_smaller_than_its_members_is_refused(tmp_path: Path) -> None:
    silence = wav(np.zeros(1 << 23))
    path = archive(tmp_path / "a.zip", {f"{k}.wav": silence for k in range(5)})
    with pytest.raises(
        DataError, match=r"must unpack to at most 67108864 bytes; it goes beyond \(83886300\)"
    ):
        WavZip(path)


def test_members_that_share_bytes_or_a_name_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"one.wav": wav(TONE), "two.wav": wav(TONE)})
    raw = path.read_bytes()
    places = [k for k in range(len(raw)) if raw.startswith(b"PK\1\2", k)]
    path.write_bytes(
        raw[: places[1] + 42] + bytes(4) + raw[places[1] + 46 :]
    )  # the second begins at the first
    with pytest.raises(DataError, match=r"members must lie one after the other; '(one|two)\.wav' reaches"):
        WavZip(path)
    path.write_bytes(raw.replace(b"two.wav", b"one.wav"))
    with pytest.raises(DataError, match=r"names of their own; 'one\.wav' is there 2 times"):
        WavZip(path)


def test_a_list_of_members_beyond_any_measure_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "_LONGEST_LIST", 1 << 12)
    path = archive(tmp_path / "a.zip", {f"{k}.wav": b"" for k in range(100)})
    with pytest.raises(DataError, match=r"the list of its members has \d+ bytes"):
        WavZip(path)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"one.wav": wav(TONE)})
    raw = path.read_bytes()
    place = raw.rindex(b"PK\1\2") + 8
    path.write_bytes(raw[:place] + b"\1" + raw[place + 1 :])
    with pytest.raises(DataError, match=r"'one\.wav' cannot be read \(.*encrypted"):
        WavZip(path).read("one.wav", 8000)


def test_a_header_of_more_samples_than_there_may_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MOST_SAMPLES", 3000)
    assert len(decode(wav(TONE), "a.wav", 8000)) == 2000
    with pytest.raises(DataError, match=r"a\.wav: a recording must have at most 3000 samples; .* says 4000"):
        decode(wav(np.stack([TONE, TONE], 1)), "a.wav", 8000)


@pytest.mark.parametrize("kind", ["PCM_16", "FLOAT", "ULAW", "MS_ADPCM", "GSM610"])
def test_a_header_that_claims_more_than_there_is_takes_no_memory(kind: str) -> None:
    content = wav(TONE, kind=kind)
    place = content.index(b"data") + 4
    for claimed in (2**31 - 1, 2**32 - 1, 2**32 - 200):
        lie = content[:place] + struct.pack("<I", claimed) + content[place + 4 :]
        assert peak(lambda lie=lie: decode(lie, "a.wav", 8000)) < 1 << 20  # type: ignore[misc]


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no archive", b"x" * 500])
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip: cannot be read as a zip archive"):
        WavZip(tmp_path / "a.zip")
    with pytest.raises(DataError, match="cannot be read as a zip archive"):
        WavZip(tmp_path / "none.zip")
