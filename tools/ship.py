"""Put a trained policy into the package as the shipped one: bfloat16 weights and the pipeline's files."""

import argparse
from pathlib import Path

import torch

from ideomotor.core.files import atomic_folder
from ideomotor.model.weights import WEIGHTS, save_network
from ideomotor.policy.local import SHIPPED, load_policy

LIMIT_MB = 20.0

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", required=True, help="a policy folder or a run folder")
    policy = load_policy(parser.parse_args().policy)
    with atomic_folder(SHIPPED) as folder:
        save_network(policy.network, Path(folder), torch.bfloat16)
        policy.pipeline.save(Path(folder))
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        assert size <= LIMIT_MB, f"{size:.1f} MB"
    print(
        f"{SHIPPED}: {size:.1f} MB, policy {load_policy('shipped').policy_id}, weights {(SHIPPED / WEIGHTS).stat().st_size} bytes"
    )
