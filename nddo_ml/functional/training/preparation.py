"""What a training begins with: the reactions and properties of its configuration, and the functional before any step."""

from dataclasses import dataclass

from nddo_ml.errors import UnknownOption
from nddo_ml.functional import library
from nddo_ml.functional.base import Functional
from nddo_ml.functional.forms.projection import Projected
from nddo_ml.functional.reactions import ChemicalSystem, Property, Reaction, needed_systems
from nddo_ml.functional.training import delocalisation
from nddo_ml.functional.training.config import FunctionalConfig
from nddo_ml.functional.training.thermochemistry import read_properties, read_thermochemistry, split


@dataclass(frozen=True)
class ReactionData:
    """What is known of the right energies and densities."""

    systems: dict[str, ChemicalSystem]          # by key
    parts: dict[str, list[Reaction]]            # "train", "validation", "test"
    properties: list[Property]                  # that are trained on

    def judged(self) -> list[str]:
        """Keys of the systems of all reactions but those of the test."""
        return needed_systems(self.parts["train"] + self.parts["validation"])


def reaction_data(config: FunctionalConfig) -> ReactionData:
    """The reactions and properties of a configuration.

    Raises:
        UnknownOption: the configuration names a reaction or an element that there is not, or leaves nothing to train on.
        IncompatibleFile: a file of reactions or properties is another one.
    """
    data, losses = config.data, config.losses
    systems, reactions = read_thermochemistry(data.file or None)
    unknown = sorted(set(data.only) - {r.name for r in reactions})
    if unknown:
        raise UnknownOption(f"data.only names {unknown[0]!r}, which is no reaction of the file.")
    parts = split([r for r in reactions if not data.only or r.name in data.only], data.validation, data.test)
    for weight, made in ((losses.stretched, delocalisation.stretched),
                         (losses.fractional, lambda: delocalisation.fractional(data.fractional))):
        if weight:
            more, added = made()
            systems, parts["train"] = systems | more, parts["train"] + added
    if not data.properties:
        return ReactionData(systems, parts, [])
    more, properties = read_properties(data.properties)
    return ReactionData(more | systems, parts, properties)


def untrained(config: FunctionalConfig, seed: int) -> Functional:
    """The functional a seed begins with; what is to be learned requires gradients.

    Raises:
        UnknownOption: there is none such.
    """
    form = config.functional
    if ":" in form.kind:
        return library.own(form.kind)
    if form.start:
        functional = library.load(form.start).requires_grad_(not form.frozen)
        if form.projected and functional.nonlocal_part is None:
            functional.nonlocal_part = Projected(width=form.width, seed=seed, alone=form.alone)
        if functional.nonlocal_part is not None:
            functional.nonlocal_part.requires_grad_(True)
        return functional
    part = {"width": form.width, "alone": form.alone} if form.projected else None
    if form.kind in library.PUBLISHED:
        return library.build(library.Blueprint(form.kind, nonlocal_part=part), seed)
    fraction = form.exact_exchange if form.exact_exchange >= 0 else None
    return library.build(library.Blueprint(form.kind, form.parent or None, form.width, form.correlation, fraction,
                                        form.learned_fraction, part), seed)
