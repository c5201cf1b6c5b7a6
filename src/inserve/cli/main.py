"""The ``inserve`` command; each sub-command imports what it needs only when it runs."""

from __future__ import annotations

import errno
from typing import Any

import click

from inserve._version import __version__
from inserve.cli.demo import demo
from inserve.cli.inspect import inspect
from inserve.cli.serve import serve
from inserve.errors import InserveError

__all__ = ["main"]


class _Commands(click.Group):
    """A group whose commands report the errors of the library and of the system as one line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InserveError as error:
            message = str(error)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            message = str(error)
        raise click.ClickException(" ".join(message.split()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="inserve", message="%(prog)s %(version)s")
def main() -> None:
    """Serve, look into and try TensorFlow SavedModels."""


main.add_command(serve)
main.add_command(inspect)
main.add_command(demo)
