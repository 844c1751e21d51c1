"""The commands that rows go on from, and a name of no file."""

# short, should a row be taken after all
P = "train --mode pretrain --config digits_pretrain.yml --set training.n_iters=1 --set training.preview=off"
PC = "train --mode pretrain --config digits_classifier.yml --set training.n_iters=1"
F = "train --mode generate_fisher --config digits_fisher.yml --ckpt_folder run --label_to_forget 0"
U = "train --mode sfron --config digits_sfron.yml --ckpt_folder run --label_to_forget 0 --set training.n_iters=1"
S = "sample --mode sample_fid --config digits_sample.yml --ckpt_folder run"
M = "fim --config digits_fim.yml --ckpt_folder run"
G = "generate_fisher_mask --ckpt_folder run/mask_0"
E = "evaluate classifier"
V = "evaluator samples reference --features classifier:digits_cnn.pth"
C = "classifier_evaluation --sample_path samples --dataset digits --label_of_forgotten_class 0"
B = "save_base_dataset --dataset digits --label_to_forget 0"
T = "train_classifier --dataset digits"
A = "train_vae --dataset digits --out new"
X = "convert"
L = "scripts/u_lira --out new --config digits_classifier.yml --mode finetune"
LONG = "x" * 5000
