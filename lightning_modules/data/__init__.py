"""The data of each task, as LightningDataModules."""

from lightning_modules.data.anomaly import AnomalyData, Stream, StreamBatch
from lightning_modules.data.anomaly_table import AnomalyTable
from lightning_modules.data.base import TaskData
from lightning_modules.data.drifting_stream import DriftingStream
from lightning_modules.data.ett import ETTData
from lightning_modules.data.language import LanguageData, TextBatch
from lightning_modules.data.load import DriftingLoad
from lightning_modules.data.nab import NABData
from lightning_modules.data.online import OnlineData
from lightning_modules.data.online_sets import PublicStream, TableStream
from lightning_modules.data.planted import PlantedAnomalies
from lightning_modules.data.skab import SKABData
from lightning_modules.data.speech import SpeechData
from lightning_modules.data.speech_sets import FSDD, SpeechFolder
from lightning_modules.data.table import TableData
from lightning_modules.data.texts import PythonDocs, TextFile, TinyShakespeare, WikiText2
from lightning_modules.data.tone_words import ToneWords
from lightning_modules.data.windows import ForecastingData, WindowBatch

__all__ = [
    "FSDD",
    "AnomalyData",
    "AnomalyTable",
    "DriftingLoad",
    "DriftingStream",
    "ETTData",
    "ForecastingData",
    "LanguageData",
    "NABData",
    "OnlineData",
    "PlantedAnomalies",
    "PublicStream",
    "PythonDocs",
    "SKABData",
    "SpeechData",
    "SpeechFolder",
    "Stream",
    "StreamBatch",
    "TableData",
    "TableStream",
    "TaskData",
    "TextBatch",
    "TextFile",
    "TinyShakespeare",
    "ToneWords",
    "WikiText2",
    "WindowBatch",
]
