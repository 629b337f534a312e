"""The recipe for a prepared image: what `hedgeserve bake` prints. Pure.

A stock GPU image installs gigabytes at each VM's first boot; one with engine and weights in it is ready in the
time that loading takes.
"""

import json
import re
import shlex

from hedgeserve.engines.vllm import VERSION
from hedgeserve.engines.vllmscripts import AS_ROOT, install_script, pull_script
from hedgeserve.spec import Cloud, EngineName, ModelSpec, Spec

HOME = "/opt/hedgeserve"
"""Where a prepared image has what was prepared: readable for every user, and on the image's own disk."""

_BUCKETS = ("s3://", "gs://", "az://")

_HEAD = """\
#!/bin/sh
# A prepared image for {model} on {cloud}, as `hedgeserve bake` wrote it.
#
# 1. Start a VM with a GPU by hand: from the image that you would serve from, with a boot disk of at least
#    {disk_gib} GiB, and without HedgeServe.
# 2. Copy this script to it and run it there as a user who may become root{token}.
# 3. Run the commands at its end on your own machine, and write the last lines into your model.toml.
#
# It may be run again after a failure: what is there already is not fetched again.
set -eu
"""

_FOLDER = """\

# --- A place for what is prepared ---
as_root mkdir -p {home}/weights
as_root chown -R "$(id -u):$(id -g)" {home}
"""

_DOWNLOAD = """\

# --- The weights. They are given by path in model.toml, so that no VM asks the hub for anything ---
cat > {home}/download.py <<'END_OF_DOWNLOAD'
import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], local_dir=sys.argv[2])
END_OF_DOWNLOAD
{run} {home}/download.py {id} {weights}
rm -rf {home}/download.py {weights}/.cache
as_root chown -R "$(id -u):$(id -g)" {home}
chmod -R a+rX {home}
"""

# Ours goes last, for it is what lets us in.
_CLEAN = """\

# --- Nothing of this VM or of you may be in the image: keys, tokens, histories, logs ---
rm -rf ~/.cache ~/.huggingface ~/.docker ~/.aws ~/.azure ~/.config/gcloud ~/hedgeserve
rm -f ~/.bash_history ~/.netrc ~/.python_history
as_root sh -c 'rm -rf /root/.cache /root/.docker /root/.bash_history /etc/ssh/ssh_host_* /var/tmp/*'
as_root journalctl --rotate --vacuum-time=1s > /dev/null 2>&1 || true
as_root find /var/log -type f -exec truncate -s 0 {} +
if command -v cloud-init > /dev/null 2>&1; then as_root cloud-init clean --logs; fi
rm -f ~/.ssh/authorized_keys
sync
echo 'This VM is prepared; log out, and make the image of it now: nobody can log in again.'
"""

_AWS = """\
# On your own machine, with the VM's instance id:
#   aws ec2 create-image --region {region} --instance-id INSTANCE --name {name} --query ImageId --output text
#   aws ec2 wait image-available --region {region} --image-ids AMI
{copies}#   aws ec2 terminate-instances --region {region} --instance-ids INSTANCE
# An AMI's disk is read from S3 when it is first touched; with fast snapshot restore on its snapshot it is not.
"""
_AWS_COPY = (
    "#   aws ec2 copy-image --region {region} --source-region {source} --source-image-id AMI --name {name}\n"
)

_GCP = """\
# On your own machine, with the VM's name and zone:
#   gcloud compute instances stop VM --zone ZONE
#   gcloud compute images create {name} --source-disk VM --source-disk-zone ZONE
#   gcloud compute instances delete VM --zone ZONE
"""

_AZURE = """\
# On the VM, which takes its user away:
#   sudo waagent -deprovision+user -force
# On your own machine, with the VM's name and resource group:
#   az vm deallocate --resource-group GROUP --name VM
#   az vm generalize --resource-group GROUP --name VM
#   az image create --resource-group GROUP --name {name} --source VM --hyper-v-generation V2 --query id
#   az vm delete --resource-group GROUP --name VM --yes
# Such an image can be used in its own region only; for several make a version of it in a compute gallery.
"""


