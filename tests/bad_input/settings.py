"""Rows of configs, overlays and --set."""

from __future__ import annotations

from bad_input.commands import LONG, PC, P, U

# ---- configs, overlays, --set

SETTINGS = [
    *(
        (f"{P} --set '{setting}'", f"{setting.split('=')[0]}")
        for setting in (
            *("training.n_iter=5", "trainin.n_iters=5", "training=5", "training=", "training.n_iters=many", "training.n_iters=1.5"),
            *("training.n_iters=0", "training.ema=1", "training.keep=0", "training.precision=fp16", "training.preview=0"),
            *("training.log_freq=-1", "training.accumulate=0", "training.ema_rate=1.0", "training.batch_size=[8]"),
            *("model.ch=32768", "model.ch=0", "model.ch=2", "model.ch_mult=[]", "model.ch_mult=[0]", "model.ch_mult=5"),
            *("model.attn_resolutions=[0]", "model.attn_resolutions=4", "model.dropout=2", "model.chh=3", "model=[unet]"),
            *("model.num_res_blocks=0", "model.num_res_blocks=100000", "model.name=unett", "model.name=[1]", "model.name=5"),
            *("diffusion.timesteps=1", "diffusion.timesteps=10000000", "diffusion.beta_start=0", "diffusion.beta_end=1.5"),
            *("diffusion.beta_end=1e-9", "diffusion.p_uncond=2", "diffusion.reduction=max", "diffusion=5", "diffusion="),
            *("data.image_size=0", "data.image_size=-8", "data.image_size=1000000", "data.crop=1000000", "data.crop=-1"),
            *("data.dataset=digit", "data.dataset=5", "data.n_workers=-1", "data.n_workers=100000", "data.val_fraction=1.0"),
            *("data.indices=nowhere.json", "data.path=5", "data.flip=maybe", "data.image_size=7"),
            *("optim.lr=0", "optim.lr=-1", "optim.lr=.nan", "optim.lr=.inf", "optim.lr=1e300", "optim.lr=fast", "optim.lr=2020-01-01"),
            *("optim.name=adagrad", "optim.grad_clip=0", "optim.momentum=2", "optim.lr_schedule=linear", "optim.decreasing_lr=[0]"),
            *("optim.sparse_moments=true", "optim.sparse_moments=1"),
            *("seeds.seed=-1", "seeds.seed=1180591620717411303424", "seeds.seed=x", "seeds.init=-1", "seeds.seed=9" + "9" * 30),
            *("device=foo", "device=meta", "device=cuda:99", "device=5", "world=gan", "world={}", "world=5", "results=5", "results=\"\""),
            *("forget.label=0", "unlearn.los=1", "unlearn=5", "sa=5", "sa.lmda=1", "init_weights=best", "encoder.name=vae", "nothing=1"),
            *("save_dir=\"\"", "ckpt_folder=5", "fisher=5", "fisher.draws=0", "saliency.shares=[0]", "fim.n_chunks=0", "sampling.eta=-1"),
        )
    ),
    *(
        (f"{PC} --set '{setting}'", wanted)
        for setting, wanted in (
            *(("model={name: cnn, width: 0}", "model.width: got 0"), ("model={name: cnn, width: 100000}", "model.width: got 100000")),
            *(("model={name: cnn, arch: x}", "arch"), ("model={name: cifar, arch: resnet99}", "arch")),
            *(("model={name: timm, arch: nothing_at_all}", "nothing_at_all"), ("model={name: torchvision, arch: resnet99}", "resnet99")),
            *(("model={name: timm, arch: vit_tiny_patch16_224}", "takes no images of 8x8 (Input height (8)"), ("model={name: unet}", "model")),
            *(("model={name: timm, arch: vit_tiny_patch16_224, options: {depth: -1}}", "options"),),
            *(("model={name: timm, arch: vit_tiny_patch16_224, options: {nothing: 1}}", "options"),),
            *(("model={name: torchvision, arch: resnet18, resize: -1}", "model.resize: got -1"), ("diffusion={timesteps: 10}", "diffusion")),
        )
    ),
    *(
        (f"{U} --set '{setting}'", setting.split("=")[0])
        for setting in (
            *("unlearn.lambd=-1", "unlearn.loss=kl", "unlearn.forget_every=0", "unlearn.mask_mode=soft", "unlearn.forget_clip=0"),
            *("unlearn.bn_mode=off", "unlearn.dropuot=true", "unlearn.mask_path=\"\"", "unlearn.ratio=0.1"),
        )
    ),
    (f"{U} --set optim.sparse_moments=true", "unlearn.mask_mode strict, and a mode whose every step is masked"),
    (f"{P} --set training.n_iters", "wanted section.key=value"),
    (f"{P} --set =3", "--set =3"),
    (f"{P} --set training..n_iters=3", "unknown key"),
    (f"{P} --set 'optim.lr=[1'", "not valid YAML"),
    (f"{P} --set 'optim={{lr: 1, lr: 2}}'", "'lr' stands here and in line 1"),
    (f"{P} --set optim.lr=!!python/object/apply:os.getcwd", "could not determine a constructor"),
    (f"{P} --set 'optim.lr=!!int x'", "'x' cannot be read as int"),
    (f"{P} --set seeds.seed={'9' * 5000}", "cannot be read as int"),
    (f"{P} --set {LONG}=1", "unknown key"),
    *((f"train --mode pretrain --config {name}", name) for name in (
        *("empty", "list.yml", "duplicate.yml", "deep.yml", "latin.yml", "utf16.yml", "nul.yml", "documents.yml", "itself.yml"),
        *("laughs.yml", "tags.yml", "number.yml", "date.yml", "modes.yml", "modes2.yml", "modes3.yml", "world.yml", "key.yml"),
        *("base1.yml", "base2.yml", "base3.yml", "base4.yml", "huge.yml", "word.yml", "control.yml", "evil.pt", "cut.safetensors"),
    )),
    *((f"{P} --overlay {name}", name) for name in ("list.yml", "over1.yml", "over2.yml", "over3.yml", "duplicate.yml", "deep.yml")),
]  # fmt: skip
