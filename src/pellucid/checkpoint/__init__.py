"""Checkpoints: a folder or file → (config, name → Array), and back."""

from pellucid.checkpoint.files.release import release
from pellucid.checkpoint.files.safetensors import SafetensorsFile
from pellucid.checkpoint.files.safetensors_write import save_safetensors
from pellucid.checkpoint.open import Checkpoint, open_checkpoint, open_config
from pellucid.checkpoint.save import save_checkpoint

__all__ = [
    "Checkpoint",
    "SafetensorsFile",
    "open_checkpoint",
    "open_config",
    "release",
    "save_checkpoint",
    "save_safetensors",
]
