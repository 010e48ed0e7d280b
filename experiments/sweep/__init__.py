"""`dream sweep`: search the settings of an experiment for those with the best validation value."""
