"""From the words of a command to what the parser takes.

`arguments` has the `Invocation`, `configs` the YAML files, `presets` and `own_code` what these may name,
`trust` which classes they may name and whose a run is, `explain` the errors of the parser in one sentence,
`resume` the check of a run that is resumed.
"""
