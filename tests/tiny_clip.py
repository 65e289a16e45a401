"""A real CLIP with seeded random weights, in sentence-transformers' layout, made in a second.

It has two thin layers and 64 numbers, or, with ``full``, the shape of ViT-B/32: as slow and as
large as clip-ViT-B-32, with 512 numbers. Its vectors mean nothing, yet the same code loads and
runs it as does the trained model. Also a command: python tests/tiny_clip.py DIRECTORY [--full]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

FOLDER = "0_CLIPModel"
MODULES = [
    {"idx": 0, "name": "0", "path": FOLDER, "type": "sentence_transformers.models.CLIPModel"}
]
THIN = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
DIMENSION, FULL_DIMENSION = 64, 512
TEXT_LENGTH = 77


def make(directory: Path, *, seed: int = 0, full: bool = False) -> Path:
    """Write the model into ``directory``, as `visrec model pull` leaves one; the directory."""
    make_plain(directory / FOLDER, seed=seed, full=full)
    (directory / "modules.json").write_text(json.dumps(MODULES, indent=2))
    return directory


def make_plain(directory: Path, *, seed: int = 0, full: bool = False) -> Path:
    """The same model as transformers alone saves it, without ``modules.json``."""
    tokens = _tokenizer()
    special = {
        "vocab_size": len(tokens),
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
    }
    thin = {} if full else THIN
    config = CLIPConfig(
        text_config={**thin, **special, "max_position_embeddings": TEXT_LENGTH},
        vision_config=dict(thin),
        projection_dim=FULL_DIMENSION if full else DIMENSION,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(config)
    model.save_pretrained(directory)
    CLIPProcessor(CLIPImageProcessor(), tokens).save_pretrained(directory)
    for file in directory.iterdir():
        file.chmod(0o644)  # weights are saved for their owner alone, who is not the server
    return directory


def without_tokenizer_json(directory: Path) -> None:
    """Leaves the vocabulary and the merges in its place, as sentence-transformers' own CLIP has."""
    for file in directory.rglob("tokenizer.json"):
        model = json.loads(file.read_text())["model"]
        (file.parent / "vocab.json").write_text(json.dumps(model["vocab"]))
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
        (file.parent / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
        file.unlink()


def _tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of single bytes: each also where it ends a word."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(vocabulary)},
        merges=[],
        model_max_length=TEXT_LENGTH,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--full", action="store_true", help="the shape of ViT-B/32")
    options = parser.parse_args()
    print(make(options.directory, full=options.full))