def recipe(spec: Spec, cloud: Cloud) -> str:
    """A commented shell script that makes a stock GPU VM a prepared image for this service, and what to do after.

    Raises:
        ValueError: There is nothing to prepare, or this cloud has no images; says why.
    """
    model = spec.model
    if model.engine is not EngineName.VLLM:
        raise ValueError(f'nothing is installed for engine = "{model.engine}", so there is no image to prepare')
    if cloud not in _AFTER:
        raise ValueError(f"{cloud} has no images; one of {', '.join(_AFTER)} has")
    name = _image_name(spec)
    weights = _weights(model)
    head = _HEAD.format(
        model=" ".join(model.id.split()),
        cloud=cloud,
        disk_gib=spec.vm.disk // 2**30,
        token="; HF_TOKEN in its environment\n#    lets it download weights that need a login" if weights else "",
    )
    parts = [head, AS_ROOT, _FOLDER.format(home=HOME), _engine(model)]
    if weights:
        parts.append(_download(model, weights))
    elif model.weights.startswith("/") or model.id.startswith("/"):
        path = shlex.quote(model.weights or model.id)
        parts.append(f"\n# --- The weights: put them there before ---\nls -d {path}/\n")
    regions = _regions(spec, cloud)
    return "".join(
        [*parts, _CLEAN, "\n", _AFTER[cloud](regions, name), _pins(model, weights, cloud, regions, name)]
    )


def _engine(model: ModelSpec) -> str:
    if model.container:
        script, what = pull_script(model.container, gpus=1), "The engine, as a container image"
    elif model.python:
        python = shlex.quote(model.python)
        return f"\n# --- The engine: model.python has to have it ---\n{python} -c 'import vllm'\n"
    else:
        script = install_script(
            python="python3",
            venv=f"{HOME}/venv",
            launcher=f"{HOME}/python",
            version=model.version or VERSION,
            streamer=model.weights.startswith(_BUCKETS),
        )
        what = "The engine, in a virtual environment"
    return f"\n# --- {what} ---\n{script}"


def _weights(model: ModelSpec) -> str:
    """Where the weights of a model from the hub are put; empty where they come from elsewhere."""
    if model.weights or model.id.startswith("/"):
        return ""
    return f"{HOME}/weights/" + re.sub(r"[^A-Za-z0-9._-]+", "--", model.id)


def _download(model: ModelSpec, weights: str) -> str:
    if model.container:
        # The token goes by its name: whoever lists processes must not see it.
        run = (
            f"sudo --preserve-env=HF_TOKEN docker run --rm --env HF_TOKEN --volume {HOME}:{HOME} "
            f"--entrypoint python3 {shlex.quote(model.container)}"
        )
    else:
        run = shlex.quote(model.python or f"{HOME}/python")
    return _DOWNLOAD.format(home=HOME, run=run, id=shlex.quote(model.id), weights=shlex.quote(weights))


def _regions(spec: Spec, cloud: Cloud) -> list[str]:
    pools = [pool for pool in spec.pools if pool.cloud is cloud]
    named = [region for pool in pools for region in (*pool.regions, *(zone.split("/")[0] for zone in pool.zones))]
    return list(dict.fromkeys(named))


def _image_name(spec: Spec) -> str:
    version = spec.model.version or VERSION
    return f"hedgeserve-{spec.service.name}-" + (
        "container" if spec.model.container else version.replace(".", "-")
    )


def _after_aws(regions: list[str], name: str) -> str:
    source, *others = regions or ["REGION"]
    copies = "".join(_AWS_COPY.format(region=region, source=source, name=name) for region in others)
    return _AWS.format(region=source, name=name, copies=copies)


def _after_gcp(regions: list[str], name: str) -> str:
    return _GCP.format(name=name)


def _after_azure(regions: list[str], name: str) -> str:
    return _AZURE.format(name=name)


_AFTER = {Cloud.AWS: _after_aws, Cloud.GCP: _after_gcp, Cloud.AZURE: _after_azure}


def _pins(model: ModelSpec, weights: str, cloud: Cloud, regions: list[str], name: str) -> str:
    """The lines for model.toml."""
    lines = ["[model]"]
    if not model.container:
        lines.append(f"python = {json.dumps(model.python or f'{HOME}/python')}")
    if weights:
        lines.append(f"weights = {json.dumps(weights)}")
    lines = lines if len(lines) > 1 else []
    images = {
        Cloud.AWS: "images = {" + ", ".join(f'{region} = "AMI"' for region in regions or ["REGION"]) + "}",
        Cloud.GCP: f'image = "projects/PROJECT/global/images/{name}"',
        Cloud.AZURE: f'image = "/subscriptions/ID/resourceGroups/GROUP/providers/Microsoft.Compute/images/{name}"',
    }
    lines += [f"[{cloud}]", images[cloud]]
    return "#\n# In model.toml then:\n" + "".join(f"#   {line}\n" for line in lines)
