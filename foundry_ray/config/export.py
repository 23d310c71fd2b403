"""The section `export`: what is published beside the served file, and what only its makers can say of a model."""

from __future__ import annotations

from pydantic import Field

from foundry_ray.config.section import Section


class CardConfig(Section):
    """What a model card cannot know by itself. A field that is empty is told to be not stated."""

    license: str = Field("", max_length=200, description="Of the model: an SPDX identifier, as Apache-2.0, or its name.")
    license_url: str = Field("", max_length=500, description="Where that licence can be read.")
    data_license: str = Field("", max_length=200, description="Of the data that it learnt from.")
    contact: str = Field("", max_length=200, description="Who answers questions about it.")
    intended_use: str = Field("", max_length=4000, description="What it is meant for, and what not.")
    limits: str = Field("", max_length=4000, description="What it is known to be bad at, beside what the card says by itself.")


class ExportConfig(Section):
    """What is published of a student besides the file that is served."""

    torch_program: bool = Field(
        False, description="Publish model.pt2 too (torch.export, without pickle), in fp32; takes seconds, and as many bytes as the weights."
    )
    card: CardConfig = Field(CardConfig(), description="What the model card says beside what it finds out.")
