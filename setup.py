"""Compiles the data path with mypyc where HEDGESERVE_COMPILE=1 is set; everything else stands in setup.cfg.

The very same modules run with and without: compiled, they take half of the time. What cannot be compiled (enums
with constructors, generic dataclasses) or would gain nothing by it (what runs once in a while) stays as it is.
"""

import os
import sys

from setuptools import setup

DATA_PATH = """
    answer approach attempt body boundary chunked coalescing collect continuation crowd dispatch edge exchange
    failover follow head headers incoming keys lookout outbox pace parties pipe poll pool prefixes quotas reception
    record replaying report request resumed resumption routing server soundness sse steps stops trials turns
    verdict wire wrapping
"""
MODULES = [
    "hedgeserve/tally.py",
    "hedgeserve/meters.py",
    "hedgeserve/fleetmetrics.py",
    "hedgeserve/metrics.py",
    *(f"hedgeserve/proxy/{name}.py" for name in DATA_PATH.split()),
]
COMPILES = os.environ.get("HEDGESERVE_COMPILE") == "1"


def compiled() -> list:
    """The extension modules, where they are to be built: pip asks other things first, before mypyc is there."""
    if not COMPILES or not {"build_ext", "bdist_wheel"} & set(sys.argv):
        return []
    from mypyc.build import mypycify

    return mypycify(["--strict", *MODULES], opt_level="2", debug_level="0", multi_file=True)


setup(ext_modules=compiled(), setup_requires=["mypy >= 1.13"] if COMPILES else [])
