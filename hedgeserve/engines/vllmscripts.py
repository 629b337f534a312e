"""The shell scripts that bring vLLM onto a VM: into a virtual environment, or as a container image. Pure."""

import shlex

AS_ROOT = 'as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }\n'
"""The shell function with which our scripts become root where they must; fails where they may not."""

# The command line has to be known before the script has found out which interpreter has vLLM, hence the launcher.
# A venv whose making was interrupted cannot import anything and is made anew. Debian and Ubuntu have `venv` in a
# package of its own.
_INSTALL = """\
set -eu
python=@python@
venv=@venv@
launcher=@launcher@
runs_vllm() { "$1" -c '@import@' >/dev/null 2>&1; }
make_venv() {
    "$1" -m venv --clear "$venv" && return
    command -v apt-get >/dev/null 2>&1 || return 1
    as_root apt-get -q update && as_root apt-get -q install -y python3-venv && "$1" -m venv --clear "$venv"
}
if ! runs_vllm "$python"; then
    system=$python
    python=$venv/bin/python
    if ! runs_vllm "$python"; then
        if command -v uv >/dev/null 2>&1; then
            "$python" -c '' 2>/dev/null || { rm -rf "$venv"; uv venv --python "$system" "$venv"; }
            uv pip install --no-cache --python "$python" @requirement@
        else
            "$python" -m pip --version >/dev/null 2>&1 || make_venv "$system"
            "$python" -m pip install --no-cache-dir --disable-pip-version-check @requirement@
        fi
        "$python" -c '@import@'
    fi
fi
printf '#!/bin/sh\\nexec "%s" "$@"\\n' "$python" > "$launcher.new"
chmod 755 "$launcher.new"
mv "$launcher.new" "$launcher"
"""

_NO_DOCKER = (
    "there is no docker on the VM; use an image that has it, or leave model.container out to have vLLM installed"
)

_PULL = """\
set -eu
image=@image@
command -v docker >/dev/null 2>&1 || { echo '@no_docker@' >&2; exit 1; }
if [ @gpus@ -gt 0 ] && ! as_root docker info --format '{{json .Runtimes}}' | grep -q nvidia &&
    command -v nvidia-ctk >/dev/null 2>&1; then
    as_root nvidia-ctk runtime configure --runtime=docker
    as_root systemctl restart docker
fi
as_root docker image inspect "$image" >/dev/null 2>&1 || as_root docker pull -q "$image"
"""


def install_script(*, python: str, venv: str, launcher: str, version: str, streamer: bool) -> str:
    """Have ``launcher`` run an interpreter with vLLM: ``python`` itself if it has it, else that of ``venv``.

    ``streamer``: with what reads weights from buckets.
    """
    requirement = f"vllm[runai]=={version}" if streamer else f"vllm=={version}"
    values = {
        "python": shlex.quote(python),
        "venv": shlex.quote(venv),
        "launcher": shlex.quote(launcher),
        "import": "import vllm, runai_model_streamer" if streamer else "import vllm",
        "requirement": shlex.quote(requirement),
    }
    return AS_ROOT + _filled(_INSTALL, values)


def pull_script(image: str, *, gpus: int) -> str:
    """Have the container image on the VM, and docker able to hand GPUs to it."""
    return AS_ROOT + _filled(_PULL, {"image": shlex.quote(image), "no_docker": _NO_DOCKER, "gpus": str(gpus)})


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
