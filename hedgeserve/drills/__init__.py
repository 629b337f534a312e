"""Drills: trouble that is made on purpose, in a running service, to see that nothing is lost by it."""
