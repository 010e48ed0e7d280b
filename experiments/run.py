"""`dream fit|validate|test|predict|check`: LightningCLI with our files, errors and exit codes."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from pydantic import ValidationError

from dream import sums
from dream.config import PRESETS
from dream.errors import ConfigError, DataError, DREAMError
from dream.files import inside
from experiments import ending, folders, launch, summary, wording
from experiments.check import check_experiment
from experiments.exhausted import in_memory
from experiments.folders import RESULTS, SAVES, RunSettings
from experiments.invocation import limits, own_code, presets, trust
from experiments.invocation.arguments import (
    FROM,
    FROM_HELP,
    LEARN,
    LEARN_HELP,
    OUTPUT,
    OUTPUT_HELP,
    Invocation,
)
from experiments.invocation.explain import chain, explain, sections
from experiments.invocation.resume import (
    check_weights,
    read_data,
    refuse_mixed_data,
    refuse_trained,
    save_to_resume,
)
from experiments.invocation.trust import Trust
from experiments.resolved import WriteConfig, resolve_config
from lightning_modules.base import TaskModule
from lightning_modules.checks import gone, require_there
from lightning_modules.cores import trainable
from lightning_modules.data import TaskData
from lightning_modules.data.place import LearnsOn, StreamEnd, described, from_plain, plain
from lightning_modules.data.schema import Schema
from lightning_modules.redaction import redacted, require_given
from lightning_modules.run import checkpoints, streams, tracking
from lightning_modules.run.advisor import TuningAdvisor
from lightning_modules.run.checkpoints import AtomicCheckpointIO
from lightning_modules.run.figures import SaveFigures
from lightning_modules.run.guard import BestCheckpoint, NaNGuard
from lightning_modules.run.layers import LayerRecord
from lightning_modules.run.loops import make_resumable
from lightning_modules.run.monitor import DREAMMonitor
from lightning_modules.run.progress import PlainProgress
from lightning_modules.run.saving import TEST, SaveProgress, metrics_files
from lightning_modules.run.signals import StopSignals

CALLBACKS: dict[str, type[L.Callback]] = {
    "save": SaveProgress,
    "nan_guard": NaNGuard,
    "checkpoint": BestCheckpoint,
    "early_stopping": EarlyStopping,
    "dream_monitor": DREAMMonitor,
    "advisor": TuningAdvisor,
    "figures": SaveFigures,
}
"""Callbacks of every run, by the section of their settings."""


RESUMED = (folders.RUN, RESULTS, "metrics.jsonl")
"""Files that a resumed run reads or adds to, beside its settings."""
PARTS = {"validate": "val_dataloader", "test": "test_dataloader", "predict": "predict_dataloader"}
"""Methods that return the batches of the commands that read one part of the data."""


class DREAMTrainer(L.Trainer):
    """The Trainer, with `check`."""

    def check(self, model: L.LightningModule, datamodule: L.LightningDataModule) -> None:
        """Build everything, run one batch forward and backward, and print what a fit would do."""
        check_experiment(self, model, datamodule)


class HelpParser(LightningArgumentParser):
    """Parser of a command that asks for help.

    jsonargparse keeps the parsers of model and data classes for later commands of the process, separately for
    each class of the parser around them. A class of its own never meets those without texts of help.
    """


class DREAMCLI(LightningCLI):
    """One run of a Trainer command.

    LightningCLI parses, builds and runs in its constructor. Here `build` and `run` do, so that an error is
    explained with the parser and the folder of the run at hand.

    Args:
        invocation: The command.
        callbacks: More callbacks, which are no setting.
    """

    def __init__(self, invocation: Invocation, callbacks: Sequence[L.Callback] = ()) -> None:
        self.invocation = invocation
        self.callbacks = callbacks
        self.stack = ExitStack()
        """Closed when the run has ended."""
        self.folder: Path | None = None
        self.home: Path | None = None
        """The run whose streams a prediction goes on with."""
        self.weights = ""
        """SHA-256 of the checkpoint that it predicts with."""
        self.ends: dict[str, StreamEnd] = {}
        """Ends of its streams so far, by name; others begin."""
        self.newest: str | None = None
        """The save that a resumed run starts from."""
        self.running = False
        self.started = time.monotonic()

    def build(self) -> None:
        """Parse the words, and build data, model and Trainer."""
        self.stack.enter_context(launch.variables_kept())
        self.signals = self.stack.enter_context(StopSignals())
        strict = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            TaskModule,
            TaskData,
            args=self.invocation.words(),
            save_config_callback=WriteConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_class=DREAMTrainer,
            trainer_defaults={
                "log_every_n_steps": 10,
                "gradient_clip_val": 1.0,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,  # the data know what is whose
                "enable_model_summary": False,
            },
            seed_everything_default=0,
            parser_kwargs={**strict, **{name: dict(strict) for name in self.subcommands()}},
            parser_class=HelpParser if self.invocation.asks_for_help else LightningArgumentParser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def run(self) -> None:
        """Build, and run the command."""
        self.build()
        super()._run_subcommand(self.invocation.command)

    def _run_subcommand(self, subcommand: str) -> None:
        """Do nothing yet: see `run`."""

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override] # not static
        """Only the one that was typed: the parsers of the others would take time to build."""
        every = {**LightningCLI.subcommands(), "check": {"model", "datamodule"}}
        command = self.invocation.command
        return {command: every[command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed", type=int, default=0, help="Fixes all that is random.")
        parser.link_arguments("seed", "seed_everything")
        parser.add_argument("--preset", type=str | None, help=presets.HELP)
        parser.add_argument("--allow", type=str | None, help=trust.ALLOW_HELP)
        parser.add_argument("--trust", type=Trust | None, help=trust.TRUST_HELP)
        parser.add_argument(FROM, type=str | None, help=FROM_HELP)
        parser.add_argument(LEARN, action="store_true", help=LEARN_HELP)
        parser.add_argument(OUTPUT, type=str | None, help=OUTPUT_HELP)
        parser.add_class_arguments(RunSettings, "run")
        parser.add_argument(
            "--resume",
            action="store_true",
            help="Resume the run of this name, or the last of this command; start one where there is none.",
        )
        for section, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, section)
        parser.set_defaults({"checkpoint.filename": "best", "checkpoint.enable_version_counter": False})
        # strict would need a validation in every run
        parser.set_defaults({"early_stopping.patience": 5, "early_stopping.strict": False})
        for section in ("checkpoint", "early_stopping"):
            parser.link_arguments("model.monitor", f"{section}.monitor", apply_on="instantiate")
            parser.link_arguments("model.monitor_mode", f"{section}.mode", apply_on="instantiate")
        parser.link_arguments("data", "model.init_args.shape", self.shape_of, apply_on="instantiate")

    def shape_of(self, data: TaskData) -> dict[str, Any]:
        """Shape of the data, which follow the schema of the checkpoint, if there is one."""
        if self.invocation.checkpoint is not None:
            checkpoint = checkpoints.read(self.invocation.checkpoint, self.invocation.task)
            data.follow(Schema.from_plain(checkpoint.get("schema")))
            if self.invocation.learn:
                self.find_streams(self.invocation.checkpoint, checkpoint["streams"], data)
        return asdict(data.shape)

    def find_streams(self, checkpoint: Path, tested: dict[str, Any], data: TaskData) -> None:
        """Let `data` go on where the streams of the run ended, and lock them for this process.

        Args:
            checkpoint: Weights of the run.
            tested: Where its test ended, as the checkpoint has it: there the streams begin.
            data: Data of the prediction.

        Raises:
            ConfigError: the task learns nothing from what it predicts, or no run is around the checkpoint.
            CheckpointError: the streams are damaged.
        """
        if self.home is None:
            home = checkpoint.parent.parent
            if not (home / folders.CONFIG).is_file():
                raise ConfigError(
                    f"`{LEARN}` keeps its state in a run's folder; {checkpoint} lies in none. Name a run.",
                    key="learn",
                )
            self.stack.callback(folders.hold(home).release)
            self.home = home
            self.weights = checkpoints.digest(checkpoint)
            self.ends = streams.newest(checkpoint, from_plain(tested, str(checkpoint)))
        data.go_on({name: end.place for name, end in self.ends.items()})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        if self.invocation.sets("model.shape"):
            raise ConfigError("`model.shape` is set by the data; leave it out.", key="model.shape")
        super().parse_arguments(parser, args)
        values = self.config[self.config.subcommand]
        trust.refuse(values)
        require_given(values.as_dict())
        self.require_output(self.invocation.output)
        if not 0 <= values.seed < 2**32:
            raise ConfigError(f"`seed` must lie between 0 and {2**32 - 1}; got {values.seed}.", key="seed")
        limits.refuse(values)
        if values.run.wandb == "online":
            self.invocation.refuse_online()
        if values.trainer.default_root_dir is not None:
            raise ConfigError("`trainer.default_root_dir` is the run's own folder here; set `run.folder`.")
        if values.trainer.overfit_batches:
            raise ConfigError(
                "`trainer.overfit_batches` is not for these tasks, which order their batches themselves. Set "
                "`trainer.limit_train_batches`.",
                key="trainer.overfit_batches",
            )
        if values.resume and self.config.subcommand != "fit":
            raise ConfigError("`--resume` goes on with a fit; leave it out here.", key="resume")
        for part in ("model", "data"):
            self._require_sections(part, values[part])
        task: Any = trust.find(values.model.class_path)
        task.require_data(trust.find(values.data.class_path))

    def instantiate_classes(self) -> None:
        refused = []

        def build(kind: type, /, **settings: Any) -> Any:
            try:
                trust.check_settings(kind, settings)
            except ConfigError as error:
                refused.append(error)
                raise
            return kind(**settings)

        try:
            self.config_init = self.parser.instantiate(self.config, instantiators=[(build, object, True)])
        except Exception:
            if refused:  # jsonargparse makes one text of it and of what else does not fit
                raise refused[0] from None
            raise
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "model")
        self.trainer = self.instantiate_trainer()

    @staticmethod
    def _require_sections(part: str, values: Namespace) -> None:
        """Refuse a value in place of a section of a model's or data's settings."""
        for name, example in sections(trust.find(values.class_path)).items():
            given = values.init_args.get(name, Namespace())
            if not isinstance(given, Namespace):
                preset = str(given) in PRESETS
                hint = "A preset is named by --preset." if preset else "Leave it out for its defaults."
                raise ConfigError(
                    f"`{part}.{name}` must be a section with settings such as {example}; got {given!r}. "
                    f"{hint}"
                )

    def begin_with(self, checkpoint: Path) -> None:
        """Take the weights of a checkpoint if a fit goes on with them alone, and say so."""
        if self.invocation.weights_only:
            held = checkpoints.read(checkpoint)
            self.model.load_state_dict(held["state_dict"])
            self.model.adopt(Schema.from_plain(held.get("schema")))
            if launch.is_first():
                scaler = " and its scaler" if self.model.schema.scales else ""
                ending.say(
                    f"note: begins with the weights of {checkpoint}{scaler}, and a schedule of its own."
                )
        self.note_other_data()

    def note_other_data(self) -> None:
        """Say whose scales are used where the data are not those that the checkpoint was trained on."""
        if self.invocation.checkpoint is None or not launch.is_first():
            return
        there, here = checkpoints.read(self.invocation.checkpoint)["fingerprint"], self.datamodule.fingerprint
        if changed := [name for name in dict.fromkeys((*there, *here)) if there.get(name) != here.get(name)]:
            scales = "standardised by its scaler" if self.model.schema.scales else "read by its schema"
            ending.say(
                f"note: {self.invocation.checkpoint} was trained on other data (what differs: "
                f"{', '.join(changed)}); these are {scales}, not by their own."
            )

    def note_rank(self) -> None:
        """Say where a rank that was chosen is lowered to the width of the layer's input."""
        asked, rank = self._get(self.config, "model").init_args.config.rank, self.model.config.rank
        if asked > rank and asked != self.model.default_config().rank and launch.is_first():
            ending.say(f"note: `model.config.rank`={asked} is lowered to {rank}, the width of the input.")

    def chosen(self) -> dict[str, dict[str, Any]]:
        """Class and settings of model and data; nothing before they are parsed."""
        if not hasattr(self, "config"):
            return {}
        parsed = {name: self._get(self.config, name) for name in ("model", "data")}
        return {
            name: {"class": trust.find(part.class_path), "settings": part.init_args.as_dict()}
            for name, part in parsed.items()
        }

    def keys(self) -> list[str]:
        """Settings that the parser knows by itself, without those of the model and data classes."""
        parsers = getattr(self, "_subcommand_parsers", {}).values()
        return [action.dest for parser in parsers for action in parser._actions]

    def _parse_ckpt_path(self) -> None:
        """Do nothing: `Invocation.words` puts a checkpoint's settings before the flags, which beat them."""

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        self.note_rank()
        self.model.schema = self.datamodule.recorded
        self.model.prepare(self.datamodule)
        if self.home is not None and not isinstance(self.model, LearnsOn):
            raise ConfigError(
                f"`{LEARN}` must be given for a task that goes on with a stream; {type(self.model).__name__} "
                "does not. Leave it out.",
                key="learn",
            )
        if self.ends:
            self.model.go_on(self.ends)
        if self.subcommand in PARTS:
            # refuses what cannot be read before files are written
            getattr(self.datamodule, PARTS[self.subcommand])()
        loaded = self._get(self.config, "ckpt_path") or self.invocation.checkpoint
        if loaded is not None:
            check_weights(self.model, str(loaded))
        settings: RunSettings = self._get(self.config_init, "run")
        saving: SaveProgress = self._get(self.config_init, "save")
        config = self._get(self.config_init, "trainer")
        launch.spread(config, self.model.unreached)
        if self.subcommand == "fit":
            batches = len(self.datamodule.train_dataloader())
            limits.refuse_late_validation(config, batches)
            if self.datamodule.trains or loaded is not None:
                limits.refuse_no_step(config, batches)
            if loaded is not None and not self.invocation.weights_only:
                refuse_trained(config, Path(loaded))
        silent = config.enable_progress_bar is False
        plain = not sys.stderr.isatty() and not silent
        extra = [PlainProgress()] if plain else [] if silent else [RichProgressBar()]
        # what a test records comes before `saving`, which saves it
        config["callbacks"] = [*_listed(config.callbacks), LayerRecord(), *extra, *self.callbacks]
        checkpoint_io = AtomicCheckpointIO()
        config["plugins"] = [*_listed(config.plugins), checkpoint_io]
        if plain or silent:
            config["enable_progress_bar"] = False
        if self.subcommand == "check" or self.invocation.output is not None:
            config["logger"] = False
            self.save_config_callback = None
            return self._built(config, **kwargs)
        saving.signals = self.signals
        self.open_folder(settings, saving)
        assert self.folder is not None
        checkpoint_io.home = self.folder
        if config.logger is None:
            mode = settings.wandb or os.environ.get("WANDB_MODE") or "offline"
            config["logger"] = [tracking.JSONLLogger(self.folder)]
            if mode != "disabled" and launch.is_first():
                tracked = folders.read_run(self.folder).get("tracked")
                config["logger"].append(
                    tracking.wandb_logger(self.folder, settings.project, mode, settings.group, tracked)
                )
        checkpoint = self._get(self.config_init, "checkpoint")
        fits = self.subcommand == "fit"
        home = inside(self.folder, SAVES) if fits or loaded is None else Path(loaded).parent
        checkpoint.dirpath = checkpoint.dirpath or str(home)
        trainer = self._built(config, default_root_dir=str(self.folder), **kwargs)
        if not metrics_files(trainer) and not config.fast_dev_run:  # beside loggers of the user's, or none
            trainer.loggers = [*trainer.loggers, tracking.JSONLLogger(self.folder)]
        make_resumable(trainer, saving)
        return trainer

    def _built(self, config: Namespace, **kwargs: Any) -> L.Trainer:
        """Return the Trainer of the settings `config`.

        Raises:
            ConfigError: Lightning refuses them.
        """
        try:
            return super().instantiate_trainer(**kwargs)
        except (ImportError, MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
            raise limits.refused(error, config) from error

    def open_folder(self, settings: RunSettings, saving: SaveProgress) -> None:
        """Set `folder`, new or the resumed run's own, and `newest`, the save that it starts from.

        They are the same in every process of the run.

        Raises:
            ConfigError: the run was started with other settings, or is still going on.
            CheckpointError: it was started on other data, a file of it is missing, or all of its saves are
                damaged.
        """
        values = self.config.get(str(self.subcommand), self.config)

        def decide() -> str:
            argv, facts, newest = self.invocation.argv, {}, None
            if self.subcommand == "fit":
                resolved = resolve_config(self._parser(self.subcommand), values, self.model)
                facts["data"] = read_data(resolved, self.datamodule)
                facts |= {"parent": parent} if (parent := self.invocation.parent) else {}
                refuse_mixed_data(Path(settings.folder), facts["data"])
            earlier = folders.earlier_run(settings, argv, **facts) if values.resume else None
            folder = earlier or folders.run_folder(settings, self.invocation.experiment, argv, **facts)
            self.stack.callback(folders.hold(folder).release)
            if earlier is not None:
                folders.require_as_written(folder, *RESUMED)
                newest = save_to_resume(folder, resolved, self.datamodule.fingerprint)
            return json.dumps([str(folder), earlier is not None, newest and str(newest)], allow_nan=False)

        folder, saving.resumes, newest = json.loads(launch.decided_by_first(decide))
        if saving.resumes and (ended := folders.results(Path(folder))) is not None:
            if launch.is_first():
                print(f"the run in {folder} has ended; this is what came out:")  # noqa: T201
                summary.results(ended, Path(folder), self.model.higher_is_better, self.model.unranked)
            sys.exit(0)
        self.folder, self.newest, saving.from_save = Path(folder), newest, newest is not None
        if self.subcommand == "fit":
            saving.folder = inside(self.folder, SAVES)

    def after_instantiate_classes(self) -> None:
        self.running = True

    def fit(self, **kwargs: Any) -> None:
        """Train, test the best checkpoint (`RunSettings.test`), and show the results."""
        if self.newest is not None:
            if launch.is_first():
                ending.say(f"going on from {self.newest}")
            kwargs["ckpt_path"] = self.newest
            self.model.may_have_ended = True
        elif self.invocation.checkpoint is not None:
            self.begin_with(self.invocation.checkpoint)
        self.trainer.fit(**kwargs)
        if not self._get(self.config_init, "run").test:
            assert self.folder is not None
            metrics = tracking.best_validation(self.folder, self.model.monitor, self.model.monitor_mode)
            self.model.results = {self.model.title: metrics} if metrics else {}
            self.finish("validation")
            return
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "") or None
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, verbose=False)
        if best is not None and self.trainer.is_global_zero:
            tested = {"streams": plain(self.model.ends), "results": self.model.results}
            checkpoints.write(checkpoints.read(best) | tested, Path(best))
        self.finish()

    def validate(self, **kwargs: Any) -> None:
        """Show the validation metrics of a checkpoint."""
        self.note_other_data()
        values = self.trainer.validate(**{**kwargs, "verbose": False})[0]
        self.model.results = {
            self.model.title: {name.removeprefix("val/"): value for name, value in values.items()}
        }
        self.finish("validation")

    def test(self, **kwargs: Any) -> None:
        """Show the test metrics of a checkpoint, beside its rivals'."""
        self.note_other_data()
        self.trainer.test(**{**kwargs, "verbose": False})
        self.keep_ends()
        self.finish()

    @rank_zero_only
    def keep_ends(self) -> None:
        """Keep where a test ended in the run of the checkpoint, if it is the run's own test: of its data and
        settings, and the first.

        A test on other data measures, and leaves the run as it is.
        """
        checkpoint = self.invocation.checkpoint
        rehearses = self._get(self.config_init, "trainer").fast_dev_run
        if checkpoint is None or not self.model.ends or rehearses:
            return
        home, held = checkpoint.parent.parent, checkpoints.read(checkpoint)
        own = held["fingerprint"] == self.datamodule.fingerprint and held.get("missing") == self.model.missing
        same = held["hyper_parameters"] == dict(self.model.hparams)
        tested = held.get("streams") or (home / streams.STREAM / streams.STATE).exists()
        if not (own and same) or tested or not (home / folders.CONFIG).is_file():
            return
        try:
            self.stack.callback(folders.hold(home).release)
            streams.write(home, checkpoints.digest(checkpoint), self.model.ends)
        except (DREAMError, OSError) as error:
            ending.say(f"note: {home} does not keep where this test ended: {error}")
            return
        ending.say(f"note: from now on, the {described(self.model.ends, str(home))}.")

    @staticmethod
    def require_output(file: Path | None) -> None:
        """Refuse a file for predictions that cannot be written, before anything is computed."""
        if file is not None and (file.is_dir() or not file.parent.is_dir()):
            what = "it is a folder" if file.is_dir() else "there is no such folder"
            raise ConfigError(
                f"`{OUTPUT}` must be a file in a folder that is there; {file}: {what}.", key="output"
            )

    def predict(self, **kwargs: Any) -> None:
        """Write the predictions of the task, see its `write_predictions`; then, with `--learn`, its stream.

        A process that is killed between both learns the same rows again, from the state before them.
        """
        stands = bool(self.ends) and len(self.datamodule.predict_dataloader()) == 0
        if self.ends:
            news = "no row comes after, nothing is learnt" if stands else "rows until then are passed over"
            ending.say(f"note: the {described(self.ends, str(self.home))}; {news}.")
        found = self.model.predictions_again() if stands else self.trainer.predict(**kwargs)
        if stands and not found:
            ending.say("note: predictions are of new rows; there are none, and nothing is written.")
        if not self.trainer.is_global_zero:
            return
        if (output := self.invocation.output) is not None:
            summary.predictions(self.model, found, output)
        else:
            assert self.folder is not None
            with sums.written_by_task(self.folder):
                summary.predictions(self.model, found, self.folder)
            self.seal_metrics()
        if self.home is not None and not stands:
            streams.write(self.home, self.weights, self.model.stream_ends(found))

    def seal_metrics(self) -> None:
        """Enter the whole `metrics.jsonl`, which nothing is added to any more, into the list of sums.

        Raises:
            DataError: the folder of the run is gone.
        """
        assert self.folder is not None
        require_there(self.folder)
        for logger in metrics_files(self.trainer):
            logger.seal(whole=True)

    @rank_zero_only
    def finish(self, part: str = "test") -> None:
        """Write `results.json` and the tracked table, print the table and the paths of all files."""
        assert self.folder is not None
        self.seal_metrics()
        results = self.model.results
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                tracking.log_table(logger, results)
        tracking.write_results(
            self.folder / RESULTS,
            results,
            **({"series": self.model.by_series} if self.model.by_series and part == "test" else {}),
            part=part,
            experiment=self.invocation.experiment,
            command=["dream", *redacted(self.invocation.argv)],
            seed=self._get(self.config, "seed"),
            epochs=self.trainer.current_epoch,
            seconds=round(time.monotonic() - self.started, 1),
            parameters=trainable(self.model),
            higher_is_better=sorted(self.model.higher_is_better),
            unranked=sorted(self.model.unranked),
            monitor=self.model.monitor,
        )
        checkpoints.remove(inside(self.folder, SAVES) / TEST)
        if self._get(self.config_init, "run").table:
            summary.results(results, self.folder, self.model.higher_is_better, self.model.unranked)


