"""The `dream` command. Light commands answer at once; those that run something load the Trainer first.

What takes time to import is imported where it is needed, so that Ctrl-C meets `ended` from the start.
"""

from __future__ import annotations

import sys

from experiments.ending import ended

USAGE = """\
usage: dream COMMAND [options]

Run an experiment from a YAML file, by path or by its shipped name:
  fit       train, then test the best checkpoint         dream fit -c forecasting
  validate  the validation metrics of a checkpoint       dream validate --ckpt_path RUN_OR_FILE
  test      the test metrics of a checkpoint             dream test --ckpt_path RUN_OR_FILE
  predict   its forecasts, scores or text                dream predict --ckpt_path RUN_OR_FILE
  check     build everything, run one batch, report      dream check forecasting

Around experiments:
  new       a small experiment of your own, to edit      dream new forecasting FOLDER
  compare   several models and seeds, one table          dream compare -c forecasting --models dream lstm
  sweep     search for the best settings                 dream sweep -c forecasting --space forecasting
  report    a run, comparison or sweep as one HTML page  dream report RUN_OR_FOLDER
  config    shipped experiments, presets and spaces      dream config list
  data      public data sets                             dream data list

A preset sets several settings of the layer at once: dream fit -c forecasting --preset stability
Any setting is a flag: dream fit -c forecasting --model.config.rank=8 --data.horizon=48 --seed=1
Go on with a run that was stopped or killed: the same command and --resume
All settings of a command: dream fit --help; of the model or data: dream fit -c forecasting --print_config
Your own file: dream fit -c forecasting_csv --data.path=FILE
"""

TRAINER_COMMANDS = ("fit", "validate", "test", "predict", "check")
COMMANDS = (*TRAINER_COMMANDS, "new", "compare", "sweep", "report", "config", "data")


def main(argv: list[str] | None = None) -> int:
    """Run `dream` with `argv` (the process's own by default); the exit code, see `ended`."""
    return ended(lambda: _dispatch(sys.argv[1:] if argv is None else argv))


def _dispatch(argv: list[str]) -> int:
    command = argv[0] if argv else "--help"
    if command in ("-h", "--help", "help"):
        print(USAGE, end="")  # noqa: T201
        return 0
    if command == "--version":
        from dream import __version__

        print(f"dream {__version__}")  # noqa: T201
        return 0
    if command == "config":
        from experiments import config_command

        return config_command.main(argv[1:])
    if command == "data":
        from experiments import data_command

        return data_command.main(argv[1:])
    if command == "new":
        from experiments import new

        return new.main(argv[1:])
    if command == "compare":
        from experiments import compare

        return compare.main(argv[1:])
    if command == "sweep":
        from experiments.sweep import command as sweep

        return sweep.main(argv[1:])
    if command == "report":
        from experiments import report

        return report.main(argv[1:])
    if command not in TRAINER_COMMANDS:
        from dream.errors import ConfigError, nearest

        raise ConfigError(f"`{command}` is not a command of dream. {nearest(command, COMMANDS)}")
    from experiments import run

    return run.main(argv)


if __name__ == "__main__":
    sys.exit(main())
