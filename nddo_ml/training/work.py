"""What one process works on in a stage: its share of the training frames, and the batches that it draws from them."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nddo_ml.common.processes import World
from nddo_ml.methods import Method
from nddo_ml.training.batches import draw, orbitals, spin_channels
from nddo_ml.training.config import Stage
from nddo_ml.training.dataset import LabelledFrame
from nddo_ml.training.losses import Weights
from nddo_ml.training.stages import StageData, less_constants
from nddo_ml.training.step import FrameRecord, TrainingStep


@dataclass(frozen=True, eq=False)
class FrameShare:
    """The training frames of one process."""

    frames: list[LabelledFrame]
    groups: list[Hashable]              # name of each frame's group; frames of one group share a batch
    orbitals: list[int]                 # number of orbitals of each frame
    channels: list[int]                 # spin channels of each frame

    def without(self, charges: dict[int, float]) -> "FrameShare":
        """The same frames with energies less a constant (eV) for each total charge."""
        return replace(self, frames=less_constants(self.frames, charges))

    def batches(self, size: int, seed: tuple[int, ...]) -> list[list[int]]:
        """The batches of an epoch, of about `size` frames, as lists of places; seed: integers that decide everything.

        Of complexes that count for their interaction energies only, as many are drawn as bring no more frames than there are
        others.
        """
        names = dict.fromkeys(name for name, f in zip(self.groups, self.frames, strict=True) if f.differences_only)
        others = sum(not f.differences_only for f in self.frames)
        most = max(1, others // 3)
        drawn = names if len(names) <= most else set(
            np.random.default_rng(seed).permutation(np.array(list(names), dtype=object))[:most])
        places = [k for k, f in enumerate(self.frames) if not f.differences_only or self.groups[k] in drawn]
        batches = draw([self.orbitals[k] for k in places], [self.channels[k] for k in places], size, seed,
                       [self.groups[k] for k in places])
        return [[places[k] for k in batch] for batch in batches]


@dataclass(eq=False)
class StageWork:
    """What one process works on in a stage, and how its frames fared."""

    stage: Stage                                        # its settings
    data: StageData
    share: FrameShare                                   # the training frames of this process
    batches: int                                        # of an epoch, in the process that has most
    step: TrainingStep
    latest: dict[int, FrameRecord] = field(default_factory=dict)    # the last record of each frame, by its place

    @property
    def frozen(self) -> bool:
        """Whether the stage changes nothing."""
        return self.stage.kind == "frozen"

    @property
    def epochs(self) -> int:
        """How many epochs the stage has."""
        return 1 if self.frozen else self.stage.epochs


def share_of(frames: Sequence[LabelledFrame], losses: Weights, world: World, method: Method) -> FrameShare:
    """This process's part of the frames. Frames whose energies the losses compare belong to one process."""
    names = groups(frames, losses)
    mine = set(world.share(list(dict.fromkeys(names))))
    chosen = [f for f, name in zip(frames, names, strict=True) if name in mine]
    return FrameShare(chosen, [name for name in names if name in mine], orbitals(method, chosen), spin_channels(chosen))


def groups(frames: Sequence[LabelledFrame], losses: Weights) -> list[Hashable]:
    """A name for each frame, the same for frames whose energies the losses compare: complexes and their fragments, or all
    frames of a molecule."""
    if losses.relative:
        return [f.molecule for f in frames]
    return [f.parts_of if losses.interaction and f.parts_of is not None else k for k, f in enumerate(frames)]
