"""Real VMs in miniature: network namespaces with a real SSH server, for the fakes of the clouds to boot."""
