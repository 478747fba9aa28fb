"""How JoeyNMT 2.3.0 and OpenNMT-py 3.5.1 train and search, each in an environment of its own.

Called by translation.py: `install` makes the environments; run as a program, with the environment's
Python, it trains and searches as a JSON file says and prints what it took. Both programs run as
they are, with what a present torch asks for: OpenNMT-py's checkpoints are loaded with their Python
objects (``weights_only=False``), and JoeyNMT's schedule loses the option ``verbose``, which torch
has dropped.
"""

import functools
import json
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Without what they ask for but this does not need, and without their bounds on torch.
PACKAGES = {
    "joeynmt": (
        ["joeynmt==2.3.0", "sacremoses", "sentencepiece", "subword-nmt"],
        ["tensorboard", "absl-py", "grpcio", "wrapt"],
    ),
    "opennmt": (
        ["OpenNMT-py==3.5.1", "pyonmttok<2", "pyahocorasick", "rapidfuzz", "ctranslate2<5"],
        ["configargparse", "fasttext-wheel", "waitress", "tensorboard", "absl-py", "grpcio", "six"],
    ),
}
WITH_DEPENDENCIES = {"joeynmt": [], "opennmt": ["spacy"]}


def python_of(folder: Path, peer: str) -> Path:
    return folder / peer / "bin" / "python"


def install(folder: Path) -> None:
    """An environment for each peer, which borrows torch and what else this interpreter has."""
    ours = sysconfig.get_paths()["purelib"]
    for peer, lists in PACKAGES.items():
        python = python_of(folder, peer)
        if not python.exists():
            subprocess.run(
                [sys.executable, "-m", "venv", "--without-pip", folder / peer], check=True
            )
        query = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
        site = subprocess.run([python, "-c", query], check=True, capture_output=True, text=True)
        (Path(site.stdout.strip()) / "borrowed.pth").write_text(ours + "\n")
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", *lists[0], *lists[1]], check=True)
        if WITH_DEPENDENCIES[peer]:
            subprocess.run([*pip, *WITH_DEPENDENCIES[peer]], check=True)


class Clock:
    """CPU seconds and target tokens from the end of the warm-up to the last step's begin."""

    def __init__(self, num_warm: int) -> None:
        self.num_warm, self.step, self.tokens = num_warm, 0, 0
        self.begin = self.end = 0.0
        self.counted = 0

    def before_step(self, num_tokens: int) -> None:
        now = time.process_time()
        if self.step == self.num_warm:
            self.begin, self.tokens = now, 0
        self.end, self.counted = now, self.tokens
        self.tokens += num_tokens
        self.step += 1

    def result(self) -> dict[str, float]:
        return {"num": self.counted, "seconds": self.end - self.begin}


def train_joeynmt(task: SimpleNamespace) -> dict[str, Any]:
    from joeynmt import builders, training
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    # It validates never, so the learning rate stays what it is.
    builders.ReduceLROnPlateau = lambda optimizer, verbose, **rest: ReduceLROnPlateau(
        optimizer, **rest
    )
    clock = Clock(task.num_warm)
    original = training.TrainManager._train_step

    def timed(self: Any, batch: Any) -> Any:
        clock.before_step(int(batch.ntokens))
        return original(self, batch)

    training.TrainManager._train_step = timed
    training.train(rank=0, world_size=None, cfg=joeynmt_config(task), skip_test=True)
    return clock.result()


def joeynmt_config(task: SimpleNamespace) -> dict[str, Any]:
    folder, size = Path(task.folder), task.size
    model = Path(task.model)
    model.mkdir(parents=True, exist_ok=True)
    side = {"max_length": 60, "lowercase": False, "level": "word"}
    embeddings = {"embedding_dim": size, "dropout": 0.0}
    layer = {"type": "recurrent", "rnn_type": "gru", "embeddings": embeddings, "dropout": 0.0,
             "hidden_size": size, "num_layers": 1}  # fmt: skip
    return {
        "name": "speed", "joeynmt_version": "2.3.0", "model_dir": str(model), "use_cuda": False,
        "fp16": False, "random_seed": 1,
        "data": {
            "train": str(folder / "train"), "dev": str(folder / "test"),
            "test": str(folder / "test"), "dataset_type": "plain",
            "src": {"lang": "src", "voc_file": str(folder / "vocabulary.src"), **side},
            "trg": {"lang": "tgt", "voc_file": str(folder / "vocabulary.tgt"), **side},
        },
        "testing": {
            "beam_size": task.beam, "beam_alpha": 0.75, "batch_size": 64, "batch_type": "sentence",
            "eval_metrics": [],
        },
        "training": {
            "optimizer": "adam", "learning_rate": 0.001, "batch_size": 64, "batch_type": "sentence",
            "scheduling": "plateau", "normalization": "tokens",
            "loss": "crossentropy", "epochs": 10_000,
            "updates": task.num_steps, "logging_freq": 1_000, "validation_freq": 1_000_000,
            "clip_grad_norm": 1.0, "early_stopping_metric": "loss", "overwrite": True,
            "keep_best_ckpts": 1, "shuffle": True,
        },
        "model": {
            "encoder": {**layer, "bidirectional": True},
            "decoder": {**layer, "input_feeding": task.input_feeding, "attention": "luong",
                        "init_hidden": "bridge", "hidden_dropout": 0.0},
        },
    }  # fmt: skip


