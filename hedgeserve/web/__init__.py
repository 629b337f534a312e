"""The operator's side: the admin API that the command line speaks to."""