def _listed(value: Any) -> list[Any]:
    """A setting of the Trainer that is a list, one of its items, or None."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def main(argv: list[str]) -> int:
    """Run a Trainer command; return the exit code.

    Raises:
        DREAMError: A mistake in configuration or data.
        KeyboardInterrupt: Ctrl-C; what was written is whole.
    """
    return execute(Invocation.parse(argv))


def execute(invocation: Invocation, callbacks: Sequence[L.Callback] = ()) -> int:
    """Run a Trainer command, with more `callbacks`; return the exit code. See `main`."""
    cli = DREAMCLI(invocation, callbacks)
    return _ended(cli, cli.run)


def build(invocation: Invocation) -> tuple[int, TaskModule | None]:
    """Build what `dream check` builds, and run nothing.

    Returns:
        The exit code, and the module, which knows its data; None where there is none, as after
        ``--print_config``.

    Raises:
        DREAMError: A mistake in configuration or data.
    """
    cli = DREAMCLI(invocation)
    code = _ended(cli, cli.build)
    return code, getattr(cli, "model", None)


def _ended(cli: DREAMCLI, work: Callable[[], None]) -> int:
    """Run `work` of `cli` with our warnings and errors; return the exit code."""
    with warnings.catch_warnings():
        wording.set_up(cli.invocation.asks_for_help)
        return _exit_code(cli, work)


def _exit_code(cli: DREAMCLI, work: Callable[[], None]) -> int:
    if launch.started_by_trainer():
        launch.end_with_parent()
    argv = cli.invocation.argv
    typed, sys.argv[1:] = sys.argv[1:], argv  # the Trainer starts other processes with them
    code = 1
    try:
        in_memory(work, cli.chosen)
        launch.leave()
        code = 0
    except BrokenPipeError:
        raise
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):
            raise
        if not isinstance(stop, SIGTERMException) and not isinstance(stop.__context__, KeyboardInterrupt):
            return int(stop.code or 0)
        where = f"; what is done is in {cli.folder}" if cli.folder else ""
        how = "the same command" if "--resume" in argv else "--resume"
        where += f"; {how} goes on with it" if cli.folder and argv[0] == "fit" else ""
        if launch.is_first():
            ending.say(f"dream: interrupted{where}.")
        return 143 if isinstance(stop, SIGTERMException) else 130
    except (DREAMError, MisconfigurationException) as error:
        if cli.folder and not cli.folder.is_dir():
            raise gone(cli.folder) from error
        raise _explained(error, cli) from error
    except OSError as error:
        if cli.folder and not cli.folder.is_dir():
            raise gone(cli.folder) from error
        done = f"; what is done is in {cli.folder}" if cli.folder else ""
        wrong = error.errno in (errno.ELOOP, errno.EINVAL, errno.EFBIG)
        remedy = "Remove it" if wrong else "Free or change the disk"
        raise DataError(
            f"{error.filename or 'a file of the run'} could not be read or written: "
            f"{error.strerror or error}. {remedy}{done}."
        ) from error
    except (ArgumentError, ValidationError, TypeError, ValueError, RuntimeError) as error:
        if launch.lost(error):
            ending.say(launch.farewell(error, cli.folder))
            return code
        if cli.running and not limits.is_refusal(error):
            raise
        raise _explained(error, cli) from error
    finally:
        sys.argv[1:] = typed
        cli.stack.close()
        if cli.folder and launch.is_first():
            folders.discard_if_empty(cli.folder)
        if "wandb" in sys.modules and (run := sys.modules["wandb"].run) is not None:
            run.finish(exit_code=code)
    return 0


def _explained(error: BaseException, cli: DREAMCLI) -> DREAMError:
    """Return `error` in our words, or with the place in a file of the user's where it was raised."""
    found = explain(error, cli.keys(), str(getattr(cli, "config", "")))
    if not any(isinstance(cause, DREAMError) for cause in chain(error)) and (
        theirs := own_code.explained(error)
    ):
        return theirs
    found.args = (own_code.plain(str(found)),)
    return found
