"""Classification of whole sequences: one class for each, from its first step to its last.

The task is `module`. Sequences come from `sets` (your own table or arrays) or `motions` (generated); `data`
standardises them and puts them into batches."""
