"""Back-testing: recorded spot capacity and a load, with the very policies that run in production."""
