"""The rooms behind :mod:`hedgeserve.fleet`: what is done to and on a VM."""
