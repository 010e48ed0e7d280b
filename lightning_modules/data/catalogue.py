"""Public data sets by name: the origin of each, checksums of its files, and their place on this machine.

Nothing is downloaded unless `download` is called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from dream.errors import ConfigError, DataError, nearest
from lightning_modules.waiting import Lines

_CHUNK_BYTES = 1 << 16
_TIMEOUT_SECONDS = 20


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


def _listed(name: str, url: str) -> dict[str, DataFile]:
    """The files in ``sums/NAME.txt``: lines of SHA-256, bytes and path, which is also that below `url`."""
    lines = (Path(__file__).parent / "sums" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split(" ", 2) for line in lines]
    return {path: DataFile(f"{url}/{path}", sha, int(size)) for sha, size, path in rows}


_ETT_COMMIT = "1d16c8f4f943005d613b5bc962e9eeb06058cf07"
_ETT_URL = f"https://raw.githubusercontent.com/zhouhaoyi/ETDataset/{_ETT_COMMIT}"

_NAB_COMMIT = "ea702d75cc2258d9d7dd35ca8e5e2539d71f3140"
_SKAB_COMMIT = "b2c0d46c2971dcbfe71e26087b6d231998bb91c2"
_SKAB_URL = f"https://raw.githubusercontent.com/waico/SKAB/{_SKAB_COMMIT}"
_ELEC2_COMMIT = "6b1ca2c503e3e5c2086ca1a9e83fc44fbba25407"
_WTH_COMMIT = "e1f744055217a7834096324bdf85ec7ed3fb31c1"
_FSDD_COMMIT = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
_EXCHANGE_COMMIT = "7f402f185cc2435b5e66aed13a3b560ed142e023"
_SHAKESPEARE_COMMIT = "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
_WIKITEXT_COMMIT = "77f55b912142e11fcfdf5b530231fb9c52f181e8"
_WIKITEXT_URL = f"https://raw.githubusercontent.com/pytorch/examples/{_WIKITEXT_COMMIT}/word_language_model/data/wikitext-2"

DATASETS: Mapping[str, Dataset] = {
    "ett": Dataset(
        name="ett",
        description="Electricity transformer temperature: 7 columns, two hourly files and one every 15 "
        "minutes",
        licence="CC BY-ND 4.0",
        source=f"github.com/zhouhaoyi/ETDataset at {_ETT_COMMIT}",
        files={
            "ETTh1.csv": DataFile(
                f"{_ETT_URL}/ETT-small/ETTh1.csv",
                "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
                2_589_657,
            ),
            "ETTh2.csv": DataFile(
                f"{_ETT_URL}/ETT-small/ETTh2.csv",
                "a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b",
                2_417_960,
            ),
            "ETTm1.csv": DataFile(
                f"{_ETT_URL}/ETT-small/ETTm1.csv",
                "6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e",
                10_360_719,
            ),
            "LICENSE.txt": DataFile(
                f"{_ETT_URL}/LICENSE",
                "83cbb5c31415b1d0ee1d20d35dae3fda3a045b85fae9364cc57facc9cd6e0946",
                17_818,
            ),
        },
    ),
    "nab": Dataset(
        name="nab",
        description="Numenta Anomaly Benchmark: 58 streams of one column, 116 labelled windows",
        licence="MIT",
        source=f"github.com/numenta/NAB at {_NAB_COMMIT}",
        files=_listed("nab", f"https://raw.githubusercontent.com/numenta/NAB/{_NAB_COMMIT}"),
    ),
    "skab": Dataset(
        name="skab",
        description="Skoltech Anomaly Benchmark: 34 labelled experiments on a water circuit, 8 sensors, and "
        "a normal one",
        licence="GPL-3.0",
        source=f"github.com/waico/SKAB at {_SKAB_COMMIT}",
        files=_listed("skab", f"{_SKAB_URL}/data")
        | {
            "LICENSE.txt": DataFile(
                f"{_SKAB_URL}/LICENSE",
                "3972dc9744f6499f0f9b2dbf76696f2ae7ad8af9b23dde66d6af86c9dfb36986",
                35_149,
            ),
        },
    ),
    "elec2": Dataset(
        name="elec2",
        description="Electricity prices of New South Wales: 8 inputs every half hour, price up or down",
        licence="none stated there; redistributed by CapyMOA under BSD-3-Clause",
        source=f"github.com/w4k2/stream-datasets at {_ELEC2_COMMIT}",
        files={
            "electricity.csv": DataFile(
                f"https://raw.githubusercontent.com/w4k2/stream-datasets/{_ELEC2_COMMIT}/electricity.csv",
                "c10a416790ef8ab96089e5adfd2febb7c9cec72bd80dfecb2342f2283b86b88a",
                3_091_689,
            ),
        },
    ),
    "wth": Dataset(
        name="wth",
        description="Hourly local weather: 12 columns, 2010 to 2013",
        licence="Apache-2.0 (repository); measurements of the U.S. National Centers for Environmental "
        "Information",
        source=f"github.com/arrayofstar/2022_Informer_Paddle at {_WTH_COMMIT}",
        files={
            "WTH.csv": DataFile(
                f"https://raw.githubusercontent.com/arrayofstar/2022_Informer_Paddle/{_WTH_COMMIT}/data/WTH.csv",
                "5635e7f2d8f947f9abc6bc7077c907fb760eef111855a6805f096e9acff581bc",
                2_031_564,
            ),
        },
    ),
    "exchange_rate": Dataset(
        name="exchange_rate",
        description="Daily exchange rates of eight countries; unpack exchange_rate.txt.gz into the folder by "
        "hand",
        licence="none stated",
        source=f"github.com/laiguokun/multivariate-time-series-data at {_EXCHANGE_COMMIT}, folder "
        "exchange_rate",
        files={
            "exchange_rate.txt": DataFile(
                "",
                "0127465b51e3cd3c360f8eb2be30cfd294689a2a55903eb8245aafc396626c7f",
                546_336,
            ),
        },
    ),
    "tiny_shakespeare": Dataset(
        name="tiny_shakespeare",
        description="A million characters of Shakespeare in one file",
        licence="MIT (repository); the text is in the public domain",
        source=f"github.com/karpathy/char-rnn at {_SHAKESPEARE_COMMIT}",
        files={
            "input.txt": DataFile(
                f"https://raw.githubusercontent.com/karpathy/char-rnn/{_SHAKESPEARE_COMMIT}/data/tinyshakespeare/input.txt",
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                1_115_394,
            ),
        },
    ),
    "wikitext2": Dataset(
        name="wikitext2",
        description="Two million words of Wikipedia articles in training, validation and test files",
        licence="Creative Commons Attribution-ShareAlike",
        source=f"github.com/pytorch/examples at {_WIKITEXT_COMMIT}",
        files={
            "train.txt": DataFile(
                f"{_WIKITEXT_URL}/train.txt",
                "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
                10_797_148,
            ),
            "valid.txt": DataFile(
                f"{_WIKITEXT_URL}/valid.txt",
                "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
                1_121_681,
            ),
            "test.txt": DataFile(
                f"{_WIKITEXT_URL}/test.txt",
                "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
                1_256_449,
            ),
        },
    ),
    "fsdd": Dataset(
        name="fsdd",
        description=(
            "Free Spoken Digit Dataset: 3,000 recordings of ten digits by six speakers, 8 kHz; pack its "
            "folder recordings as recordings.zip by hand"
        ),
        licence="CC BY-SA 4.0",
        source=f"github.com/Jakobovski/free-spoken-digit-dataset at {_FSDD_COMMIT}, folder recordings",
        files={
            "recordings.zip": DataFile(
                "",
                "62d3263d3cad054e93a0d2f03ffd9eb5e1ef63d0bf93f1d4ea90493e79ae4890",
                16_157_653,
            ),
        },
    ),
}


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
    later call continues. `base_url` is a mirror: a folder that serves the same file names."""
    wanted = dataset(name)
    if base_url is not None and not base_url.startswith(("https://", "http://")):
        raise ConfigError(
            f"`mirror` must be an address such as https://example.org/sets; got {base_url!r}.", key="mirror"
        )
    if base_url is None and not all(part.url for part in wanted.files.values()):
        raise DataError(
            f"`{name}` is not offered as a plain file. {wanted.description}. It is at {wanted.source}."
        )
    target = (Path(folder).expanduser() if folder is not None else data_folder()) / name
    urls = {
        file: f"{base_url.rstrip('/')}/{file}" if base_url else part.url
        for file, part in wanted.files.items()
    }
    pooch.get_logger().setLevel("WARNING")
    registry = {file: f"sha256:{part.sha256}" for file, part in wanted.files.items()}
    store = pooch.create(path=target, base_url="", registry=registry, urls=urls)
    return [
        _fetch_file(store, file, _ResumableDownload(name, target / f"{file}.part", progress)) for file in urls
    ]


