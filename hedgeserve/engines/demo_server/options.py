"""The command line and what it means."""

from __future__ import annotations

import argparse
import math
import os
import re

from . import WHAT_I_AM
from .faults import FAULTS, HEADER, Fault
from .job import Abilities
from .settings import Settings


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f'{text!r} is not a duration; write a number with a unit, such as "2s"')
    return float(match[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[match[2]]


def _rate(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError("must be 0 (as fast as possible) or more")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line, which is also the reference of the options."""
    top = argparse.ArgumentParser(prog="demo_server", description=WHAT_I_AM + ".", allow_abbrev=False)
    add = top.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=int, default=8000, help="port to listen on; 0 takes a free one (%(default)s)")
    add("--model", default="demo", help="name of the model (%(default)s)")
    add("--alias", action="append", default=[], help="another name of the model; may be repeated")
    add("--load-time", type=_seconds, default=2.0, metavar="DURATION", help="time until /health answers 200 (2s)")
    add("--tokens-per-second", type=_rate, default=40.0, help="pace of each answer; 0: no limit (%(default)g)")
    add("--stream-interval", type=_count, default=1, help="tokens in a chunk (%(default)s)")
    add("--max-model-len", type=_count, default=4096, help="tokens of prompt and answer together (%(default)s)")
    add("--max-num-seqs", type=_count, default=256, help="answers at a time; more wait (%(default)s)")
    add("--seed", type=int, default=0, help="servers with the same seed write the same texts (%(default)s)")
    add("--sample", action="store_true", help="answer sampled requests without a seed differently each time")
    add("--enable-auto-tool-choice", action="store_true", help="take tools, and tell calls of them as such")
    add("--tool-call-parser", choices=["hermes"], help="taken for vLLM's sake; --enable-auto-tool-choice decides")
    add("--reasoning", action="store_true", help="begin chats with thoughts, told as reasoning")
    add(
        "--api-key-env",
        default="VLLM_API_KEY",
        metavar="NAME",
        help="environment variable with the key that /v1 asks for (%(default)s)",
    )
    add("--ssl-certfile", metavar="FILE", help="certificate (PEM) to answer by TLS with")
    add("--ssl-keyfile", metavar="FILE", help="its private key (PEM)")
    faults = top.add_argument_group("faults, for testing what stands in front")
    add = faults.add_argument
    add("--health-status", type=int, default=200, help="status of /health once loaded (%(default)s)")
    add("--hang", action="store_true", help="accept requests and never answer, /health included")
    add("--die-after", type=_seconds, metavar="DURATION", help="end with exit code 1 so long after the start")
    exclusive = faults.add_mutually_exclusive_group()
    for name, what in FAULTS.items():
        exclusive.add_argument(f"--{name}-after-tokens", type=int, metavar="N", help=what)
    add("--obey-faults", action="store_true", help=f'let a request ask for a fault: "{HEADER}: cut=7"')
    return top


def settings_of(given: argparse.Namespace) -> Settings:
    """What was given, with the API key taken from the environment."""
    faults = {name: getattr(given, f"{name}_after_tokens") for name in FAULTS}
    fault = next((Fault(name, tokens) for name, tokens in faults.items() if tokens is not None), None)
    return Settings(
        names=(given.model, *given.alias),
        load_time_s=given.load_time,
        tokens_per_second=given.tokens_per_second,
        stream_interval=given.stream_interval,
        max_model_len=given.max_model_len,
        max_num_seqs=given.max_num_seqs,
        seed=given.seed,
        api_key=os.environ.get(given.api_key_env, ""),
        health_status=given.health_status,
        hang=given.hang,
        fault=fault,
        obeys_faults=given.obey_faults,
        abilities=Abilities(given.enable_auto_tool_choice, given.reasoning, given.sample),
    )
