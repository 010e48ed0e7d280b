"""A large embedding and head sharded by FSDP2 around a DREAMStack: the steps of two processes are those of
one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
PROGRAM = """
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from dream import DREAMStack


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(1000, 16)
        self.stack = DREAMStack(16, [64, 64], rank=4)
        self.head = nn.Linear(64, 1000)

    def forward(self, tokens):
        return self.head(self.stack(self.embedding(tokens))[0])


def train(model, tokens, targets, world):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    own = [p for p in model.stack.parameters() if p.requires_grad]
    priors = [b for name, b in model.stack.named_buffers() if name.endswith("error_var_prior")]
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten()).backward()
        if world > 1:
            for tensor in (*(p.grad for p in own), *priors):
                dist.all_reduce(tensor)
                tensor /= world
        optimizer.step()


torch.manual_seed(0)
alone = Model().double()
torch.manual_seed(0)
model = Model().double()
tokens, targets = torch.randint(1000, (2, 4, 20), generator=torch.Generator().manual_seed(1))
train(alone, tokens, targets, world=1)

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
mesh = init_device_mesh("cpu", (world,))
for part in (model.embedding, model.head):
    fully_shard(part, mesh=mesh)
fully_shard(model, mesh=mesh, ignored_params=set(model.stack.parameters()))
train(model, tokens[rank::world], targets[rank::world], world)

assert model.embedding.weight.to_local().shape == (500, 16)
for (name, one), many in zip(alone.state_dict().items(), model.state_dict().values()):
    whole = many.full_tensor() if hasattr(many, "full_tensor") else many
    torch.testing.assert_close(whole, one, rtol=0, atol=1e-9, msg=name)
Path(f"agrees-{rank}").touch()
dist.destroy_process_group()
os._exit(0)  # gloo's threads may outlive the interpreter, which then aborts
"""


def test_a_sharded_embedding_takes_the_steps_of_a_whole_one(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    run = [
        "-m",
        "torch.distributed.run",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
        "--nproc-per-node=2",
    ]
    command = [sys.executable, *run, "program.py"]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("agrees-*")) == ["agrees-0", "agrees-1"]
