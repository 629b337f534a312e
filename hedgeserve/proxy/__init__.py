"""The rooms behind :mod:`hedgeserve.balancer`: routing and admission decide, the rest moves bytes."""
