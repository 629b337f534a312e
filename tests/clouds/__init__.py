"""Clouds to test against: servers that follow the documented protocols, and check every request against them."""
