"""Tables of any size, converted once and kept on disk.

- `blocks`: a text or Parquet file, block by block.
- `convert`: `stored_table`, a file as a `StoredSeries`, whose conversion can be interrupted and resumed.
- `stored`: `StoredSeries`, rows in Arrow files, and arrays prepared from them as memory maps.
"""
