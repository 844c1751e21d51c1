"""The exact Fisher of a DiT: every weight has a rule, and the loop over examples gives the same."""

import torch

from functions.curvature import fisher, layer_gradients
from functions.tasks import Denoising, linear_alpha_bar
from models.dit import DiT
from models.encoders import Pixels


def test_a_dit_equals_the_loop(monkeypatch):
    """In float64: linear layers over tokens and over one embedding, patches, label rows; the null label among them."""
    monkeypatch.setitem(layer_gradients.CHUNK, "cpu", 4096)  # several chunks
    torch.manual_seed(0)
    model = DiT(2, 16, 2, 2, in_channels=2, image_size=4, n_classes=3).double()
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.3)
    task = Denoising(linear_alpha_bar(100, 1e-4, 0.02), Pixels(), 3, 0.1, "mean", learned_variance=True)
    draw = task.draw(torch.rand(5, 2, 4, 4, dtype=torch.float64), torch.tensor([0, 2, 2, 1, 3]))
    ours, loop = (f(model, task.losses, [draw]) for f in (fisher.per_example, fisher.reference))
    assert ours.keys() == loop.keys() == {n for n, _ in model.named_parameters()} - {"pos_embed"}
    for n in loop:
        assert loop[n].max() > 0
        torch.testing.assert_close(ours[n], loop[n], rtol=1e-9, atol=1e-12 * float(loop[n].max()))
