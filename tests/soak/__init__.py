"""The long form of the promises that the tests keep in short: `python -m tests.soak` prints the figures."""
