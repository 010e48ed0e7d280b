"""`Invocation`: the words of a command, read once, and ready for the parser."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast, get_args

import yaml

from dream.errors import CheckpointError, ConfigError, DREAMWarning, shown
from dream.files import inside, read_bytes
from experiments import ending, folders
from experiments.folders import CONFIG, SAVES, RunSettings
from experiments.invocation import configs, explain, own_code, own_file, presets, trust
from experiments.invocation.configs import YamlFile
from experiments.invocation.trust import Trust
from lightning_modules.redaction import (
    HIDDEN,
    hidden,
    redacted,
    remember,
    require_given,
    setting_names,
    without,
)
from lightning_modules.run import checkpoints

ending.filters.append(redacted)
CONFIGURATION = ("-c", "--config")
TRUST = ("--allow", "--trust")
"""Flags that open what a configuration cannot open itself."""
BUILT = ("callbacks", "logger", "plugins", "strategy", "profiler", "accelerator")
"""Settings of the Trainer that are classes."""
FROM = "--from"
"""Flag that names the run whose weights a fit begins with."""
FROM_HELP = (
    "For fit: the run whose weights training begins with, by its folder, a checkpoint, or `latest`. Its "
    "settings hold where no flag or configuration sets others, and so do the scales and columns of its data; "
    "schedule and number of epochs begin anew."
)
LEARN, OUTPUT = "--learn", "--output"
"""Flags of `dream predict`."""
LEARN_HELP = (
    "For predict: go on with the stream of the run, in its folder `stream`: read only the rows that are new "
    "since the last call, learn from them, and keep the state."
)
OUTPUT_HELP = "For predict: the file that predictions go to; a new folder of a run if not given."
GIVEN = ("folder", "name", "group", "table", "test")
"""Settings of `run` that a command which starts several runs gives to each of them."""
_STARTED = re.compile(r"-\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(-\d+)?$")
"""Time at the end of the name of a run that was given none."""


@dataclass(frozen=True)
class Invocation:
    """A command and its experiment: the words in their parts, and the YAML files with their contents.

    `parse` makes one from the words; nothing after it reads the YAML files again. `words` returns it as the
    parser takes it.
    """

    command: str
    argv: list[str]
    """Every word, as it was typed."""
    files: list[YamlFile]
    """The configurations, in their order."""
    flags: list[str]
    """The words that are neither command nor configuration, in their order."""
    own: dict[str, list[str]] = field(default_factory=dict)
    """Values of the flags that are for the command itself and no setting of a run."""
    checkpoint: Path | None = None
    weights_only: bool = False
    """Whether a fit takes weights and settings from the checkpoint and goes on with nothing else."""
    run: Path | None = None
    """Folder of the run that brought the configuration."""

    @classmethod
    def parse(
        cls, argv: list[str], own: Collection[str] = (), refused: Collection[str] = (), unit: str = "run"
    ) -> Invocation:
        """Take the words of a command apart, and read the YAML files that they name.

        ``check NAME`` means ``check -c NAME``. A checkpoint without ``-c`` brings the configuration of its
        run.

        Args:
            argv: The command and what follows it.
            own: Flags of a command that starts several runs, which are not for these.
            refused: Flags that this command sets for each run.
            unit: Name of such a run, in messages.

        Raises:
            ConfigError: No experiment, no such configuration, or a flag that is not allowed here.
            CheckpointError: No such checkpoint.
        """
        command, *words = argv
        if command == "check" and words and not words[0].startswith("-"):
            words.insert(0, "-c")
        named, words = taken(words, *CONFIGURATION)
        files = [configs.read(configs.resolve(name)) for name in named]
        values, flags = split_own(words, own)
        remember([*(file.content for file in files), flags])
        made = cls(command, argv, files, flags, values)
        if not own and made.prints_only:
            return made
        if command != "predict" and (made.learn or made.output):
            name = LEARN if made.learn else OUTPUT
            raise ConfigError(
                f"`{name}` is for `dream predict`; leave it out of `dream {command}`.", key=name[2:]
            )
        if not own:
            made = made._with_checkpoint()
        made = replace(made, files=own_file.with_own_file(made.files, made.names))
        if not made.files:
            raise ConfigError(
                "-c must name an experiment; got none. `dream config list` shows the shipped ones."
            )
        for name in refused:
            if name in made.names:
                raise ConfigError(
                    f"`{name}` is set by {command} for each {unit}; leave it out. "
                    f"See `dream {command} --help`."
                )
        return made

    @property
    def names(self) -> list[str]:
        """The flags without their values."""
        return [flag.partition("=")[0] for flag in self.flags]

    @property
    def learn(self) -> bool:
        """Whether a prediction goes on with the stream of the run."""
        return LEARN in self.flags

    @property
    def output(self) -> Path | None:
        """File that predictions go to; None for a new folder of a run."""
        given, _ = taken(self.flags, OUTPUT)
        return Path(given[-1]) if given else None

    def sets(self, key: str) -> bool:
        """Whether a flag or a configuration sets this argument of the model or the data, or a part of it."""
        names = [name.removeprefix("--").replace(".init_args", "") for name in self.names]
        section, _, argument = key.partition(".")
        inline, _ = taken(self.flags, f"--{section}", f"--{section}.init_args")
        written = [*(file.content.get(section) for file in self.files), *map(yaml_value, inline)]
        given = [part.get("init_args") for part in written if isinstance(part, dict)]
        return any(name == key or name.startswith(f"{key}.") for name in names) or any(
            argument in part for part in (*written, *given) if isinstance(part, dict)
        )

    @property
    def asks_for_help(self) -> bool:
        """Whether the parser is to print texts of help, among its settings as comments or alone."""
        return any(flag.startswith("--print_config=") for flag in self.flags) or any(
            name == "-h" or (name.startswith("--") and name.endswith("help")) for name in self.names
        )

    @property
    def prints_only(self) -> bool:
        """Whether the parser is to print help or settings, and nothing is run."""
        return self.asks_for_help or "--print_config" in self.names

    @property
    def experiment(self) -> str:
        """Name of the experiment: that of its last YAML file, or of the folder of one called `CONFIG`."""
        if not self.files:
            return ""
        last = self.files[-1].path.resolve()
        return _STARTED.sub("", last.parent.name) if last.name == CONFIG else last.stem

    @property
    def parent(self) -> dict[str, str] | None:
        """Checkpoint whose weights a fit begins with, for `run.json`; None if it begins with its own."""
        if not self.weights_only or self.checkpoint is None:
            return None
        return {"checkpoint": str(self.checkpoint), "sha256": checkpoints.digest(self.checkpoint)}

    def words(self) -> list[str]:
        """Return the words for the parser.

        Configurations come first, then a preset's settings or those of a checkpoint, then the flags: later
        words beat earlier ones, so that what was typed always wins. The Python files that the configurations
        name are loaded (`own_code`). ``--seed_everything``, as in Lightning, means ``--seed``.

        Raises:
            ConfigError: No such preset, or a Python file that cannot be loaded.
            CheckpointError: A checkpoint that is not ours, or of another task.
        """
        flags = [flag.replace("--seed_everything", "--seed") for flag in self.flags]
        preset, flags = taken(flags, "--preset")
        _, flags = taken([flag for flag in flags if flag != LEARN], FROM, OUTPUT)
        _, flags = taken(flags, *TRUST)
        kept = None
        if not self.prints_only:
            _, flags = taken(flags, "--ckpt_path")
            kept = self._kept() if "--resume" in self.names else None
        made = [self.command, *self.load(kept)]
        if preset:
            made.append(as_config(presets.section(preset[-1])))
        if self.checkpoint is not None:
            typed = {f"--{name}" for name in self._typed()}
            loaded = checkpoints.read(self.checkpoint, self.task)
            if self.command == "predict":
                checkpoints.require_complete(loaded, self.checkpoint)
            held = checkpoint_flags(loaded)
            made += [flag for flag in held if HIDDEN not in flag or flag.partition("=")[0] not in typed]
            # the run that weights come from may itself have gone on with another
            made.append(f"--ckpt_path={'null' if self.weights_only else self.checkpoint}")
        return [*made, *self._ready(flags, kept)]

    def load(self, kept: Path | None = None) -> list[str]:
        """Load the Python files that the configurations name; return the configurations for the parser.

        Args:
            kept: Folder of a run that is resumed, whose copies of the Python files are used.

        Raises:
            ConfigError: No such preset, or a Python file that cannot be loaded.
        """
        first = [] if kept is None else [kept]
        trust.begin(self._allowed())
        places = [folder for folder in self._places(kept) if self._trusts(folder, kept)]
        own_code.begin(places, sealed=self.trusted is None)
        made = []
        for number, file in enumerate(self.files):
            for name in (*TRUST, FROM, LEARN, OUTPUT, "--config"):
                if file.content.get(key := name.removeprefix("--")) not in (None, False):
                    raise ConfigError(
                        f"`{key}` is for the command line, and no configuration sets it; {file.path} does. "
                        f"Leave it out there, and give {name} if you mean it.",
                        key=key,
                    )
            content, changed = self._given(number)
            for name, section, place, key in own_code.class_paths(content):
                if source := own_code.file_of(name, [*first, file.path.parent]):
                    place[key], changed = self._load_own(name, source, section, kept), True
            if "preset" in content:
                content, changed = presets.spelled_out(content), True
            made.append(as_config(content) if changed else f"--config={file.text}")
        return made

    def refuse_online(self) -> None:
        """Refuse to send a run to Weights & Biases because a run from elsewhere says so.

        Raises:
            ConfigError: No flag says where it goes, and one of the configurations is such a run's.
        """
        if not self._typed().isdisjoint(("run", "run.wandb")):
            return
        for file in self.files:
            if not self._trusts(file.path.parent):
                raise ConfigError(
                    f"{file.path} is not signed with your key, so it may not set `run.wandb` to online: "
                    "nothing is sent. Give --run.wandb=offline, or online if you want that.",
                    key="run.wandb",
                )

    def _trusts(self, folder: Path, kept: Path | None = None) -> bool:
        """See `trust.trusts`; `kept` is the folder of a run that is resumed."""
        return trust.trusts(folder, self.trusted, of_run=folder in (self.run, kept))

    def _load_own(self, class_path: str, file: Path, section: str, kept: Path | None) -> str:
        """See `own_code.load`.

        Raises:
            ConfigError: It is of a run that is not this user's own, too.
        """
        if not self._trusts(file.parent, kept):
            reason = (
                "`--trust none` runs no Python"
                if self.trusted == "none"
                else f"the run in {file.parent} is not signed with your key: it came from elsewhere, was "
                "changed, or is of an earlier version, so no Python in it is run"
            )
            raise ConfigError(
                f"{reason}, and its configuration takes `{class_path}` from {file}. Read that file; if you "
                "trust it, add --trust run.",
                key="trust",
            )
        return own_code.load(class_path, file, section)

    def _with_own(self, value: str, section: str, kept: Path | None) -> str:
        """Load the own classes that the value of a flag names; return it with their full names."""
        places, inline = self._places(kept), yaml_value(value)
        if not isinstance(inline, dict | list):
            file = own_code.file_of(value, places)
            return self._load_own(value, file, section, kept) if file else value
        changed = False
        for name, of, place, key in own_code.class_paths({section: inline}):
            if file := own_code.file_of(name, places):
                place[key], changed = self._load_own(name, file, of, kept), True
        return configs.flag_text(inline) if changed else value

    @property
    def trusted(self) -> Trust | None:
        """Value of ``--trust``; None if it is not given.

        Raises:
            ConfigError: It is none of its choices.
        """
        given, _ = taken(self.flags, "--trust")
        if given and given[-1] not in get_args(Trust):
            raise ConfigError(f"`--trust` must be none or run; got {given[-1]!r}.", key="trust")
        return cast("Trust", given[-1]) if given else None

    def _allowed(self) -> list[str]:
        """Values of ``--allow``, here and in the commands of one's own runs whose configurations are read."""
        folders_ = dict.fromkeys(file.path.parent for file in self.files)
        commands = [self.flags, *(trust.recorded(folder, self.trusted) for folder in folders_)]
        texts = [text for words in commands for text in taken(words, "--allow")[0]]
        return [name for text in texts for name in text.split(",")]

    def _typed(self) -> set[str]:
        """Dotted names of the settings that flags set."""
        typed = set()
        for flag in self.flags:
            name, _, value = flag.removeprefix("--").replace(".init_args", "").partition("=")
            inline = yaml_value(value)
            typed |= setting_names(inline, name) if isinstance(inline, dict) else {name}
        return typed

    def _given(self, number: int) -> tuple[Any, bool]:
        """Content of a configuration without the secrets that were hidden in it, and whether there were any.

        Raises:
            ConfigError: such a secret is not given again, by a flag or a later configuration.
        """
        content = deepcopy(self.files[number].content)
        if self.prints_only or not hidden(content):
            return content, False
        given = self._typed().union(*(setting_names(file.content) for file in self.files[number + 1 :]))
        again = [name for name in hidden(content) if not given.isdisjoint(_sections(name))]
        content = without(content, again)
        require_given(content)
        return content, True

    def identity(self) -> dict[str, Any]:
        """Load the Python files; return what runs of the same YAML, flags and Python share, as JSON."""
        self.load()
        code = {name: sha256(content).hexdigest() for name, content in own_code.sources().items()}
        contents = [redacted(file.content) for file in self.files]
        _, flags = taken(self.flags, "--trust")
        shared = {
            "experiment": [yaml.safe_dump(content, sort_keys=False) for content in contents],
            "flags": redacted(flags),
        }
        return shared | ({"own": code} if code else {})

    def then(self, command: str, *flags: str) -> Invocation:
        """Return `command` for the same experiment, with more flags."""
        every = [*self.flags, *flags]
        named = [word for file in self.files for word in ("-c", str(file.path))]
        return replace(self, command=command, argv=[command, *named, *every], flags=every, own={})

    def fit(self, folder: Path, *flags: str, **settings: str) -> Invocation:
        """Return the fit of one of several runs, in `folder`, resumed if it was stopped.

        Args:
            folder: That of the run.
            *flags: More flags.
            **settings: More settings of `run`.
        """
        given = {"folder": folder.parent, "name": folder.name, "group": folder.parent.name, "table": "false"}
        own = [f"--run.{name}={value}" for name, value in {**given, **settings}.items()]
        return self.then("fit", *flags, "--resume", *own)

    @property
    def task(self) -> str | None:
        """Name of the module that the configurations name last; None where none does."""
        found = self._class_path("model")
        return None if found is None else found.rpartition(".")[2]

    def _class_path(self, section: str) -> str | None:
        named = [found for file in self.files for found in own_code.class_paths(file.content)]
        return next((name for name, of, *_ in reversed(named) if of == section), None)

    def _places(self, kept: Path | None) -> list[Path]:
        """Folders with Python files; of files of one name that in the first folder counts."""
        return [*([] if kept is None else [kept]), *(file.path.parent for file in reversed(self.files))]

    def _with_checkpoint(self) -> Invocation:
        """Add the checkpoint that is named, and the configuration of its run where none is given."""
        places, origins = (taken(self.flags, name)[0] for name in ("--ckpt_path", FROM))
        if origins and self.command != "fit":
            raise ConfigError(
                f"`{FROM}` is for `dream fit`, which trains on from there; `dream {self.command}` takes a "
                "run by `--ckpt_path`.",
                key="from",
            )
        if origins and places:
            raise ConfigError(
                f"`{FROM}` begins with the weights of a run, `--ckpt_path` goes on with all of it; got both. "
                "Leave out either.",
                key="from",
            )
        if not (named := [*places, *origins]):
            if self.command in ("validate", "test", "predict"):
                raise ConfigError(
                    "`--ckpt_path` must name a run's folder or a checkpoint file; got none. "
                    "Train with `dream fit`."
                )
            return self
        if "--preset" in self.names:
            raise ConfigError(
                "`--preset` is for a model that is built anew; a checkpoint brings its own settings. Leave "
                "out either.",
                key="preset",
            )
        parent, place = self._recorded_parent() if origins else None, named[-1]
        if place == folders.LATEST:  # which may mean another one by now
            begun = None if parent is None else Path(parent["checkpoint"]).parent.parent
            place = str(begun or folders.latest(Path(self._run_settings.folder)))
        best = self.command != "fit" or bool(origins)
        made = replace(
            self,
            checkpoint=checkpoint_file(place, "best" if best else "last", bool(origins)),
            weights_only=bool(origins),
        )
        assert made.checkpoint is not None
        if parent is not None and made.parent != {**parent, "checkpoint": str(made.checkpoint)}:
            raise ConfigError(
                f"the run that goes on was begun with the weights of {parent['checkpoint']}, as they were "
                f"then; those of {made.checkpoint} are others. Name a copy of them, or start a new run.",
                key="from",
            )
        home = made.checkpoint.parent.parent / CONFIG
        folders.require_as_written(home.parent)
        if self.files or not home.is_file():
            return made
        files = [configs.read(inside(home.parent, CONFIG))]
        if not Path(place).is_dir() and (file := next(own_files(files), None)):
            raise ConfigError(
                f"{home} takes classes from {file.name} beside it, and a checkpoint file alone runs no code. "
                f"If you trust that run, name it: {FROM if origins else '--ckpt_path'} {home.parent}"
            )
        return replace(made, files=files, run=home.parent)

    def _recorded_parent(self) -> dict[str, str] | None:
        """See `parent`, of the run that ``--resume`` continues; None where there is no such run."""
        folder = self._resumed if "--resume" in self.names else None
        found: dict[str, str] | None = None if folder is None else folders.read_run(folder).get("parent")
        return found

    @property
    def _run_settings(self) -> RunSettings:
        """Folder and name of the run, as far as they are known before the parser has read the settings."""
        values = {}
        for file in self.files:
            section = file.content.get("run")
            values.update(section if isinstance(section, dict) else {})
        for key in ("folder", "name"):
            if typed := taken(self.flags, f"--run.{key}")[0]:
                values[key] = typed[-1]
        folder, name = values.get("folder", RunSettings.folder), values.get("name")
        fits = isinstance(folder, str) and isinstance(name, str | None)
        return RunSettings(folder, name) if fits else RunSettings()  # the parser refuses others

    @property
    def _resumed(self) -> Path | None:
        """Folder of the run that ``--resume`` continues; None where there is none yet."""
        settings = self._run_settings
        if settings.name in (None, folders.LATEST):
            return folders.earlier_run(settings, self.argv)
        return Path(settings.folder) / settings.name

    def _kept(self) -> Path | None:
        """Folder of the run that ``--resume`` continues, if it keeps copies of the Python files.

        Warns:
            DREAMWarning: One of them was changed since.
        """
        if next(own_files(self.files), None) is None:
            return None
        folder = self._resumed
        if folder is None or not (folder / CONFIG).is_file():
            return None
        same, own_run = True, self._trusts(folder, folder)
        for own in sorted(folder.rglob("*.py")):
            beside = [file.path.parent / own.relative_to(folder) for file in self.files]
            changed = [
                now for now in beside if now.is_file() and read_bytes(now, links=True) != read_bytes(own)
            ]
            same = same and not changed and any(now.is_file() for now in beside)
            if own_run:
                for now in changed:
                    message = (
                        f"{now} was changed since the run began, which goes on with its own copy, {own}."
                    )
                    warnings.warn(message, DREAMWarning, stacklevel=2)
        # a run that was killed before it could be signed goes on with the same files beside its configuration
        return folder if not same or own_run else None

    def _ready(self, flags: list[str], kept: Path | None) -> list[str]:
        """Load the own classes that `flags` name, and keep every text in them as it was typed.

        The parser reads a setting of model or data, such as `null` or `Title: text`, as YAML before it knows
        that it is a text. These flags become configurations, in which a text can be quoted.
        """
        places, made, rest = self._places(kept), [], list(flags)
        classes = {
            section: own_code.full_name(self._class_path(section), places) for section in own_code.KINDS
        }
        while rest:
            word = rest.pop(0)
            name, equals, value = word.partition("=")
            section, _, setting = name.removeprefix("--").replace(".init_args.", ".").partition(".")
            alone = not equals and (not rest or rest[0].startswith("-"))
            if setting == "help" and alone and classes.get(section):
                word = f"{name}={classes[section]}"  # of the class in use, and not of its base
            names_class = (
                setting in ("", "class_path", "help")
                if section in classes
                else section == "trainer" and setting.rstrip("+") in BUILT
            )
            if not (equals or rest) or (names_class and alone) or not (section in classes or names_class):
                made.append(word)
                continue
            value, new = value if equals else rest[0], None
            misread = not isinstance(yaml_value(value), str) or (not equals and value.startswith("-"))
            if names_class:
                if setting in ("", "class_path"):
                    classes[section] = own_code.full_name(value, places)
                if (own := self._with_own(value, section, kept)) != value:
                    new = f"{name}={own}"
            elif misread and explain.is_text(classes[section], own_code.KINDS[section], setting):
                new = as_config(nested([section, "init_args", *setting.split(".")], value))
            made.append(new or word)
            if new and not equals:
                del rest[0]
        return made


