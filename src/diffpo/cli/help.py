"""How a verb's `--help` is set out, and what its usage errors suggest. Imports nothing heavy."""

import re
from typing import Any

import typer
from typer._click.exceptions import NoSuchOption, UsageError  # typer's own copy of click has no other name
from typer.core import TyperCommand, TyperGroup

from diffpo.core.suggestion import VERBS_ELSEWHERE, closest, suggested_choice, suggestion

RANGE = re.compile(r"(; )?([\d.]+<=)?x[<>]=?[\d.]+(?=\]$)")
"""Limits of a number, which are told where they are passed."""


class Verbs(TyperGroup):
    """The verbs. One that other programs have gets the name that it has here."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first argument names."""
        try:
            return super().resolve_command(ctx, args)
        except UsageError as error:
            near = closest(args[0], [*self.commands, *VERBS_ELSEWHERE])
            if near and near[0] in VERBS_ELSEWHERE:
                meant = " or ".join(map(repr, VERBS_ELSEWHERE[near[0]]))
                error.message = f"No such command {args[0]!r}. Did you mean {meant}?"
            raise


class Verb(TyperCommand):
    """A command whose options are listed in groups, by their `rich_help_panel`, those without one first."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for the arguments and one for each group of options."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                is_option = parameter.param_type_name == "option"
                group = (getattr(parameter, "rich_help_panel", None) or "Options") if is_option else "Arguments"
                sections.setdefault(group, []).append((record[0], RANGE.sub("", record[1]).removesuffix("  []")))
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; where a word is none of an option's, the nearest one is suggested."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            told = error.message.removeprefix("Value error, ").rstrip(".")
            error.message = f"{told}{suggested_choice(told)}"
            raise
        except NoSuchOption as error:
            known = [name for parameter in self.get_params(ctx) for name in parameter.opts if name.startswith("--")]
            name = error.option_name
            error.message = f"No such option: {name}{suggestion(name, known)}"
            if not closest(name, known, cutoff=0.7) and any(each.name == "overrides" for each in self.get_params(ctx)):
                error.message = f"No such option: {name}; keys of a recipe are given without dashes, as budget.steps=5"
            error.possibilities = None
            raise
