"""Gated DeltaNet, one layer, as a small reference: what fast weights are like in today's linear attention.

For each head, with a state S (d_v, d_k) that is 0 at first,

    S_t = alpha_t S_(t-1) (1 - beta_t k_t k_t^T) + beta_t v_t k_t^T        o_t = S_t q_t / sqrt(d_k)

where q, k and v are linear maps of the input, each through a causal convolution over 4 steps and SiLU, q and
k then of length 1; alpha_t = exp(-exp(a) softplus(linear + b)) and beta_t = sigmoid(linear), one for each
head. The output is RMSNorm(o_t) * SiLU(linear), mapped linearly. Source: Yang, Kautz and Hatamizadeh, Gated
Delta Networks, 2025.

Shapes: N samples, T steps, I inputs, W width, M heads, d = W / M values of a head, L steps of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad, silu, softplus

HEADS = 4
KERNEL = 4  # steps of the convolutions
BLOCK = 16  # steps: the fastest of 8 to 64 on a CPU


def recurrence(q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor) -> Tensor:
    """Outputs o (N, M, T, d) step by step, which is the definition, without the factor of q.

    Args:
        q, k, v: (N, M, T, d).
        log_alpha, beta: (N, M, T).
    """
    state, found = torch.zeros_like(v[..., 0, :, None] * k[..., 0, None, :]), []
    for step in range(q.shape[2]):
        key, decay, rate = k[:, :, step], log_alpha[:, :, step, None].exp(), beta[:, :, step, None]
        state = decay[..., None] * state
        recalled = (state @ key[..., None]).squeeze(-1)
        state = state + (rate * (v[:, :, step] - recalled))[..., None] * key[..., None, :]
        found.append((state @ q[:, :, step, :, None]).squeeze(-1))
    return torch.stack(found, 2)


def blockwise(q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor, block: int = BLOCK) -> Tensor:
    """Same as `recurrence`, a block of steps at a time.

    Within a block that begins in the state S, with b_i the product of alpha up to step i,

        S_i = b_i S + sum_(j <= i) (b_i / b_j) u_j k_j^T
        u_i = beta_i (v_i - b_i S k_i - sum_(j < i) (b_i / b_j) (k_j . k_i) u_j)

    The u of all blocks are the solution of one triangular system each, linear in S: u = u_v - u_k S^T.
    """
    steps = q.shape[2]
    extra = -steps % block
    q, k, v = (pad(part, (0, 0, 0, extra)).unflatten(2, (-1, block)) for part in (q, k, v))
    log_alpha, beta = (pad(part, (0, extra)).unflatten(2, (-1, block)) for part in (log_alpha, beta))
    total = log_alpha.cumsum(-1)
    past = torch.ones(block, block, dtype=torch.bool, device=q.device).tril()
    decay = (total[..., :, None] - total[..., None, :]).masked_fill(~past, -torch.inf).exp()
    lower = beta[..., None] * decay * (k @ k.mT)
    mixing = lower.tril(-1) + torch.eye(block, dtype=q.dtype, device=q.device)
    right = torch.cat([beta[..., None] * v, (beta * total.exp())[..., None] * k], -1)
    solved = torch.linalg.solve_triangular(mixing, right, upper=False, unitriangular=True)
    own, carried = solved.split([v.shape[-1], k.shape[-1]], -1)
    within, reach = decay * (q @ k.mT), total.exp()[..., None] * q
    leaving = (total[..., -1:] - total).exp()[..., None] * k
    kept = total[..., -1, None, None].exp()
    state, found = q.new_zeros(*q.shape[:2], k.shape[-1], v.shape[-1]), []  # transposed: (d_k, d_v)
    blocks = (part.unbind(2) for part in (own, carried, reach, within, leaving, kept))
    for own_u, per_state, from_state, from_u, to_state, factor in zip(*blocks, strict=True):
        u = own_u - per_state @ state
        found.append(from_state @ state + from_u @ u)
        state = factor * state + to_state.mT @ u
    return torch.cat(found, 2)[:, :, :steps]


class DeltaNet(nn.Module):
    """A linear map into the layer's width, and the layer on its normalised values, added to them.

    Args:
        input_dim: I.
        width: W, a multiple of the number of heads.
    """

    def __init__(self, input_dim: int, width: int) -> None:
        super().__init__()
        self.output_dim = width
        self.enter = nn.Linear(input_dim, width)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.convolution = nn.Conv1d(3 * width, 3 * width, KERNEL, groups=3 * width, bias=False)
        self.rates = nn.Linear(width, 2 * HEADS, bias=False)
        self.log_decay = nn.Parameter(torch.empty(HEADS).uniform_(1, 16).log())
        steps = torch.empty(HEADS).uniform_(-6.9, -2.3).exp()  # 0.001 to 0.1, evenly in their logarithm
        self.decay_bias = nn.Parameter(steps.expm1().log())  # softplus of it is `steps`
        self.gate = nn.Linear(width, width, bias=False)
        self.head_norm = nn.RMSNorm(width // HEADS, eps=1e-6)
        self.leave = nn.Linear(width, width, bias=False)
        self.forecast = nn.Linear(width, input_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return output (N, T, W) and forecast of the next input (N, T, I)."""
        entered = self.enter(x)
        z = self.norm(entered)
        mixed = silu(self.convolution(pad(self.qkv(z).mT, (KERNEL - 1, 0))).mT)
        q, k, v = mixed.unflatten(-1, (3 * HEADS, -1)).transpose(1, 2).chunk(3, 1)
        decay, beta = self.rates(z).mT.chunk(2, 1)
        log_alpha = -self.log_decay.exp()[:, None] * softplus(decay + self.decay_bias[:, None])
        q = normalize(q, dim=-1) * q.shape[-1] ** -0.5
        found = blockwise(q, normalize(k, dim=-1), v, log_alpha, beta.sigmoid())
        gated = self.head_norm(found.transpose(1, 2)).flatten(2) * silu(self.gate(z))
        output = entered + self.leave(gated)
        return output, self.forecast(output)
