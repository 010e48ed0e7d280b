"""The `dream` command: a table of commands, each imported when it is asked for.

A command's module may take seconds to import. It is imported inside `ended`, so that Ctrl-C ends the
command with one sentence from the start.
"""

from __future__ import annotations

import sys
from importlib import import_module

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
  export    the step of a run as ONNX or a torch program dream export RUN --format onnx
  config    shipped experiments, presets and spaces      dream config list
  data      public data sets                             dream data list

Put to work:
  serve     rows in, predictions or scores out           dream serve RUN_OR_FILE --http 8000

A preset sets several settings of the layer at once: dream fit -c forecasting --preset stability
Any setting is a flag: dream fit -c forecasting --model.config.rank=8 --data.horizon=48 --seed=1
Go on with a run that was stopped or killed: the same command and --resume
Train on from the weights of a run, on other data: dream fit --from RUN --data.path=FILE
Go on with tomorrow's rows, online or for anomalies: dream predict --ckpt_path RUN --data.path=FILE --learn
A run is a folder, or `latest`: the newest one with a checkpoint.
All settings of a command: dream fit --help; of the model or data: dream fit -c forecasting --print_config
Your own file: dream fit -c forecasting_csv --data.path=FILE
"""

COMMANDS = {
    **dict.fromkeys(("fit", "validate", "test", "predict", "check"), "experiments.run"),
    "new": "experiments.new",
    "compare": "experiments.compare",
    "sweep": "experiments.sweep.command",
    "report": "experiments.report",
    "export": "experiments.export",
    "config": "experiments.config_command",
    "data": "experiments.data_command",
    "serve": "experiments.serve.command",
}
"""Every command and the module whose `main` runs it, imported when it is asked for."""


def main(argv: list[str] | None = None) -> int:
    """Run `dream` with `argv`, by default that of the process; return the exit code, see `ended`."""
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
    if command not in COMMANDS:
        from dream.errors import ConfigError, nearest

        raise ConfigError(f"`{command}` is not a command of dream. {nearest(command, COMMANDS)}")
    module = COMMANDS[command]
    # the commands of `experiments.run` name the setting
    if module != "experiments.run" and (nul := next((word for word in argv if "\0" in word), None)):
        from dream.errors import ConfigError, shown

        raise ConfigError(f"a word of a command must be text without NUL; got {shown(nul)}. Leave it out.")
    code: int = import_module(module).main(argv if module == "experiments.run" else argv[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