def _sections(name: str) -> list[str]:
    """The dotted name of a setting, and those of the sections that it is in."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def as_config(content: dict[str, Any]) -> str:
    """The content of a YAML file as a word for the parser."""
    return f"--config={yaml.dump(content, Dumper=configs.Dumper, sort_keys=False)}"


def nested(keys: Sequence[str], text: str) -> dict[str, Any]:
    """The content of a YAML file with a text at the end of `keys`.

    Raises:
        ConfigError: It cannot be written in UTF-8.
    """
    key = ".".join(keys).replace(".init_args.", ".")
    if any(0xD800 <= ord(sign) < 0xE000 for sign in text):
        raise ConfigError(f"`{key}` must be text in UTF-8; got {text!r}.", key=key)
    content: Any = text
    for key in reversed(keys):
        content = {key: content}
    return dict(content)


def yaml_value(text: str) -> Any:
    """The value that YAML reads in `text`; None where that is no YAML."""
    try:
        return configs.parse(text)
    except (ValueError, yaml.YAMLError):
        return None


def taken(words: Sequence[str], *names: str) -> tuple[list[str], list[str]]:
    """Split off a flag with one value each time, known by any of `names`: its values, and the other words.

    Raises:
        ConfigError: It has no value.
    """
    values, others, rest = [], [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name not in names:
            others.append(word)
        elif equals or rest:
            values.append(value if equals else rest.pop(0))
        elif name in CONFIGURATION:
            raise ConfigError(
                "-c must be followed by a YAML file or a shipped name; see `dream config list`."
            )
        else:
            raise ConfigError(f"`{name}` must be followed by a value; got none.", key=name.removeprefix("--"))
    return values, others


def split_own(words: Sequence[str], names: Collection[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Split off the flags `names`, ``--name=value`` or ``--name value ...``: their values, and the rest."""
    own: dict[str, list[str]] = {}
    others, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name not in names:
            others.append(word)
            continue
        own[name] = [value] if equals else []
        while not equals and rest and not rest[0].startswith("-"):
            own[name].append(rest.pop(0))
    return own, others


