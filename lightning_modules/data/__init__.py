"""Reading any table. Each task's own data are in its wing; they use these parts:

- `base`: `TaskData`, the interface of all data modules.
- `series`: a text or Parquet file as a `Series`; gaps, scaling. `in_memory`: a DataFrame instead of a file.
- `panel`: many series, each with an id. `long_table`: reads them, by `ids`. `clocks`: the frequency of each.
- `dates`: columns of time stamps. `columns`: columns made from others. `limits`: contents that are refused.
- `schema`: names, order, scales and frequency of training data, which checkpoints keep.
- `place`: how far a stream was read, and the state that goes on there.
- `split`: training, validation and test part. `order`: batches of an epoch.
- `catalogue`: public data sets, by name. `download`: their files, from servers that need not be trusted.
- `disk`: tables of any size, converted block by block and kept on disk.
"""

from lightning_modules.data.base import TaskData

__all__ = ["TaskData"]
