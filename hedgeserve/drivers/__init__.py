"""The clouds. Each driver acts on one of them, speaks the vocabulary of ``base.py`` and decides nothing."""
