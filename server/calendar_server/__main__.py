"""`calendar-server`: serve | worker | migrate | create-api-key | revoke-api-key | rotate-keys | import-sqlite | bookings |
retry | health | doctor."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from calendar_server.config import SECRETS, Config, ConfigError
from calendar_server.errors import CalendarError
from calendar_server.private_memory import keep_memory_private

# The other rooms are imported by the commands that need them: the children that read calendar text import this module
# again, and must stay small.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. 0: done; 1: failed; 2: wrong usage or settings."""
    options = _parser().parse_args(arguments)
    keep_memory_private()
    from calendar_server.telemetry import configure_logging, tell_deaths_as_lines

    configure_logging("info")
    tell_deaths_as_lines()
    try:
        config = Config.from_environment()
        for name in SECRETS:
            # Children that need none of them do not inherit them.
            os.environ.pop(name, None)
        configure_logging(config.log_level)
        return int(options.run(config, options) or 0)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    except CalendarError as error:
        print(error.message, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="calendar-server",
        description="Connects people's calendars, reads when they are busy, writes bookings into them.",
        epilog="Settings are environment variables; docs/settings.md lists them.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="migrate, then run gRPC, the HTTP sidecar and the worker")
    serve.add_argument("--no-worker", action="store_true", help="leave the pushes to `worker` processes")
    serve.add_argument("--beside-server", action="store_true", help=argparse.SUPPRESS)
    serve.add_argument("--process", default="server", help=argparse.SUPPRESS)
    serve.add_argument("--scrape-fd", type=int, help=argparse.SUPPRESS)
    serve.set_defaults(run=_serve)

    worker = commands.add_parser("worker", help="push bookings into calendars")
    worker.add_argument("--beside-server", action="store_true", help=argparse.SUPPRESS)
    worker.add_argument("--process", default="worker", help=argparse.SUPPRESS)
    worker.add_argument("--scrape-fd", type=int, help=argparse.SUPPRESS)
    worker.add_argument("--owner", default="", help=argparse.SUPPRESS)
    worker.set_defaults(run=_work)

    migrate = commands.add_parser("migrate", help="bring the database up to date")
    migrate.set_defaults(run=_migrate)

    create = commands.add_parser("create-api-key", help="make a key; it is printed once, on standard output")
    create.add_argument("--organization", required=True, metavar="NAME", help="made if there is none of this name")
    create.set_defaults(run=_create_api_key)

    revoke = commands.add_parser("revoke-api-key", help="end a key, everywhere within 5 seconds")
    revoke.add_argument("id", metavar="ID", help="what `create-api-key` printed as `id: …`")
    revoke.set_defaults(run=_revoke_api_key)

    rotate = commands.add_parser("rotate-keys", help="seal everything anew with the first of CALENDAR_MASTER_KEYS")
    rotate.set_defaults(run=_rotate_keys)

    move = commands.add_parser(
        "import-sqlite", help="copy a SQLite database, with no service on it, into an empty Postgres"
    )
    move.add_argument("file", type=Path, metavar="FILE", help="such as var/calendar.db; it is only read")
    move.set_defaults(run=_import_sqlite)

    parked = commands.add_parser("bookings", help="list pushes that failed or have waited for long")
    parked.add_argument("--parked", action="store_true", required=True, help="those that somebody should look at")
    parked.add_argument("--organization", metavar="NAME", help="only those of this one")
    parked.add_argument(
        "--waiting-min", type=float, default=15, metavar="MINUTES", help="how long is long, for pending ones [15]"
    )
    parked.add_argument("--limit", type=_positive, default=200, help="at most so many [200]")
    parked.add_argument("--json", action="store_true", help="for scripts")
    parked.set_defaults(run=_bookings)

    retry = commands.add_parser("retry", help="try pushes again now; safe while the service runs")
    which = retry.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "booking", metavar="BOOKING", nargs="?", help="the id of a booking: its failed and pending pushes"
    )
    which.add_argument("--all-failed", action="store_true", help="every push that failed")
    retry.add_argument("--organization", metavar="NAME", help="only of this one")
    retry.set_defaults(run=_retry)

    health = commands.add_parser("health", help="ask the server on this machine whether it should get calls; 0: yes")
    health.set_defaults(run=_health)

    doctor = commands.add_parser("doctor", help="look at the installation, or at a connection, and say what is wrong")
    doctor.add_argument("connection", metavar="CONNECTION", nargs="?", help="its id: look at this one, step by step")
    doctor.add_argument(
        "--no-write", action="store_true", help="leave out the test that writes an event and removes it"
    )
    doctor.add_argument("--json", action="store_true", help="for scripts")
    doctor.set_defaults(run=_doctor)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _bookings(config: Config, options: argparse.Namespace) -> int:
    from calendar_server.commands_parked import bookings

    return bookings(config, options)


