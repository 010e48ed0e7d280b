"""From words on the command line, and the YAML files that they name, to what the parser takes."""
