"""The inference servers that run on the VMs: what to install, what to start, what to ask."""