def search_joeynmt(task: SimpleNamespace, longest: int, fixed: bool) -> dict[str, Any]:
    from joeynmt import prediction
    from joeynmt.config import parse_global_args

    config = joeynmt_config(task)
    config["testing"] |= {
        "load_model": str(Path(task.model) / "latest.ckpt"),
        # Its own limit, by the batch's longest source, unless the words are counted.
        "max_output_length": longest if fixed else -1,
    }
    if fixed:
        prediction.search = functools.partial(prediction.search, min_output_length=longest)
    arguments = parse_global_args(config, rank=0, mode="test")
    model, _, _, test = prediction.prepare(arguments, rank=0, mode="test")
    begin = time.process_time()
    found = prediction.predict(
        model=model, data=test, compute_loss=False, device=arguments.device, rank=0, n_gpu=0,
        normalization="none", args=arguments.test, autocast=arguments.autocast,
    )  # fmt: skip
    seconds = time.process_time() - begin
    outputs = [" ".join(word for word in words if word != "</s>") for words in found[3]]
    return {"num": len(outputs), "seconds": seconds, "outputs": outputs}


def train_opennmt(task: SimpleNamespace) -> dict[str, Any]:
    from onmt import trainer
    from onmt.bin import train

    clock = Clock(task.num_warm)
    original = trainer.Trainer._gradient_accumulation

    def timed(self: Any, batches: Any, *others: Any) -> Any:
        pad = self.train_loss.padding_idx
        clock.before_step(sum(int(each["tgt"][:, 1:, 0].ne(pad).sum()) for each in batches))
        return original(self, batches, *others)

    trainer.Trainer._gradient_accumulation = timed
    folder = Path(task.folder)
    config = folder / "opennmt.yaml"
    config.write_text(
        json.dumps(
            {"data": {"train": {"path_src": str(folder / "train.src"), "transforms": [],
                                "path_tgt": str(folder / "train.tgt"), "weight": 1}},
             "save_data": str(folder / "opennmt")}
        )
    )  # fmt: skip
    options = {
        "config": config, "src_vocab": folder / "vocabulary.src",
        "tgt_vocab": folder / "vocabulary.tgt", "vocab_size_multiple": 1,
        "src_vocab_size": 10**6, "tgt_vocab_size": 10**6, "model_dtype": "fp32",
        "encoder_type": "brnn", "decoder_type": "rnn", "rnn_type": "GRU", "layers": 1,
        "hidden_size": task.size, "word_vec_size": task.size, "input_feed": int(task.input_feeding),
        "global_attention": "general", "dropout": "0.0", "attention_dropout": "0.0",
        "optim": "adam", "learning_rate": 0.001, "max_grad_norm": 1.0, "batch_size": 64,
        "batch_type": "sents", "normalization": "tokens", "train_steps": task.num_steps,
        "valid_steps": 10**6, "save_checkpoint_steps": 10**6, "report_every": 10**6,
        "num_workers": 0, "seed": 1, "save_model": task.model,
    }  # fmt: skip
    sys.argv = ["train", *(part for name, value in options.items()
                           for part in (f"--{name}", str(value)))]  # fmt: skip
    train.main()
    return clock.result()


def search_opennmt(task: SimpleNamespace, longest: int, fixed: bool) -> dict[str, Any]:
    import torch
    from onmt.bin import translate
    from onmt.inference_engine import InferenceEnginePY
    from onmt.utils.parse import ArgumentParser

    torch.load = functools.partial(torch.load, weights_only=False)
    folder = Path(task.folder)
    options = {
        "model": f"{task.model}_step_{task.num_steps}.pt", "src": folder / "test.src",
        "output": folder / "opennmt.out", "beam_size": task.beam, "batch_size": 64,
        "batch_type": "sents", "max_length": longest, "length_penalty": "avg",
        "min_length": longest if fixed else 0, **({"max_length_ratio": 0} if fixed else {}),
    }  # fmt: skip
    sys.argv = ["translate", *(part for name, value in options.items()
                               for part in (f"--{name}", str(value)))]  # fmt: skip
    asked = translate._get_parser().parse_args()
    ArgumentParser.validate_translate_opts(asked)
    ArgumentParser._get_all_transform_translate(asked)
    ArgumentParser._validate_transforms_opts(asked)
    ArgumentParser.validate_translate_opts_dynamic(asked)
    engine = InferenceEnginePY(asked)
    begin = time.process_time()
    _, found = engine.infer_file()
    seconds = time.process_time() - begin
    return {"num": len(found), "seconds": seconds, "outputs": [best[0] for best in found]}


TRAIN = {"joeynmt": train_joeynmt, "opennmt": train_opennmt}
SEARCH = {"joeynmt": search_joeynmt, "opennmt": search_opennmt}


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    asked = SimpleNamespace(**json.loads(Path(sys.argv[1]).read_text()))
    os.chdir(asked.folder)
    if asked.searches:
        found = {name: SEARCH[asked.peer](asked, **each) for name, each in asked.searches.items()}
    else:
        found = {"training": TRAIN[asked.peer](asked)}
    print(json.dumps(found))
