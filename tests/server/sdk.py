"""SageMaker's own SDKs, unmodified, against a server: 2.x and 3.x, each in a place of its own.

    python -m tests.server.sdk                         both, their environments made for the run
    python -m tests.server.sdk --only 3 --python /path/to/an/environment/bin/python

The two cannot share an environment, and neither belongs in ours; so each scenario
(``sdk_v2.py``, ``sdk_v3.py``) is a script run by another Python, and what it is told is told by
environment variables alone: the endpoint, an access key, a region, and a file of SDK defaults that
opts out of telemetry, since that would be sent to AWS.  When a scenario is over, the store it has
written is looked at from this side.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import featurestore as fs
from featurestore.engine.database import open_database
from featurestore_server.access import Keys
from tests.server.serving import Served

WANTED = {"2": "sagemaker>=2.250,<3", "3": "sagemaker>=3.20"}
DEFAULTS = """
SchemaVersion: '1.0'
SageMaker:
  PythonSDK:
    Modules:
      TelemetryOptOut: true
"""


def environment(version: str, folder: Path) -> Path:
    """Make an environment with one of the SDKs; returns its Python."""
    print(f"installing {WANTED[version]} …", flush=True)
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, WANTED[version]], check=True)
    return python


def run(version: str, python: Path, folder: Path) -> None:
    """Run a scenario against a server of its own, then look at the store."""
    store = folder / "store"
    with fs.open(store) as opened:
        database = open_database(opened.path)
        secret, facts = Keys(database).create("sdk", ["admin"], access_key=True)
        database.close()
    defaults = folder / "defaults.yaml"
    defaults.write_text(DEFAULTS, encoding="utf-8")
    script = Path(__file__).parent / f"sdk_v{version}.py"
    with Served(store, "--workers", "2") as served:
        told = {
            "AWS_ENDPOINT_URL": served.url,
            "AWS_ACCESS_KEY_ID": facts["id"],
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_REGION": "eu-west-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "SAGEMAKER_ADMIN_CONFIG_OVERRIDE": str(defaults),
            "SAGEMAKER_USER_CONFIG_OVERRIDE": str(defaults),
        }
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        subprocess.run([python, script], env=inherited | told, check=True)
    with fs.open(store) as opened:
        assert opened.verify() == []
        counts = {
            group.name: opened.sql(f'SELECT count(*) AS n FROM history."{group.name}"')["n"][
                0
            ].as_py()
            for group in opened.list_feature_groups()
        }
    print(f"sagemaker {version}.x: the store is sound; history: {counts}", flush=True)


def main() -> None:
    """Run one scenario, or both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=WANTED)
    parser.add_argument("--python", type=Path, help="of an environment that has the SDK already")
    asked = parser.parse_args()
    if asked.python is not None and asked.only is None:
        sys.exit("--python is of one SDK: say which with --only.")
    for version in WANTED if asked.only is None else (asked.only,):
        with tempfile.TemporaryDirectory(prefix=f"sagemaker-{version}-") as scratch:
            folder = Path(scratch)
            python = asked.python or environment(version, folder / "environment")
            run(version, python, folder)


if __name__ == "__main__":
    main()
