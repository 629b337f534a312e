"""What a core of the balancer carries, beside nginx, two Rust routers and SkyServe's: ``make bench-balancer``."""
