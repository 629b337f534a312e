"""The journal's tables, one noun a file; :class:`hedgeserve.store.Store` is all of them in one open file."""
