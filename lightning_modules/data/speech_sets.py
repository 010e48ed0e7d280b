"""Speech of public sets and of one's own."""

from __future__ import annotations

from typing import Any

from dream.errors import ConfigError, DataError, nearest
from lightning_modules.data.audio import WavZip
from lightning_modules.data.catalogue import data_path
from lightning_modules.data.speech import Recording, SpeechData

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TESTED = 5  # of each digit and speaker, the first


class FSDD(SpeechData):
    """The Free Spoken Digit Dataset: 3,000 recordings of ten digits by six speakers, read from its zip archive.

    Args:
        split: `official`: the first five recordings of each digit and speaker are the test part; `speaker=NAME`: all
            recordings of that speaker are, and nobody hears them before.
    """

    def __init__(self, split: str = "official", **options: Any) -> None:
        super().__init__(**options)
        self.chosen = split

    @property
    def source(self) -> str:
        return f"Free Spoken Digit Dataset, {self.chosen}"

    def read(self) -> list[Recording]:
        archive = WavZip(data_path("fsdd", "recordings.zip"))
        parsed = {name: name.rpartition("/")[2].removesuffix(".wav").split("_") for name in archive.names}
        if wrong := [name for name, parts in parsed.items() if len(parts) != 3 or not (parts[0] + parts[2]).isdecimal()]:
            raise DataError(f"{archive.path}: members must be called DIGIT_SPEAKER_NUMBER.wav; got {wrong[0]!r}.")
        speakers = sorted({speaker for _, speaker, _ in parsed.values()})
        kind, _, held = self.chosen.partition("=")
        if self.chosen != "official" and not (kind == "speaker" and held in speakers):
            raise ConfigError(
                f"`split` must be official or speaker=NAME with one of {', '.join(speakers)}; got {self.chosen!r}. "
                f"{nearest(held, speakers)}",
                key="split",
            )
        found = []
        for name, (digit, speaker, number) in parsed.items():
            test = speaker == held if held else int(number) < _TESTED
            samples = archive.read(name, self.mfcc.sample_rate)
            found.append(Recording(name, samples, DIGITS[int(digit)], "test" if test else "train", speaker))
        return found
