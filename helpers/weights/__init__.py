"""Trained models as package data: safetensors files with a model card (JSON) each. :mod:`helpers.zoo` loads them."""

__all__: list[str] = []
