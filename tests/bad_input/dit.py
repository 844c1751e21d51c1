"""Rows of published DiTs: files and folders to start from, and what is exported."""

from __future__ import annotations

# latents of digits by the toy autoencoder
TOY = "--config dit.yml --set 'data={dataset: digits}' --set 'encoder={name: latents, vae: vae}'"
MODEL = "--set 'model={name: dit, patch_size: 2, hidden_size: 48, depth: 3, num_heads: 4}'"
D = f"train --mode finetune {TOY} --label_to_forget 0 --set training.n_iters=1 --set training.preview=off"
FROM = f"convert %s {TOY} {MODEL} --out new"
URL = "--ckpt: a run folder, or a published file such as https://"
DAMAGED = {
    "nowhere.pt": "nowhere.pt: no such file",
    "file.txt": "damaged or not a file of torch.save",
    "empty": "empty: damaged or not a file of torch.save",
    "evil.pt": "evil.pt: refused, nothing of it was run: it calls",
    "cut.pth": "cut.pth: damaged or not a file of torch.save",
    "digits_cnn.pth": "tensors that are no DiT's: lacks x_embedder.proj.weight",
    "cut.safetensors": "cut.safetensors: damaged or not a safetensors file",
    "dit_cut.pt": "dit_cut.pt: damaged or not a file of torch.save",
    "dit_evil.pt": "dit_evil.pt: refused, nothing of it was run: it calls",
    "dit_nan.pt": "values are NaN or infinite, in final_layer.linear.bias",
    "dit_less.pt": "1 tensors do not fit the model: blocks.2.mlp.fc2.bias",
    "dit_changed.pt": "dit_changed.pt: damaged: its sha256 is not the one in dit_changed.pt.sha256",
    "no_weights": "no_weights: lacks diffusion_pytorch_model.safetensors",
    "vae": "vae/config.json: is not of a DiTTransformer2DModel",
}
DIT = [
    (D, f"ckpt_folder: missing, and mode finetune needs it; set {URL}"),
    (f"train --mode generate_fisher {TOY} --label_to_forget 0", f"ckpt_folder: missing, and mode generate_fisher needs it; set {URL}"),
    (f"sample --mode sample_fid {TOY}", f"set {URL}"),
    (f"fim {TOY}", f"set {URL}"),
    *((f"{D} --ckpt {name} {MODEL}", line) for name, line in DAMAGED.items()),
    *((FROM % name, line) for name, line in DAMAGED.items()),
    (f"{D} --ckpt samples", "samples: holds no checkpoint"),
    (FROM % "samples", "samples: no DiT there; wanted a published file"),
    (f"{D} --ckpt dit.pt", "dit.pt: a DiT of width 48 and depth 3, patches of 2, for 8x8 images, 10 classes, 2 channels: shapes do not say how many heads"),
    (f"{D} --ckpt dit.pt --set 'model={{name: dit, size: B, patch_size: 4}}'", "and fits nothing else; asked for: DiT-B/4 for 8x8 images, 10 classes, 2 channels (hidden_size 48 and not 768"),
    (f"{D} --ckpt dit.pt {MODEL} --set data.image_size=16", "image_size 4 and not 8; --image_size"),
    (f"{D} --ckpt dit.pt {MODEL} --set data.image_size=9", "vae: takes 1-channel images, sides multiples of 2"),
    (f"{D} --ckpt dit.pt {MODEL} --set diffusion.learned_variance=false", "learned_variance True and not False; diffusion.learned_variance"),
    (f"{D} --ckpt dit.pt {MODEL} --set data.dataset=shapes", "vae: takes 1-channel images"),
    (f"{D} --ckpt dit.pt {MODEL} --set encoder=null", "in_channels 2 and not 1"),
    (f"{D} --ckpt dit.pt --ckpt_folder run {MODEL}", "--ckpt and --ckpt_folder: two names of one flag"),
    (f"sample --mode sample_fid {TOY} --ckpt dit.pt", "shapes do not say how many heads"),
    (f"fim {TOY} --ckpt dit_nan.pt {MODEL}", "values are NaN or infinite"),
    ("train --mode finetune --ckpt dit.pt --label_to_forget 0", "dit.pt could be a DiT's: --config dit_xl2_imagenet.yml"),
    ("convert run --export dit --out new.pt", "run: a model named unet; --export dit is for DiTs"),
    ("convert run --export weights --weights both --out new.pth", "--weights both: --export weights holds one set"),
    ("convert nowhere --export dit --out new.pt", "nowhere: no such folder"),
]  # fmt: skip
