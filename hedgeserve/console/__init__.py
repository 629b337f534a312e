"""The rooms behind :mod:`hedgeserve.cli`: what the verbs do; imported only by the verb that needs it."""
