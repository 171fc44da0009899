"""The command line's root; each command registers itself on it."""

import typer

app = typer.Typer(
    name="reckoner",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Nightly recommendation tables: build sequences, train rankers, publish lists.",
)
