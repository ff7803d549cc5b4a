"""``calendarctl completion``: the script that teaches a shell to complete commands, options and ids of connections."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from calendar_client.cli_session import Session, account_text
from calendar_client.errors import CalendarServiceError

PROGRAM = "calendarctl"
VARIABLE = "_CALENDARCTL_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
LOOK_S = 1.5
"""Seconds that a shell may wait for the ids of connections."""

_INSTALL = {
    "bash": "echo 'eval \"$(calendarctl completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(calendarctl completion zsh)\"' >> ~/.zshrc",
    "fish": "calendarctl completion fish > ~/.config/fish/completions/calendarctl.fish",
}

_EPILOG = "\b\nTo have it in every new shell:\n" + "\n".join(f"  {line}" for line in _INSTALL.values())


@click.command(epilog=_EPILOG)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete calendarctl."""
    cls = get_completion_class(shell)
    assert cls is not None
    click.echo(cls(context.find_root().command, {}, PROGRAM, VARIABLE).source())


def complete_connection(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """The ids of connections that begin so, with their accounts. A service that does not answer soon completes nothing."""
    session = context.find_object(Session) or Session()
    session.timeout_s = LOOK_S
    try:
        with session.client() as client:
            page = client.list_page(page_size=100)
    except (CalendarServiceError, click.ClickException, OSError):
        return []
    return [CompletionItem(each.id, help=account_text(each)) for each in page.data if each.id.startswith(typed)]
