"""The rooms behind :mod:`hedgeserve.drivers.local`: a VM, its processes, SSH server, metadata and weather."""
