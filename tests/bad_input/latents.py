"""Rows of encode_dataset.py: (words, what the one line says)."""

from __future__ import annotations

import cases

from bad_input.commands import LONG, B, P, U

DIT = f"--config dit.yml --set 'data={{dataset: digits}}' --set 'encoder={{name: latents, vae: {cases.VAE}}}'"
D = f"encode_dataset {DIT} --latents new"

LATENTS = [
    ("encode_dataset", "are required: --config, --latents"),
    (f"encode_dataset {DIT}", "are required: --latents"),
    (f"{D} --lable_to_forget 3", "--lable_to_forget: no such flag"),
    *((f"{D} --batch_size {n}", f"--batch_size: got '{n}'; wanted a whole number from 1") for n in ("0", "x", 10**12)),
    (f"{D} --remain_pool 0 --label_to_forget 0", "data.remain_pool: got 0"),
    (f"{D} --remain_pool 5", "data.remain_pool: has no meaning where nothing is forgotten (--label_to_forget)"),
    (f"{D} --remain_pool 5000 --label_to_forget 0", "data.remain_pool: 5000 is more than the 1351 images that remain"),
    (f"{D} --label_to_forget 10", "label_to_forget: 10 is not a class of digits"),
    (f"{D} --image_size 7", "takes 1-channel images, sides multiples of 2; the data have 1x7x7"),
    (f"{D} --set data.fit=adm", "data.fit: adm is for dataset folder, tinyimagenet, imagenet, this is digits"),
    (f"{D} --set data.crop=1", "data.crop: latents are of whole images"),
    (f"{D} --set data.dataset=shapes", "takes 1-channel images, sides multiples of 2; the data have 3x32x32"),
    (f"{D} --set data.dataset=imagenet --data_path void", "imagenet is not there: "),
    (f"{D} --set data.dataset=imagenet --data_path images", "lack the folder train (data.path)"),
    (f"{D} --set encoder.vae=nowhere", "nowhere: no config.json; wanted the folder of a diffusers AutoencoderKL"),
    (f"{D} --vae nowhere", "nowhere: no config.json; wanted the folder of a diffusers AutoencoderKL"),
    (f"{D} --ckpt_folder nowhere", "nowhere"),
    (f"{D} --ckpt_folder run", "world: the checkpoint has ddpm, the config dit"),
    (f"encode_dataset {DIT} --latents file.txt", "file.txt"),
    (f"encode_dataset {DIT} --latents {LONG}", "--latents: got"),
    (f"encode_dataset {DIT} --latents latents", "latents made with vae aaaaaaaaaaaa..., this run has "),
    # of other scripts
    (f"{U} --latents nowhere", "data.latents: has no meaning where the model sees pixels (encoder.name)"),
    (
        "train --dataset digits --mode pretrain --latents latents",
        "data.latents: a classifier sees the images themselves",
    ),
    *((f"{U} --remain_pool {n}", f"data.remain_pool: got {n}") for n in (0, -3, 10**12)),
    (f"{U} --remain_pool x", "--remain_pool: got 'x'"),
    (f"{U} --remain_pool 100000", "data.remain_pool: 100000 is more than the "),
    (f"{U} --remain_pool 9 --set data.pool_seed=-1", "data.pool_seed: got -1"),
    (f"{P} --remain_pool 5", "data.remain_pool: has no meaning where nothing is forgotten (--label_to_forget)"),
    (f"{P} --set data.fit=centre", "data.fit: got 'centre'"),
    (f"{B} --fit adm --out new", "data.fit: adm is for dataset folder, tinyimagenet, imagenet, this is digits"),
    (f"{B} --fit middel --out new", "--fit: got 'middel'; wanted middle, adm (did you mean 'middle'?)"),
    ("encode_dataset --config digits_pretrain.yml --latents new", "mode encode needs it"),
]
