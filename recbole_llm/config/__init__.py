"""In: YAML files, a dict, a command line. Out: one merged configuration whose keys are known and whose values keep the rules."""
