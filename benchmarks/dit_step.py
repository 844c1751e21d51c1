"""What a training step of our DiT costs, beside the same step of diffusers' `DiTTransformer2DModel`.

Two models of one size with the same weights, on one batch of noised latents, everything in one process, in turn, the
fastest of each: zero, forward, mean squared error of the eps half, backward, fused AdamW. diffusers' blocks share one
embedding of t and c, as published (its own default has one of each in every block, with more weights).
Ratios: diffusers_over_ours, of seconds (wanted: 0.95 or more: ours is not slower), and largest_difference of the two
predictions before the first step.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from diffusers import DiTTransformer2DModel
from torch import nn

from benchmarks.measure import fastest, report, small_dit
from functions.config.cli import Parser, run_main
from functions.storage.dit_files import to_diffusers
from functions.training.distributed import choose_device

HEAD = 32  # width of an attention head


def theirs_of(ours: nn.Module, image_size: int) -> DiTTransformer2DModel:
    """The same model in diffusers: what its config cannot say is set by hand."""
    hidden, depth = ours.pos_embed.shape[-1], len(ours.blocks)
    theirs = DiTTransformer2DModel(
        num_attention_heads=hidden // HEAD,
        attention_head_dim=HEAD,
        in_channels=4,
        out_channels=8,
        num_layers=depth,
        sample_size=image_size,
        patch_size=ours.patch_size,
        num_embeds_ada_norm=ours.n_classes,
        norm_eps=1e-6,
    )
    theirs.load_state_dict(to_diffusers(ours.state_dict(), depth))
    embedding = theirs.transformer_blocks[0].norm1.emb
    embedding.time_proj.downscale_freq_shift = 0
    embedding.class_embedder.dropout_prob = 0.0
    for block in theirs.transformer_blocks[1:]:
        block.norm1.emb = embedding
    return theirs


def step_of(model: nn.Module, forward, draw: tuple):
    """A function that takes a training step and returns the prediction."""
    x, t, c, eps = draw
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        prediction = forward(x, t, c)
        (prediction[:, :4] - eps).square().mean().backward()
        optimizer.step()
        return prediction.detach()

    return step


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--hidden_size", type=int, default=192)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--image_size", type=int, default=16, help="side of the latents")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    ours = small_dit(device, hidden_size=args.hidden_size, depth=args.depth, image_size=args.image_size)
    theirs = theirs_of(ours, args.image_size).to(device)
    shape, n = (args.batch_size, 4, args.image_size, args.image_size), args.batch_size
    x, eps = torch.randn(2, *shape, device=device)
    draw = x, torch.arange(n, device=device) * 30, torch.arange(n, device=device) % ours.n_classes, eps
    steps = {
        "diffusers": step_of(theirs, lambda x, t, c: theirs(x, timestep=t, class_labels=c).sample, draw),
        "ours": step_of(ours, ours, draw),
    }
    difference = float((steps["ours"]() - steps["diffusers"]()).abs().max())
    best = fastest(steps, dict.fromkeys(steps, args.repeats), device)
    print(", ".join(f"{name} {seconds:.4f} s" for name, seconds in best.items()))
    ratios = {"diffusers_over_ours": best["diffusers"] / best["ours"], "largest_difference": difference}
    report("dit_step", ratios, device, batch=n)


if __name__ == "__main__":
    sys.exit(run_main(main))
