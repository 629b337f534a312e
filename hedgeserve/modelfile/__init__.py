"""The rooms behind :mod:`hedgeserve.specfile`: how model.toml is read, judged, overlaid and documented."""
