"""From the results of molecules that were solved together to the result of the batch, and what is wrong with it."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor

from nddo_ml.errors import ImplausibleState, InvalidParameter, SCFNotConverged
from nddo_ml.hamiltonian.plausibility import advice
from nddo_ml.hamiltonian.results import Result
from nddo_ml.hamiltonian.state import State, routes
from nddo_ml.methods import Method
from nddo_ml.molecules import Molecules, Surroundings
from nddo_ml.scf.options import SCF

PER_ATOM: tuple[str, ...] = ("forces", "charges", "spin_populations")
PER_SITE: tuple[str, ...] = ("point_charge_forces",)


@dataclass(frozen=True, eq=False)
class Part:
    """The result of molecules that were solved together."""

    index: list[int]                            # which of the batch they are
    state: State
    quantities: Mapping[str, Tensor | None]     # fields of Result by name
    energies: Mapping[str, Tensor]              # parts of the energy by name, eV
    learned: bool                               # see Result

    def valid(self, molecules: Molecules, surroundings: Surroundings) -> "Part":
        """The part with NaN for what did not converge; parts of the energy are NaN only where a molecule was refused."""
        converged, state = self.state.solution.converged, self.state
        quantities, energies = self.quantities, self.energies
        if not bool(converged.all()):
            charges = surroundings.charges
            masks = dict.fromkeys(PER_ATOM, converged.index_select(0, molecules.molecule))
            if charges is not None:
                masks |= dict.fromkeys(PER_SITE, converged.index_select(0, charges.molecule))
            quantities = {name: _masked(values, masks.get(name, converged)) for name, values in quantities.items()}
        if state.refused:
            energies = {name: torch.where(state.accepted, values, torch.nan) for name, values in energies.items()}
        return replace(self, quantities=quantities, energies=energies)


def _masked(values: Tensor | None, valid: Tensor) -> Tensor | None:
    """NaN where the mask of the first axis is not set."""
    return None if values is None else torch.where(valid.view(-1, *[1] * (values.dim() - 1)), values, torch.nan)


def merged(method: Method, molecules: Molecules, surroundings: Surroundings, parts: list[Part]) -> Result:
    """The result of all molecules, in the order of the input."""
    if len(parts) == 1:         # in the order of the input already
        part, solution = parts[0], parts[0].state.solution
        values = cast(dict[str, Any], part.quantities)
        return Result(molecules=molecules, method=method.name, constants=method.constants, energies=part.energies,
                      learned=parts[0].learned, **values,
                      converged=solution.converged, residual=solution.residual,
                      iterations=solution.iterations, route=routes(part.state), states=[part.state],
                      implausible=list(part.state.implausible) or [""] * len(part.index))
    indices = [k for part in parts for k in part.index]
    order, atoms = torch.tensor(indices).argsort(), _places(molecules.sizes, indices)
    places = dict.fromkeys(PER_ATOM, atoms)
    if surroundings.charges is not None:
        places |= dict.fromkeys(PER_SITE, _places(surroundings.charges.sizes(len(molecules)), indices))

    def join(values: list[Any], index: Tensor) -> Any:
        if len(values) == 1 or values[0] is None:
            return values[0]
        return torch.cat(values).index_select(0, index.to(values[0].device))

    quantities = {name: join([part.quantities[name] for part in parts], places.get(name, order))
                  for name in parts[0].quantities}
    energies = {name: join([part.energies[name] for part in parts], order) for name in parts[0].energies}
    scf = {name: join([getattr(part.state.solution, name) for part in parts], order)
           for name in ("converged", "residual", "iterations")}
    route = [words for part in parts for words in routes(part.state)]
    faults = [fault for part in parts for fault in part.state.implausible or [""] * len(part.index)]
    return Result(molecules=molecules, method=method.name, constants=method.constants, energies=energies,
                  learned=parts[0].learned, **quantities, **scf,
                  route=[route[k] for k in order.tolist()], states=[part.state for part in parts],
                  implausible=[faults[k] for k in order.tolist()])


def _places(sizes: list[int], indices: list[int]) -> Int[Tensor, "member"]:
    """Where the members of molecules 0, 1, ... of these sizes lie in the molecules `indices`, one after another."""
    start = torch.tensor([0, *sizes]).cumsum(0).tolist()
    return torch.cat([torch.arange(start[k], start[k + 1]) for k in indices]).argsort()


def reported(result: Result, scf: SCF) -> Result:
    """The result, if nothing about it is to be raised (`scf.raise_unconverged`).

    Raises:
        InvalidParameter: a parameter cannot be used; a warning where nothing is to be raised.
        ImplausibleState: the state is in no molecule.
        SCFNotConverged: no self-consistent state was found.
    """
    raising = len(result.molecules) == 1 if scf.raise_unconverged is None else scf.raise_unconverged
    refuse_faulty(result, raising)
    if raising:
        refuse_unconverged(result, scf)
    return result


def refuse_faulty(result: Result, raising: bool) -> None:
    """Say which molecules were refused for their parameters, and why: InvalidParameter, or a warning."""
    if not any(state.refused for state in result.states):
        return
    bad = {state.index[place]: why for state in result.states for place, why in state.refused.items()}
    count = len(result.molecules)
    text = "; ".join(f"{f'molecule {k}: ' if count > 1 else ''}{bad[k]}" for k in sorted(bad)[:3])
    text = (f"{result.method} cannot calculate {'this molecule' if count == 1 else f'{len(bad)} of {count} molecules'} "
            f"({text}{'; ...' if len(bad) > 3 else ''}). Parameters must be finite and of the published sign and size: put "
            "them right, or load the method anew.")
    if raising:
        raise InvalidParameter(text)
    warnings.warn(text, RuntimeWarning, stacklevel=2)


def refuse_unconverged(result: Result, scf: SCF) -> None:
    """Raise ImplausibleState if any molecule is in no molecule's state, SCFNotConverged if any did not converge."""
    if all(result.converged.tolist()):
        return
    for k, fault in enumerate(result.implausible):
        if fault:
            raise implausible_state(result, k)
    bad = (~result.converged).nonzero()[:, 0].tolist()
    if bad:
        k, count = bad[0], len(result.molecules)
        which = "The SCF" if count == 1 else f"The SCF of {len(bad)} of {count} molecules"
        raise SCFNotConverged(f"{which} did not converge: {'it' if count == 1 else f'molecule {k}'} "
                              f"{_where_it_stopped(result, k, scf)}.")


def _where_it_stopped(result: Result, k: int, scf: SCF) -> str:
    """In words, and what to do about it."""
    state, place, _ = result.find(k)
    trapped, gap = float(state.trapped[place]), float(state.solution.gap[place])
    steps, residual = int(result.iterations[k]), float(result.residual[k])
    if residual > scf.tolerance:
        return (f"stopped after {steps} iterations (limit {scf.max_steps}) at a commutator of {residual:.1e} eV (tolerance "
                f"{scf.tolerance:.0e}). Check geometry, charge and multiplicity, raise max_steps, or try unrestricted=True")
    why = (f"the orbital Hessian has an eigenvalue of {trapped:.2g} eV" if trapped < 0 else
           f"an empty level lies {-gap:.2g} eV below an occupied one")
    return (f"found only a saddle point in {steps} iterations: {why}, so a lower state exists that could not be reached. "
            "Check geometry, charge and multiplicity, or try unrestricted=True")


def implausible_state(result: Result, k: int) -> ImplausibleState:
    """The error for molecule k, whose state is none of a molecule."""
    return ImplausibleState(f"The state found is none of a molecule: {result.implausible[k]}. {advice(result.method)}")