def _fetch_file(store: pooch.Pooch, file: str, downloader: _ResumableDownload) -> Path:
    try:
        return Path(store.fetch(file, downloader=downloader))
    except OSError as error:
        raise DataError(
            f"{store.path}: cannot be written ({error}). Name another folder with `--folder`."
        ) from error
    except ValueError as error:
        raise DataError(
            f"{file} from {store.get_url(file)} has another SHA-256 than the one its publisher's file has, "
            "so it was removed. Run the command again, or name another source with `--mirror`."
        ) from error


class _ResumableDownload:
    """Downloader for pooch that keeps the bytes received in `part` and requests only the rest."""

    def __init__(self, name: str, part: Path, progress: bool) -> None:
        self.name = name
        self.part = part
        self.console = Console(stderr=True)
        self.quiet = not (progress and self.console.is_terminal)
        self.lines = Lines() if progress and self.quiet else None

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        try:
            self._fetch(url)
        except requests.RequestException as error:
            kept = self.part.stat().st_size if self.part.exists() else 0
            raise DataError(
                f"{self.part.stem} could not be fetched from {url} ({_reason(error)}); {kept} bytes are "
                f"kept. `dream data get {self.name}` continues from there; or set DREAM_DATA to a folder "
                f"that holds `{self.name}/`."
            ) from error
        self.part.replace(output_file)

    def _fetch(self, url: str) -> None:
        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable and have:
                if answer.headers.get("Content-Range") != f"bytes */{have}":
                    self.part.unlink()
                    self._fetch(url)
            else:
                answer.raise_for_status()
                self._write(answer, have if answer.status_code == requests.codes.partial_content else 0)

    def _write(self, answer: requests.Response, start: int) -> None:
        length = answer.headers.get("Content-Length")
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with (
            self.part.open("ab" if start else "wb") as file,
            Progress(
                TextColumn("{task.description}"), *columns, console=self.console, disable=self.quiet
            ) as bar,
        ):
            task = bar.add_task(
                self.part.stem, completed=start, total=start + int(length) if length else None
            )
            for chunk in answer.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                bar.advance(task, len(chunk))
                if self.lines and length:
                    self.lines.tell(self.part.stem, file.tell() / (start + int(length)))


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"no answer within {_TIMEOUT_SECONDS} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    if isinstance(error, ValueError):  # a malformed address
        return str(error)
    return "no connection"
