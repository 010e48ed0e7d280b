"""Start of ``python -m experiments.benchmarks.adaptation``; see `command`."""

if __name__ == "__main__":  # before what takes seconds to load, so that Ctrl-C ends it with one sentence
    from experiments.ending import run_module

    run_module("experiments.benchmarks.adaptation.command")
