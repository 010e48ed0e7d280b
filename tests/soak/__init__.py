"""Long versions of tests of reliability: `python -m tests.soak` prints the figures."""
