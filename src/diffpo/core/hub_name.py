"""Names of models and data sets on the Hugging Face hub: ORG/NAME[@REVISION][:CONFIGURATION]."""

import re
from dataclasses import dataclass

_PATTERN = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w.-]+(?:/[\w.-]+)*))?(?::([\w.-]+))?")


@dataclass(frozen=True)
class HubName:
    """A repository of the hub, and what of it is meant."""

    repository: str
    """ORG/NAME."""
    revision: str | None = None
    """A branch, a tag or a commit; None for the main branch."""
    configuration: str | None = None
    """One of the configurations of a data set; None for its default. Models have none."""


def parse_hub_name(text: str) -> HubName | None:
    """Return the parts of a hub name; None for a text that is none. Neither the disk nor the hub is asked."""
    found = _PATTERN.fullmatch(text)
    return HubName(*found.groups()) if found else None
