"""`python -m workers.distillation.trainer --inbox DIR`, one process per rank, started by DeepSpeed's launcher.

On a CPU: `DS_ACCELERATOR=cpu deepspeed --num_gpus 2 --module workers.distillation.trainer --inbox DIR`.
When the group is up, `DIR/ready.json` says so.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch

from workers.distillation.trainer.loop import serve
from workers.distillation.trainer.ranks import Ranks


def main() -> None:
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    from workers.distillation.trainer.distilling import Distiller
    from workers.distillation.trainer.engine import join_group

    ranks: Ranks = join_group(options.inbox)
    distiller = Distiller(ranks, options.deepspeed_config)
    if options.base:
        distiller.warm(options.base, options.base_dir, options.encoder)
    inbox: Path = options.inbox
    if ranks.leads:
        inbox.mkdir(parents=True, exist_ok=True)
        partial = inbox / "ready.json.partial"
        partial.write_text(json.dumps({"ranks": ranks.size, "pid": os.getpid()}))
        partial.rename(inbox / "ready.json")
    serve(inbox, ranks, distiller.distil, options.parent)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers.distillation.trainer")
    parser.add_argument("--inbox", type=Path, required=True, help="where run directories appear")
    parser.add_argument("--deepspeed-config", type=Path, default=None, help="default: by device and ranks")
    parser.add_argument("--threads", type=int, default=0, help="torch threads of this rank; 0: torch decides")
    parser.add_argument("--parent", type=int, default=None, help="end when this process is gone")
    parser.add_argument("--base", default=None, help="a base model to load before the first run")
    parser.add_argument("--base-dir", type=Path, default=None)
    parser.add_argument("--encoder", default=None)
    # DeepSpeed's launcher adds --local_rank, or sets LOCAL_RANK; torch reads the environment.
    options, _ = parser.parse_known_args()
    return options


if __name__ == "__main__":
    main()
