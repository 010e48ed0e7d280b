"""The `dream` command: runs tasks from YAML files, and writes down their results."""
