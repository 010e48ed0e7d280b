"""The metrics of each task that torchmetrics lacks, and the sets that the tables show."""
