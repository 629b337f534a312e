"""How each target is set up and started: one core, streams passed on as they come, connections kept."""

import datetime
import ipaddress
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.balancer import installed
from benchmarks.balancer.places import BENCH, COMPILED, REPLICA_URLS, SPARE_PORT, TARGET_PORT, TLS_PORT
from benchmarks.balancer.scenarios import HAPROXY, INTERPRETED, NGINX, OURS, SGLANG, SKYSERVE, VLLM

RUN = BENCH / "run"


@dataclass(frozen=True, slots=True)
class Start:
    """What to run; ``port`` is the endpoint's, in plain HTTP unless ``tls``."""

    command: Sequence[str]
    port: int = TARGET_PORT
    env: Mapping[str, str] = field(default_factory=dict)
    tls: bool = False


def start(target: str, *, tls: bool = False) -> Start:
    """How to start a target; its files are written, its program is fetched where it is missing.

    Raises:
        MissingError: It cannot be had.
    """
    RUN.mkdir(parents=True, exist_ok=True)
    if target in (OURS, INTERPRETED):
        return _ours(tls=tls, compiled=target == OURS)
    program = str(installed.program(target))
    spare = str(SPARE_PORT)
    match target:
        case "nginx":
            config = _written("nginx.conf", _nginx())
            command = [program, "-p", str(RUN), "-c", str(config), "-e", str(RUN / "nginx-error.log")]
            return Start(command, TLS_PORT if tls else TARGET_PORT, installed.libraries(), tls)
        case "haproxy":
            config = _written("haproxy.cfg", _haproxy())
            return Start([program, "-db", "-f", str(config)], env=installed.libraries())
        case "sglang-router":
            routed = ("--policy", "round_robin", "--prometheus-port", spare, "--log-level", "warn")
            urls = ("--worker-urls", *REPLICA_URLS)
            return Start([program, "launch", "--host", "127.0.0.1", "--port", str(TARGET_PORT), *urls, *routed])
        case "vllm-router":
            routed = ("--policy", "round_robin", "--prometheus-port", spare, "--log-level", "warning")
            urls = ("--worker-urls", *REPLICA_URLS)
            return Start([program, "--host", "127.0.0.1", "--port", str(TARGET_PORT), *urls, *routed])
        case "skyserve":
            script = str(Path(__file__).with_name("skyserve.py"))
            return Start([program, script, str(TARGET_PORT), spare, *REPLICA_URLS])
    raise ValueError(f"there is no target {target!r}")


TARGETS = (OURS, INTERPRETED, NGINX, SGLANG, VLLM, SKYSERVE, HAPROXY)


def _written(name: str, text: str) -> Path:
    path = RUN / name
    path.write_text(text)
    return path


def _ours(*, tls: bool, compiled: bool) -> Start:
    if compiled and not (COMPILED / ".made-from").exists():
        raise installed.MissingError("the data path has not been compiled: run scripts/compile")
    port = TLS_PORT if tls else TARGET_PORT
    encrypted = ""
    if tls:
        certificate = _certificate()
        encrypted = f'tls_certificate = "{certificate}"\n'
    urls = ", ".join(f'"{url}"' for url in REPLICA_URLS)
    # Failover and metrics are on by themselves. Limits that protect a service from such a load are raised.
    text = f"""[service]
name = "bench"
listen = "127.0.0.1:{port}"
state_dir = "{RUN / "state"}"
{encrypted}
[model]
id = "bench"
engine = "vllm"

[[pools]]
cloud = "static"
urls = [{urls}]

[failover]
token_ids = "on"

[limits]
max_concurrent_per_replica = 4096
max_queue = 4096
"""
    config = _written("bench.toml", text)
    program = Path(sys.executable).with_name("hedgeserve")
    command = [str(program), "serve", str(config), "--log-level", "warning", "--log-format", "json"]
    return Start(command, port, {"PYTHONPATH": str(COMPILED)} if compiled else {}, tls)


def _nginx() -> str:
    certificate = _certificate()
    servers = "\n".join(f"    server {url.removeprefix('http://')};" for url in REPLICA_URLS)
    scratch = "\n".join(
        f"  {module}_temp_path {RUN}/nginx-{module};"
        for module in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # The events block is nginx's default: one connection is accepted a turn (multi_accept off).
    return f"""daemon off;
worker_processes 1;
pid {RUN}/nginx.pid;
error_log {RUN}/nginx-error.log error;
worker_rlimit_nofile 20000;
events {{
  worker_connections 16000;
}}
http {{
  access_log off;
{scratch}
  client_body_buffer_size 1m;
  keepalive_requests 100000000;
  upstream replicas {{
{servers}
    keepalive 2048;
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{TARGET_PORT} backlog=4096;
    listen 127.0.0.1:{TLS_PORT} ssl backlog=4096;
    ssl_certificate {certificate};
    ssl_certificate_key {certificate};
    location / {{
      proxy_pass http://replicas;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""


def _haproxy() -> str:
    servers = "\n".join(
        f"  server replica{number} {url.removeprefix('http://')} check inter 10s"
        for number, url in enumerate(REPLICA_URLS)
    )
    return f"""global
  nbthread 1
  maxconn 9000
defaults
  mode http
  option http-keep-alive
  option http-no-delay
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend clients
  bind 127.0.0.1:{TARGET_PORT} backlog 4096
  default_backend replicas
backend replicas
  balance roundrobin
{servers}
"""


def _certificate() -> Path:
    """A key and a certificate for 127.0.0.1 that nobody vouches for, made once."""
    path = RUN / "tls.pem"
    if path.exists():
        return path
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    path.chmod(0o600)
    return path
