"""What `torch.compile` makes of a layer in one graph with its own compiler, which takes a minute or more."""

from __future__ import annotations

import torch

from dream import DREAM, DREAMStack

CLOSE = 1e-5


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Compare a layer and a stack with what inductor compiles of them: outputs, and gradients in training."""
    figures = {}
    for name, make in (
        ("layer", lambda: DREAM(24, 64, 16)),
        ("reference backend", lambda: DREAM(3, 5, 2, backend="reference")),
        ("stack", lambda: DREAMStack(4, [8, 6], 2)),
    ):
        torch.manual_seed(0)
        layer = make()
        x = torch.randn(2, 3, (layer.get_config() if name != "stack" else layer.get_config()[0]).input_dim)
        for training in (False, True):
            torch._dynamo.reset()
            twin = make().train(training)
            twin.load_state_dict(layer.state_dict())
            compiled = torch.compile(layer.train(training), fullgraph=True)
            pairs = [(compiled(x)[0], twin(x)[0])]
            if training:
                for output in pairs[0]:
                    output.square().sum().backward()
                both = zip(layer.parameters(), twin.parameters(), strict=True)
                pairs += [(one.grad, other.grad) for one, other in both if other.grad is not None]
                assert len(pairs) > 10
            found = max(float((one - other).detach().abs().max()) for one, other in pairs)
            print(f"{name}, {'training' if training else 'inference'}: {found}")  # noqa: T201
            assert found < CLOSE, found
            figures[f"{name}, {'training' if training else 'inference'}"] = found
    return figures
