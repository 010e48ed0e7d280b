"""Speech: classify or recognise the words in recordings.

The task is `module`. Recordings come from `sets` (your own files, public data), read by `audio`, or from
`tone_words` (generated). `utterances` describes them, `mfcc` computes their features, and `data` puts them
into batches. `decoding` turns probabilities into words, and `plots` shows a test."""

from lightning_modules.speech.data import SpeechData, SpeechShape
from lightning_modules.speech.module import SpeechModule, SpeechSettings
from lightning_modules.speech.sets import FSDD, SpeechFolder
from lightning_modules.speech.tone_words import ToneWords

__all__ = [
    "FSDD",
    "SpeechData",
    "SpeechFolder",
    "SpeechModule",
    "SpeechSettings",
    "SpeechShape",
    "ToneWords",
]
