"""Speech: which word is said, or which words, from recordings.

`module` is the task. `data` is utterances in batches, made of what `utterances` describes; `sets` and
`tone_words` are where recordings come from, read by `audio`, heard as `mfcc`. `decoding` turns probabilities
into words; `plots` shows one utterance."""

from lightning_modules.speech.data import SpeechData, SpeechShape
from lightning_modules.speech.module import SpeechModule
from lightning_modules.speech.sets import FSDD, SpeechFolder
from lightning_modules.speech.tone_words import ToneWords

__all__ = [
    "FSDD",
    "SpeechData",
    "SpeechFolder",
    "SpeechModule",
    "SpeechShape",
    "ToneWords",
]
