"""Tasks in which a subject, rule or system is new at test time, and has to be learnt while it is read.

``python -m experiments.benchmarks.adaptation`` trains DREAM and its rivals on each task, with equal
parameters and budget, scores them beside the same weights at rest and the best adaptive method without a
core, and writes every value as JSON, tables as Markdown, and pictures.

The parts: `protocol` has the terms, `tasks` the tasks, `models` and `delta_net` the columns, `training` the
one loop for all, `baselines` what needs no training, `record` what becomes of the figures, `page` and `plots`
how they are shown, `command` the command line.
"""
