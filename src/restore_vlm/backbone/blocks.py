"""A frozen transformer block, whoever built it, computed only where it is read."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore_vlm.backbone.tower import ClosedError

SHORT = 256
"""Up to this many tokens plain attention beats the fused CPU kernel, in bf16 by three times and more."""
QUICK = 1.702
"""QuickGELU is x sigmoid(1.702 x) = silu(1.702 x) / 1.702: the factors go into the weights around it."""


class Linear(nn.Module):
    """A linear layer over frozen weights that casts them to the autocast dtype once.

    Autocast casts frozen weights again at every call; the numbers are the same, the time is not.

    Args:
        weight: (out, in).
        bias: (out,) or None.
        gain: Of the weight.
        bias_gain: Of the bias.

    Attributes:
        update: A module (..., in), rows -> (..., out) whose output is added, or None.
    """

    update: Any

    def __init__(self, weight: Any, bias: Any, gain: float = 1.0, bias_gain: float = 1.0) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.gain, self.bias_gain = gain, bias_gain
        self.update = None
        self._cast: tuple[Tensor, Tensor | None] | None = None

    def _apply(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self._cast = None
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Copies make their own casts."""
        return {**self.__dict__, "_cast": None}

    def weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Returns weight and bias in ``dtype`` with their gains; kept while the weight is frozen."""
        if self.weight.requires_grad:
            return self._made(dtype)
        if self._cast is None or self._cast[0].dtype != dtype:
            with torch.inference_mode(False), torch.no_grad():
                self._cast = self._made(dtype)
        return self._cast

    def _made(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        weight = self.weight if self.gain == 1 else self.weight * self.gain
        bias = self.bias if self.bias is None or self.bias_gain == 1 else self.bias * self.bias_gain
        return weight.to(dtype), None if bias is None else bias.to(dtype)

    def forward(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """(..., in) -> (..., out), or only the output ``rows`` of it."""
        device = x.device.type
        mixed = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if mixed else x.dtype
        weight, bias = self.weights(dtype)
        with torch.autocast(device, enabled=False):
            out = F.linear(x.to(dtype), weight[rows], None if bias is None else bias[rows])
        return out if self.update is None else out + self.update(x, rows)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention.

    Args:
        q: (b, h, t, e).
        k: (b, h, s, e).
        v: (b, h, s, e).
        mask: Additive mask, broadcast to (t, s), or None.

    Returns:
        (b, h, t, e).
    """
    if k.shape[2] > SHORT or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (scores if mask is None else scores + mask).softmax(-1) @ v


def causal_mask(queries: int, keys: int, like: Tensor) -> Tensor:
    """(queries, keys) additive mask; the queries are the last of the keys."""
    mask = torch.full((queries, keys), float("-inf"), device=like.device, dtype=like.dtype)
    return mask.triu(keys - queries + 1)


def _is_plain_timm(block: Any) -> bool:
    attn, mlp = type(block.attn).__name__, type(block.mlp).__name__
    return (attn, mlp) == ("Attention", "Mlp") and getattr(block.attn, "gate", None) is None


class Block(nn.Module):
    """A pre-norm residual attention block: x + attn(ln_1(x)), then x + mlp(ln_2(x)).

    Built from open_clip's ``ResidualAttentionBlock`` or timm's ``Block``; the parameters are
    shared with the original, not copied.

    What a method changes inside of a block attaches here, on a copy of the tower: a module added to
    one of its linear layers (:attr:`Linear.update`, as LoRA does), or beside the whole block
    (:attr:`adapter`). Both see only tokens that are computed.

    Args:
        original: The block to wrap.

    Attributes:
        adapter: A module (..., w) -> (..., w) that reads ln_1(x) of the block's input and whose output
            is added to the block's (MMA, Yang et al., CVPR 2024), or None.

    Raises:
        ClosedError: If it is another kind of block.
    """

    adapter: Any

    ln_1: Any
    ls_1: Any
    ln_2: Any
    ls_2: Any
    act: Any
    mlp_norm: Any

    def __init__(self, original: Any) -> None:
        super().__init__()
        kind = type(original).__name__
        attn: Any = getattr(original, "attn", None)
        if kind == "ResidualAttentionBlock" and isinstance(attn, nn.MultiheadAttention):
            self.qkv_linear = Linear(attn.in_proj_weight, attn.in_proj_bias)
            self.heads = attn.num_heads
            self.norms = nn.ModuleList([nn.Identity(), nn.Identity(), nn.Identity()])
            parts = original.ln_1, attn.out_proj, original.ls_1, original.ln_2, original.ls_2
            mlp = original.mlp.c_fc, original.mlp.gelu, nn.Identity(), original.mlp.c_proj
        elif kind == "Block" and _is_plain_timm(original):
            self.qkv_linear = Linear(attn.qkv.weight, attn.qkv.bias)
            self.heads = attn.num_heads
            self.norms = nn.ModuleList([attn.q_norm, attn.k_norm, attn.norm])
            parts = original.norm1, attn.proj, original.ls1, original.norm2, original.ls2
            mlp = original.mlp.fc1, original.mlp.act, original.mlp.norm, original.mlp.fc2
        else:
            raise ClosedError(f"is built of {kind}s")
        self.adapter = None
        self.ln_1, out, self.ls_1, self.ln_2, self.ls_2 = parts
        self.out = Linear(out.weight, out.bias)
        self.act, self.mlp_norm = mlp[1], mlp[2]
        gain = 1.0
        if type(self.act).__name__ == "QuickGELU" and isinstance(self.mlp_norm, nn.Identity):
            self.act, gain = nn.SiLU(), QUICK
        self.mlp_in = Linear(mlp[0].weight, mlp[0].bias, gain, gain)
        self.mlp_out = Linear(mlp[3].weight, mlp[3].bias, 1 / gain)
        self.width = self.out.weight.shape[0]

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., w) -> query, key and value, each (..., h, e)."""
        qkv = self.qkv_linear(self.ln_1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.unbind(-3)
        return self.norms[0](q), self.norms[1](k), v

    def read_qkv(self, x: Tensor, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, with the query of the (..., w) tokens ``read`` only."""
        split = self.qkv_linear.weight.shape[0] // 3
        kv = self.qkv_linear(self.ln_1(x), slice(split, None)).unflatten(-1, (2, self.heads, -1))
        k, v = kv.unbind(-3)
        q = self.qkv_linear(self.ln_1(read), slice(split)).unflatten(-1, (self.heads, -1))
        return self.norms[0](q), self.norms[1](k), v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Adds the (..., h, e) attention output to (..., w) tokens and applies the MLP."""
        beside = None if self.adapter is None else self.adapter(self.ln_1(x))
        x = x + self.ls_1(self.out(self.norms[2](attended.flatten(-2))))
        hidden = self.mlp_norm(self.act(self.mlp_in(self.ln_2(x))))
        x = x + self.ls_2(self.mlp_out(hidden))
        return x if beside is None else x + beside

    def forward(self, x: Tensor, mask: Tensor | None = None, read: Tensor | None = None) -> Tensor:
        """(b, t, w) -> (b, t, w), or (b, r, w) where only the tokens ``read`` (r,) are needed."""
        if read is None:
            q, k, v = self.qkv(x)
        else:
            tokens = x[:, read]
            q, k, v = self.read_qkv(x, tokens)
            x = tokens
            mask = None if mask is None else mask[read]
        attended = attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)
        return self.finish(x, attended.transpose(1, 2))
