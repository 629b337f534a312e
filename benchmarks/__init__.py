"""What HedgeServe claims, measured: ``python -m benchmarks.policy`` writes docs/benchmarks.md."""
