"""The long form of the promises that the tests keep in short: `python -m experiments.soak` prints the figures."""
