"""Fetching public traces, at the user's own request: HedgeServe holds where they lie and what they must be.

No data is shipped. A file is believed by a SHA-256 over what it says (``gap_seconds`` and every count), not over
its bytes: the digests were made from a copy of the recordings, and the same JSON may be written with other white
space. The SpotHedge paper's other two traces (AWS 2, GCP 1) are not offered: no copy was there to make digests of.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from hedgeserve.errors import TraceError

BASE_URL = "https://raw.githubusercontent.com"
"""Where the files of public GitHub repositories can be had."""

_REPOSITORY = "MaoZiming/spothedge_ae"
_REVISIONS = ("df02263", "64922b69ad7bda7c0411e27ca784684e7cf225de", "HEAD")
"""Tried in this order where a file is missing; what is believed is the digest, not the revision."""

_FILE_BYTES = 4 * 2**20
_CONNECT_S, _TOTAL_S = 15.0, 120.0

LICENCE = (
    f"github.com/{_REPOSITORY} states no licence: use the traces for measuring, do not redistribute them, and "
    'cite "SkyServe: Serving AI Models across Regions and Clouds with Spot Instances" (arXiv 2411.01438)'
)


@dataclass(frozen=True, slots=True)
class Source:
    """One public recording: the folder in its repository, and what each file must say (see :func:`digest`)."""

    name: str
    about: str
    folder: str
    files: Mapping[str, str]


SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source(
            "aws-1",
            "AWS 1 of the SpotHedge paper: up to 4 p3.2xlarge in each of 3 zones, counted every 300 s for 11 days",
            "data/AWS1",
            {
                "us-east-1f_v100_1.json": "f7073c25979e9bd4ba541666f827f6d6c2779bf05f4c2b0c66796c3520075179",
                "us-east-2a_v100_1.json": "e2852cee23510277c2a6600eafdadceb8d92654a1285051bbfc723b8e5e6d245",
                "us-west-2c_v100_1.json": "ada6ca01edb1696c19196ee7f49efb6faf989b9474edd2cf8f2d1021b8394939",
            },
        ),
        Source(
            "aws-3",
            "AWS 3 of the SpotHedge paper: whether 9 zones had any p3.2xlarge (V100); the files say a count every "
            "300 s, so 70 days, but the original recording took one every 195 s, 45.5 days",
            "data/AWS3",
            {
                "us-east-1a_v100_1.json": "4fe0382b0f9e20039bd38038a26ee5b285bdcd6a78a75221a69d06ddd69b57a5",
                "us-east-1c_v100_1.json": "720e9a27de8e48c4464785d0309a6e464f6d5f327ddecc2d9bb20b2905ef72ee",
                "us-east-1d_v100_1.json": "3d30b13af86a2aaee1a0a3482d6327c0c9cf4907676fec047cfb8f5eede0fb03",
                "us-east-1f_v100_1.json": "1633004ee87047db4854aef6fa9f36916324b4c1278a930b3db4770f64a2e24c",
                "us-east-2a_v100_1.json": "d6c8d71e30d98dc54463117870a8db11160d234f68a298025001bc09c1bb2a41",
                "us-east-2b_v100_1.json": "e8fddf0ec2baf69031aab99c1f058c38dd3e4d52ef564957db858d338a5ae059",
                "us-west-2a_v100_1.json": "b56678f559d596e538f50b614448e2c44c39ea60dc629a80d14d3fce152caa52",
                "us-west-2b_v100_1.json": "95abc82f80ac4f4a0b6e6833de26f7631405d53697df04a470d92efc3d966bd0",
                "us-west-2c_v100_1.json": "e7f95031141433f2b01afee63f059165b57e3f5e058cdf6b40378a0a638b7fda",
            },
        ),
    )
}


def digest(content: bytes) -> str | None:
    """SHA-256, in hexadecimal, of ``gap:count,count,...`` of a trace file; None where it is no such file."""
    try:
        recorded = json.loads(content)
        told = f"{recorded['metadata']['gap_seconds']}:{','.join(map(str, recorded['data']))}"
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return hashlib.sha256(told.encode()).hexdigest()


async def pull(
    source: Source, folder: Path, *, base_url: str = BASE_URL, told: Callable[[str], None] = lambda line: None
) -> list[Path]:
    """Fetch what is missing of a recording into a folder, which is made, and return the paths of all its files.

    A file that is there and right is kept, so that an interrupted call is taken up by the next one. A file comes
    into the folder whole and right or not at all; what it finds there that is wrong it does not replace.

    Raises:
        TraceError: The server cannot be reached or has no such file, a file is not what it must be, the folder
            holds another file of that name, or cannot be written.
    """
    timeout = aiohttp.ClientTimeout(total=_TOTAL_S, sock_connect=_CONNECT_S, sock_read=_CONNECT_S)
    try:
        missing = _missing(source, folder, told)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
            for name in missing:
                content = await _fetch(session, base_url, f"{source.folder}/{name}")
                if digest(content) != source.files[name]:
                    raise TraceError(
                        f"{name} from {base_url} is not what was published (its checksum differs); nothing of it "
                        "was kept; try again later, and do not trust that server if it stays so"
                    )
                _write(folder / name, content)
                told(f"{name} fetched, {len(content)} bytes, checksum right")
    except aiohttp.ClientError as error:
        raise _unreachable(base_url, str(error) or type(error).__name__) from error
    except TimeoutError as error:
        raise _unreachable(base_url, "no answer in time") from error
    except OSError as error:
        raise TraceError(
            f"{folder} cannot be written: {error.strerror}; give another folder with --out"
        ) from error
    return [folder / name for name in source.files]


def pull_now(source: Source, folder: Path, *, base_url: str, told: Callable[[str], None]) -> list[Path]:
    """:func:`pull` for a caller without an event loop."""
    return asyncio.run(pull(source, folder, base_url=base_url, told=told))


def _missing(source: Source, folder: Path, told: Callable[[str], None]) -> list[str]:
    """The files that are not in the folder yet, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = []
    for name, wanted in source.files.items():
        path = folder / name
        if not path.exists():
            missing.append(name)
        elif digest(path.read_bytes()) == wanted:
            told(f"{name} is there")
        else:
            raise TraceError(
                f"{path} is there and is not the file of {source.name}; move it away or give another folder"
            )
    return missing


async def _fetch(session: aiohttp.ClientSession, base_url: str, path: str) -> bytes:
    for revision in _REVISIONS:
        async with session.get(f"{base_url}/{_REPOSITORY}/{revision}/{path}") as response:
            if response.status == 404:
                continue
            if response.status != 200:
                raise TraceError(
                    f"{base_url} answered {response.status} for {path}; try again later, what has come is kept"
                )
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > _FILE_BYTES:
                    raise TraceError(f"{base_url} sends more than {_FILE_BYTES} bytes for {path}: not that trace")
            return bytes(content)
    raise TraceError(
        f"{base_url} no longer has {path} of {_REPOSITORY}; `hedgeserve traces synth` makes traces up"
    )


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _unreachable(base_url: str, why: str) -> TraceError:
    return TraceError(
        f"{base_url} cannot be reached ({why}); check the network, then run the same command again: what has come "
        "is kept. Without a network, `hedgeserve traces synth --preset volatile --for MODEL.toml --out DIR` makes "
        "traces up for a model file"
    )