def whole_number(name: str, values: list[str], least: int = 1, most: int = 10_000) -> int:
    """Return the number that the flag `name` was given.

    Raises:
        ConfigError: It is none, below `least` or above `most`.
    """
    text = " ".join(values)
    # Python reads no number of thousands of digits
    if not text.isdecimal() or len(text) > 20 or not least <= int(text) <= most:
        raise ConfigError(
            f"`--{name}` must be a whole number from {least} to {most}; got {shown(text)}.", key=name
        )
    return int(text)


def one_folder(own: dict[str, list[str]], name: str) -> Path:
    """Return the folder that ``--folder`` names among the flags `own`; by default `name` beside the runs.

    Raises:
        ConfigError: It names none, or several.
    """
    given = own.get("--folder", [str(Path(RunSettings.folder) / name)])
    if len(given) != 1 or not given[0]:
        raise ConfigError(
            f"`--folder` must be one folder, in quotes if there are spaces in it; got {given}.", key="folder"
        )
    return Path(given[0])


def refuse_changes(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Refuse to start another run below `folder` if the `identity` of its runs, `before`, is another `now`.

    Raises:
        ConfigError: A file was changed in between.
    """
    if now != before:
        raise ConfigError(
            f"a YAML or Python file of the experiment was changed after the first run in {folder} began. "
            "Change it back and give the same command, or start anew with --folder=NEW."
        )


def own_files(files: Iterable[YamlFile]) -> Iterator[Path]:
    """Python files beside configurations that these take classes from."""
    for file in files:
        for class_path, *_ in own_code.class_paths(file.content):
            if own := own_code.file_of(class_path, [file.path.parent]):
                yield own


def checkpoint_flags(checkpoint: dict[str, Any]) -> list[str]:
    """Return the model's settings in a checkpoint as flags, without those that the data set."""
    held = leaves(checkpoint["hyper_parameters"])
    settings = {key: value for key, value in held if not key.startswith("shape.")}
    return [f"--model.{key}={configs.flag_text(value)}" for key, value in settings.items()]


def checkpoint_file(path: str, name: str, or_last: bool = False) -> Path:
    """Return the checkpoint that `path` means: a file, or the one called `name` in a run's folder.

    Args:
        path: A checkpoint, or the folder of a run.
        name: Name without its ending, or `last` for the newest save.
        or_last: Whether the newest save serves where there is none of that name.

    Raises:
        CheckpointError: There is none.
    """
    if not Path(path).is_dir():
        return checkpoints.local(path).resolve()
    folder = inside(path, SAVES)
    found = None if name == "last" else inside(folder, f"{name}.ckpt")
    if name == "last" or (or_last and found is not None and not found.is_file()):
        found = checkpoints.newest(folder)
    if found is None or not found.is_file():
        raise CheckpointError(
            f"what is named must be a run's folder or a checkpoint file; {folder} holds no {name} one."
        )
    return found.resolve()


def leaves(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Values of a nested dictionary with their dotted keys."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        found += (
            leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
        )
    return found