def _retry(config: Config, options: argparse.Namespace) -> int:
    from calendar_server.commands_parked import retry

    return retry(config, options)


def _serve(config: Config, options: argparse.Namespace) -> None:
    from calendar_server import app

    app.serve(
        config,
        with_worker=not options.no_worker,
        beside_server=options.beside_server,
        process=options.process,
        scrape_fd=options.scrape_fd,
    )


def _work(config: Config, options: argparse.Namespace) -> None:
    from calendar_server import app

    app.work(
        config,
        beside_server=options.beside_server,
        owner=options.owner,
        process=options.process,
        scrape_fd=options.scrape_fd,
    )


def _migrate(config: Config, options: argparse.Namespace) -> None:
    from calendar_server.store.store import Store

    store = Store.open(config.database_url)
    applied = store.migrate()
    print("\n".join(f"applied {name}" for name in applied) or "up to date")
    store.close()


def _create_api_key(config: Config, options: argparse.Namespace) -> int:
    name = options.organization.strip()
    if not name or len(name.encode()) > 256 or not name.isprintable():
        print("--organization: must be 1 to 256 bytes of printable text.", file=sys.stderr)
        return 2
    from calendar_server import app
    from calendar_server.usecases.keys import Keys

    store = app.open_store(config)
    # The master key is made or checked now, so that a wrong one is noticed before anything depends on it.
    app.open_vault(config, store)
    key = Keys(store).create(name)
    print(f"id: {key.id}", file=sys.stderr)
    print(key.text)
    store.close()
    return 0


def _revoke_api_key(config: Config, options: argparse.Namespace) -> None:
    from calendar_server import app
    from calendar_server.usecases.keys import Keys

    store = app.open_store(config)
    Keys(store).revoke(options.id)
    print("revoked")
    store.close()


def _rotate_keys(config: Config, options: argparse.Namespace) -> int:
    from calendar_server import app
    from calendar_server.usecases.rotation import rotate

    store = app.open_store(config)
    outcome = rotate(store, app.open_vault(config, store))
    print(f"sealed anew with {outcome.kid}: {outcome.resealed}; already: {outcome.current}")
    for name in outcome.unreadable:
        print(f"could not be opened and was left as it is: {name}", file=sys.stderr)
    store.close()
    return 1 if outcome.unreadable else 0


def _import_sqlite(config: Config, options: argparse.Namespace) -> int:
    from calendar_server import app
    from calendar_server.usecases.moving import move
    from calendar_server.vault import Vault, VaultKeyError

    if config.database_url.startswith("sqlite"):
        print("CALENDAR_DATABASE_URL: must name the Postgres that everything is copied into.", file=sys.stderr)
        return 2
    try:
        vault = Vault.from_keys(config.master_keys)
        store = app.open_store(config)
        for table, rows in move(options.file, store, vault).items():
            print(f"{table}: {rows}")
    except (ValueError, VaultKeyError) as error:
        raise ConfigError([f"CALENDAR_MASTER_KEYS: {error}"]) from error
    app.open_vault(config, store)
    store.close()
    print(f"Copied. Start nothing on {options.file} again: it knows nothing of what happens from now on.")
    return 0


def _health(config: Config, options: argparse.Namespace) -> int:
    from calendar_server.health import ask

    problem = ask(config.http_address)
    print(problem or "ready", file=sys.stderr if problem else sys.stdout)
    return 1 if problem else 0


def _doctor(config: Config, options: argparse.Namespace) -> int:
    from calendar_server.doctor import run

    return run(config, options)


if __name__ == "__main__":
    sys.exit(main())
