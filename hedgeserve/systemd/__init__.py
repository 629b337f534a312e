"""What a service and systemd tell each other: state by datagram, sockets and credentials by inheritance.

The protocols are a datagram, a few environment variables and a directory; the libraries for them are either
untyped and no longer kept up, or want libsystemd and a C compiler. Nothing here needs systemd to be there.
"""
