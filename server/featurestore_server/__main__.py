"""``featurestore serve`` and ``featurestore keys``: the server's own command line."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import featurestore as fs
from featurestore.engine.database import open_database
from featurestore.errors import FeatureStoreError, InvalidInput
from featurestore_server.access import ROLES, Keys
from featurestore_server.bodies import Limits
from featurestore_server.keys import is_access_id
from featurestore_server.serve import Serving, serve


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.command == "serve":
            return serve(_serving(asked))
        return _keys(asked)
    except FeatureStoreError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 2 if isinstance(error, InvalidInput) else 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="featurestore")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("serve", help="serve a store over HTTP")
    one.add_argument("store", type=Path, nargs="?", default=Path("store"), help="its directory")
    one.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    one.add_argument("--port", type=int, default=8080, help="port; 0 for any (%(default)s)")
    one.add_argument("--workers", type=int, default=1, help="processes (%(default)s)")
    one.add_argument("--tls-cert", type=Path, help="certificate chain, PEM")
    one.add_argument("--tls-key", type=Path, help="its key, PEM, PKCS#8")
    one.add_argument("--plain-http", action="store_true", help="other machines, without TLS")
    one.add_argument("--anonymous", action="store_true", help="other machines, without API keys")
    one.add_argument(
        "--limit", action="append", default=[], metavar="NAME=VALUE",
        help=f"change a limit: {', '.join(Limits._fields)}",
    )  # fmt: skip
    keys = commands.add_parser("keys", help="make, list, rotate and revoke API keys")
    doing = keys.add_subparsers(dest="doing", required=True)
    create = doing.add_parser("create", help="make a key; it is shown this once")
    create.add_argument("name")
    create.add_argument(
        "--role", action="append", required=True, metavar="ROLE[:GROUPS]",
        help=f'one of {", ".join(ROLES)}, with a pattern of groups as "reader:weather*"',
    )  # fmt: skip
    create.add_argument("--expires-in", metavar="90d")
    create.add_argument(
        "--access-key", action="store_true",
        help="an access key id and its secret, for boto3; printed as environment variables",
    )  # fmt: skip
    create.add_argument("--rate", type=float, help="requests a second it may make, of each worker")
    rotate = doing.add_parser("rotate", help="give a key a new secret")
    rotate.add_argument("id")
    rotate.add_argument("--grace", default="1d", help="how long the old one works (%(default)s)")
    rotate.add_argument("--expires-in", metavar="90d")
    revoke = doing.add_parser("revoke", help="remove a key")
    revoke.add_argument("id")
    listed = doing.add_parser("list", help="list keys")
    for command in (create, rotate, revoke, listed):
        command.add_argument("--store", type=Path, default=Path("store"), help="(%(default)s)")
    return parser


def _serving(asked: argparse.Namespace) -> Serving:
    if (asked.tls_cert is None) != (asked.tls_key is None):
        raise InvalidInput("--tls-cert and --tls-key go together.")
    tls = None if asked.tls_cert is None else (asked.tls_cert, asked.tls_key)
    changes = {}
    for text in asked.limit:
        name, _, value = text.partition("=")
        if name not in Limits._fields:
            raise InvalidInput(f'"{name}" is no limit; there are {", ".join(Limits._fields)}.')
        changes[name] = type(Limits._field_defaults[name])(value)
    return Serving(
        store=asked.store,
        host=asked.host,
        port=asked.port,
        workers=asked.workers,
        tls=tls,
        plain_http=asked.plain_http,
        anonymous=asked.anonymous,
        limits=Limits(**changes),
    )


def _keys(asked: argparse.Namespace) -> int:
    with fs.open(asked.store) as store:
        database = open_database(store.path)
        try:
            return _change_keys(Keys(database), asked)
        finally:
            database.close()


def _change_keys(keys: Keys, asked: argparse.Namespace) -> int:
    if asked.doing == "list":
        for facts in keys.list():
            print(json.dumps(facts))
    elif asked.doing == "revoke":
        keys.revoke(asked.id)
    else:
        if asked.doing == "create":
            options = {"expires_in": asked.expires_in, "rate": asked.rate}
            options |= {"access_key": asked.access_key}
            secret, facts = keys.create(asked.name, asked.role, **options)
        else:
            secret, facts = keys.rotate(asked.id, grace=asked.grace, expires_in=asked.expires_in)
        if is_access_id(facts["id"]):
            print(f"AWS_ACCESS_KEY_ID={facts['id']}\nAWS_SECRET_ACCESS_KEY={secret}")
        else:
            print(secret)
    return 0


if __name__ == "__main__":
    sys.exit(main())
