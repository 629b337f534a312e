"""The recipe for a prepared image: a script that can be run, and words that model.toml understands."""

import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hedgeserve.engines.bake import HOME, recipe
from hedgeserve.spec import Cloud, Spec
from hedgeserve.specfile import parse_spec
from tests.test_engines import vllm_wheel

MODEL = 'id = "org/model"\nengine = "vllm"\nsecret_env = ["HF_TOKEN"]\n'
CLEANING = "# --- Nothing of this VM or of you may be in the image"


def spec_of(model: str = MODEL) -> Spec:
    text = f"""
[service]
name = "qwen"
[model]
{model}
[replicas]
count = 1
[[pools]]
cloud = "aws"
regions = ["us-east-1", "us-west-2"]
gpu = "L4:1"
[[pools]]
cloud = "gcp"
zones = ["us-central1/us-central1-a"]
gpu = "L4:1"
[[pools]]
cloud = "azure"
regions = ["eastus"]
gpu = "L4:1"
"""
    return parse_spec(text, "m.toml", Path("/tmp"), {"HF_TOKEN": "hf_secret"})


def pinned(script: str) -> dict[str, Any]:
    """What the recipe says is to be written into model.toml."""
    _, _, lines = script.partition("# In model.toml then:\n")
    return tomllib.loads("\n".join(line.removeprefix("#   ") for line in lines.splitlines()))


@pytest.mark.parametrize("cloud", [Cloud.AWS, Cloud.GCP, Cloud.AZURE])
@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        MODEL + 'container = "vllm/vllm-openai:v0.32.0"\n',
        MODEL + 'weights = "s3://bucket/it is"\n',
        MODEL + 'python = "/opt/it is/python"\n',
        'id = "/weights/it is; rm -rf"\nengine = "vllm"\n',
    ],
)
def test_a_recipe_can_be_parsed_and_leaves_no_secret(cloud: Cloud, model: str) -> None:
    """By any shell, for every way to have an engine and its weights; what it says of model.toml is understood."""
    script = recipe(spec_of(model), cloud)
    subprocess.run(["sh", "-n"], input=script, text=True, check=True, timeout=10)
    assert "hf_secret" not in script
    assert script.index(CLEANING) < script.index("rm -f ~/.ssh/authorized_keys")
    told = pinned(script)
    merged = tomllib.loads(f"[model]\n{model}")["model"] | told.get("model", {})
    assert type(spec_of().model).model_validate(merged).id == merged["id"]
    assert told[cloud]


def test_each_cloud_has_its_own_commands() -> None:
    """With the regions of the pools, and the image by the name that it is given."""
    aws = recipe(spec_of(), Cloud.AWS)
    assert "aws ec2 create-image --region us-east-1" in aws
    assert "aws ec2 copy-image --region us-west-2 --source-region us-east-1" in aws
    assert pinned(aws)["aws"]["images"] == {"us-east-1": "AMI", "us-west-2": "AMI"}
    assert "gcloud compute images create hedgeserve-qwen-0-32-0" in recipe(spec_of(), Cloud.GCP)
    assert "az image create" in recipe(spec_of(), Cloud.AZURE)
    for script in (aws, recipe(spec_of(MODEL + 'container = "i:1"\n'), Cloud.AWS)):
        assert pinned(script)["model"]["weights"] == f"{HOME}/weights/org--model"


def test_what_needs_no_image_is_refused() -> None:
    """An engine that is not installed by us, and a cloud that has no images."""
    with pytest.raises(ValueError, match='engine = "demo", so there is no image'):
        recipe(spec_of('id = "x"\nengine = "demo"\n'), Cloud.AWS)
    with pytest.raises(ValueError, match="local has no images; one of aws, gcp, azure has"):
        recipe(spec_of(), Cloud.LOCAL)


def test_the_preparing_part_works_and_may_be_run_again(tmp_path: Path) -> None:
    """Run for real up to the cleaning: vLLM in its place, weights in theirs, readable for all."""
    vllm_wheel(tmp_path, "0.32.0")
    (tmp_path / "huggingface_hub.py").write_text(
        "import os, pathlib\n"
        "def snapshot_download(name, local_dir):\n"
        "    pathlib.Path(local_dir, '.cache').mkdir(parents=True, exist_ok=True)\n"
        "    pathlib.Path(local_dir, 'model').write_text(name + os.environ['HF_TOKEN'])\n"
    )
    home = tmp_path / "opt"
    script, marker, _ = recipe(spec_of(), Cloud.AWS).replace(HOME, str(home)).partition(CLEANING)
    assert marker
    (tmp_path / "sudo").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (tmp_path / "sudo").chmod(0o755)
    environ = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "HF_TOKEN": "hf_secret",
        "PYTHONPATH": str(tmp_path),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
    }
    for _ in range(2):
        done = subprocess.run(["sh"], input=script, env=environ, text=True, capture_output=True, timeout=100)
        assert done.returncode == 0, done.stderr
    weights = home / "weights/org--model"
    assert [path.name for path in weights.iterdir()] == ["model"]
    assert (weights / "model").read_text() == "org/modelhf_secret"
    started = subprocess.run([home / "python", "-c", "import vllm; print(vllm.__version__)"], capture_output=True)
    assert started.stdout.strip() == b"0.32.0"
