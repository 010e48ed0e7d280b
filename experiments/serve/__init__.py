"""`dream serve`: a trained row object as a service, over HTTP or standard input, one state for each key.

- `command`: the command line.
- `service`: rows in, answers out: numbers of rows, flushes, drift; knows nothing of how they come.
- `batches`: a bounded queue of rows, and the one thread that answers what arrived together.
- `web`: the HTTP API. `server`: what it runs in. `lines`: JSON lines.
- `metrics`: Prometheus' text form. `page.html`: the drift page.
"""
