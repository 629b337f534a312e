"""The verbs of the command line: options and messages; what they do is done in :mod:`hedgeserve.console`."""
