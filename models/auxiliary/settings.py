"""Auxiliary objectives by name, as settings and as modules."""

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from torch import nn

from models.auxiliary.base import Auxiliary
from models.auxiliary.icsrec import ICSRec, ICSRecSettings
from models.auxiliary.sra_cl import SRACL, SRACLSettings


def _spelled_out(value: Any) -> Any:
    """Read "icsrec,sra-cl", a list of names or JSON: what a name leaves out is at its default."""
    if isinstance(value, str) and value.startswith("["):
        value = json.loads(value)
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
    if isinstance(value, list | tuple):
        return tuple({"name": one} if isinstance(one, str) else one for one in value)
    return value


AuxiliaryChoice = Annotated[ICSRecSettings | SRACLSettings, Field(discriminator="name")]


def _each_once(choices: tuple[AuxiliaryChoice, ...]) -> tuple[AuxiliaryChoice, ...]:
    names = [choice.name for choice in choices]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"auxiliary names {', '.join(twice)} more than once")
    return choices


AuxiliaryChoices = Annotated[
    tuple[AuxiliaryChoice, ...], BeforeValidator(_spelled_out), AfterValidator(_each_once)
]


def build_auxiliaries(
    choices: tuple[AuxiliaryChoice, ...], max_length: int, dim: int, num_items: int
) -> nn.ModuleList:
    """Build the chosen objectives, in order."""
    built: list[Auxiliary] = []
    for choice in choices:
        if isinstance(choice, ICSRecSettings):
            built.append(ICSRec(choice, max_length, dim))
        else:
            built.append(SRACL(choice, max_length, dim, num_items))
    return nn.ModuleList(built)
