"""Write into a file of weights which molecules it was trained on: python tools/trained_on.py TRAINING.toml WEIGHTS.safetensors

For files from before `nddo-ml train` did so itself. The data of the configuration's last stage must be those whose hash the
file holds; then the molecules of all its stages are the ones. `nddo-ml evaluate` tells trained frames from others by them.
"""

import argparse
import json

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from nddo_ml.common.files import write_tensors
from nddo_ml.hamiltonian.weights import TRAINED
from nddo_ml.methods.learned import card
from nddo_ml.training.config import read_config
from nddo_ml.training.dataset import key
from nddo_ml.training.stages import stage_data


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("training")
    parser.add_argument("weights")
    chosen = parser.parse_args()
    config, data = read_config(chosen.training), None
    molecules = set()
    for stage in config.stage:
        data = stage_data(stage, config.data)
        molecules |= {key(f.molecule) for f in data.train}
    said = card(chosen.weights).data
    if data.hash != said:
        raise SystemExit(f"{chosen.weights} was trained on other data ({said}) than those of the last stage of "
                         f"{chosen.training} ({data.hash}).")
    with safe_open(chosen.weights, "pt") as archive:
        said = archive.metadata()
    said["split"] = json.dumps({"validation": config.data.validation, "large": config.data.large})
    tensors = {**load_file(chosen.weights), TRAINED: torch.tensor(sorted(molecules), dtype=torch.int64)}
    write_tensors(chosen.weights, tensors, said)
    print(f"{chosen.weights}: trained on {len(molecules)} molecules")


if __name__ == "__main__":
    main()
