"""The `advantage` option: a name, or what the user's own function or class is called."""

from typing import Annotated

from pydantic import AfterValidator, SerializeAsAny

from diffpo.core.errors import UserError
from diffpo.core.suggestion import suggestion
from diffpo.core.user_code import is_user_code
from diffpo.objective.advantages import ADVANTAGES
from diffpo.recipes.custom import Contract, CustomPart, load_function


class CustomAdvantage(CustomPart):
    """A class of your own with options; one without is named by `advantage` itself, as a function is."""

    _contract = Contract("advantage", {"__call__": ("reward",)}, {})


def _known(name: str) -> str:
    if is_user_code(name):
        try:
            load_function(name, CustomAdvantage)
        except UserError as error:
            raise ValueError(str(error)) from error
    elif name not in ADVANTAGES:
        known = " or ".join(map(repr, ADVANTAGES))
        raise ValueError(
            f"should be {known} or a function of your own (FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION), "
            f"got {name!r}{suggestion(name, ADVANTAGES)}"
        )
    return name


AdvantageRecipe = Annotated[str, AfterValidator(_known)] | SerializeAsAny[CustomAdvantage]
