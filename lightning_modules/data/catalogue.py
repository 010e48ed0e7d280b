"""Public data sets by name: the origin of each, checksums of its files, and their place on this machine.

Nothing is downloaded unless `download` is called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pooch

from dream.errors import ConfigError, DataError, nearest
from lightning_modules.data.download import Download, shown_address


@dataclass(frozen=True)
class DataFile:
    """One file as its publisher offers it."""

    url: str
    """Address; empty where the publisher offers the file only in another form."""
    sha256: str
    size: int
    """Size in bytes."""


@dataclass(frozen=True)
class Dataset:
    """A public data set; `files` maps each file's name on this machine to its origin."""

    name: str
    description: str
    licence: str
    source: str
    files: Mapping[str, DataFile]


def _github(
    name: str,
    description: str,
    licence: str,
    repository: str,
    commit: str,
    folder: str = "",
    plain: bool = True,
) -> Dataset:
    """A data set in a repository on GitHub, whose files ``sums/NAME.txt`` lists.

    A line there holds SHA-256, bytes, the file's name on this machine, and its path in the repository unless
    that is the name below `folder`. If not `plain`, the files are offered there only in another form.
    """
    url = f"https://raw.githubusercontent.com/{repository}/{commit}"
    source = f"github.com/{repository} at {commit}" + ("" if plain else f", folder {folder}")
    files = {}
    for line in (Path(__file__).parent / "sums" / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        sha256, size, file, *path = line.split(" ")
        origin = path or [part for part in (folder, file) if part]
        files[file] = DataFile("/".join([url, *origin]) if plain else "", sha256, int(size))
    return Dataset(name, description, licence, source, files)


_DATASETS = (
    _github(
        "ett",
        "Electricity transformer temperature: 7 columns, two hourly files and one every 15 minutes",
        "CC BY-ND 4.0",
        "zhouhaoyi/ETDataset",
        "1d16c8f4f943005d613b5bc962e9eeb06058cf07",
        "ETT-small",
    ),
    _github(
        "nab",
        "Numenta Anomaly Benchmark: 58 streams of one column, 116 labelled windows",
        "MIT",
        "numenta/NAB",
        "ea702d75cc2258d9d7dd35ca8e5e2539d71f3140",
    ),
    _github(
        "skab",
        "Skoltech Anomaly Benchmark: 34 labelled experiments on a water circuit, 8 sensors, and a normal one",
        "GPL-3.0",
        "waico/SKAB",
        "b2c0d46c2971dcbfe71e26087b6d231998bb91c2",
        "data",
    ),
    _github(
        "elec2",
        "Electricity prices of New South Wales: 8 inputs every half hour, price up or down",
        "none stated there; redistributed by CapyMOA under BSD-3-Clause",
        "w4k2/stream-datasets",
        "6b1ca2c503e3e5c2086ca1a9e83fc44fbba25407",
    ),
    _github(
        "wth",
        "Hourly local weather: 12 columns, 2010 to 2013",
        "Apache-2.0 (repository); measurements of the U.S. National Centers for Environmental Information",
        "arrayofstar/2022_Informer_Paddle",
        "e1f744055217a7834096324bdf85ec7ed3fb31c1",
        "data",
    ),
    _github(
        "exchange_rate",
        "Daily exchange rates of eight countries; unpack exchange_rate.txt.gz into the folder by hand",
        "none stated",
        "laiguokun/multivariate-time-series-data",
        "7f402f185cc2435b5e66aed13a3b560ed142e023",
        "exchange_rate",
        plain=False,
    ),
    _github(
        "tiny_shakespeare",
        "A million characters of Shakespeare in one file",
        "MIT (repository); the text is in the public domain",
        "karpathy/char-rnn",
        "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e",
        "data/tinyshakespeare",
    ),
    _github(
        "wikitext2",
        "Two million words of Wikipedia articles in training, validation and test files",
        "Creative Commons Attribution-ShareAlike",
        "pytorch/examples",
        "77f55b912142e11fcfdf5b530231fb9c52f181e8",
        "word_language_model/data/wikitext-2",
    ),
    _github(
        "fsdd",
        "Free Spoken Digit Dataset: 3,000 recordings of ten digits by six speakers, 8 kHz; pack its folder "
        "recordings as recordings.zip by hand",
        "CC BY-SA 4.0",
        "Jakobovski/free-spoken-digit-dataset",
        "26eb9aaf76e81b692f806f9140c2d2777410d7a1",
        "recordings",
        plain=False,
    ),
    _github(
        "omniglot",
        "Handwritten characters of ten alphabets, 20 drawings of each, in two zip archives",
        "MIT",
        "brendenlake/omniglot",
        "057f034baf2ecb8530bc5710e5a23584d2a519cc",
        "python",
    ),
    _github(
        "wiener_hammerstein",
        "An electronic circuit at 51.2 kHz: input and output of a filter, a diode and a filter in a row",
        "MIT (repository)",
        "forgi86/RNN-adaptation",
        "098bc28720caaf2727da44481cb8945d5103c55c",
        "examples/WH/data/WH2009",
    ),
)
DATASETS: Mapping[str, Dataset] = {found.name: found for found in _DATASETS}


def dataset(name: str) -> Dataset:
    """The data set of that name.

    Raises:
        ConfigError: there is none; names the nearest known one.
    """
    if name not in DATASETS:
        raise ConfigError(f"There is no data set `{name}`. {nearest(name, DATASETS)}", key="name")
    return DATASETS[name]


def data_folder() -> Path:
    """The folder that holds a folder for each data set: the variable DREAM_DATA, or else the user's cache."""
    return Path(os.environ.get("DREAM_DATA") or pooch.os_cache("dream")).expanduser()


def data_path(name: str, file: str) -> Path:
    """Path of `file` of data set `name`.

    Raises:
        DataError: it does not exist; names the remedy.
    """
    path = data_folder() / dataset(name).name / file
    if not path.is_file():
        raise DataError(
            f"{path} is not there: run `dream data get {name}`, or set DREAM_DATA to the folder that holds "
            f"`{name}/`."
        )
    return path


def download(
    name: str, folder: str | Path | None = None, base_url: str | None = None, progress: bool = True
) -> list[Path]:
    """Fetch missing and damaged files of a data set into `folder`/`name`; returns all of its files.

    A file gets its final name once its SHA-256 has been verified. Until then it is `<file>.part`, which a
    later call continues. `base_url` is a mirror: a folder that serves the same file names.

    Raises:
        ConfigError: there is no such data set, or `base_url` is no address.
        DataError: a file is not offered, could not be fetched or written, or is another one than its
            publisher's.
    """
    wanted = dataset(name)
    if base_url is not None and not base_url.startswith(("https://", "http://")):
        raise ConfigError(
            f"`mirror` must be an address such as https://example.org/sets; got {shown_address(base_url)!r}.",
            key="mirror",
        )
    if base_url is None and not all(part.url for part in wanted.files.values()):
        raise DataError(
            f"`{name}` is not offered as a plain file. {wanted.description}. It is at {wanted.source}."
        )
    target = (Path(folder).expanduser() if folder is not None else data_folder()) / name
    for file, part in wanted.files.items():
        url = f"{base_url.rstrip('/')}/{file}" if base_url else part.url
        Download(name, target, file, url, part.sha256, part.size, progress).run()
    return [target / file for file in wanted.files]
