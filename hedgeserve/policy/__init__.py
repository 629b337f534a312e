"""Deciding, all of it pure: no I/O, no clock, no randomness. Enter through :mod:`hedgeserve.hedge`."""
