"""The `dream` command: runs tasks from YAML files, and writes down what came out."""

import sys

from experiments import ending

# Python looks for a module to run; those here take seconds to load, before `ended` hears of Ctrl-C
if sys.argv[:1] == ["-m"]:
    sys.excepthook = ending.uncaught
