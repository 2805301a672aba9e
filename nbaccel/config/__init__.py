"""What was asked: one schema, layers that each know their place, and their resolution."""

from nbaccel.config.explain import Explanation, Table, table
from nbaccel.config.layers import LAYERS, Layer, Setting, call_layer, default_layer, environment_layer, plain_value
from nbaccel.config.notebook import NOTEBOOK
from nbaccel.config.resolve import Resolved, resolve
from nbaccel.config.schema import COMMON, KEYS, SECTIONS, SHORTHANDS, Key, RunConfig

__all__ = [
    "COMMON",
    "KEYS",
    "LAYERS",
    "NOTEBOOK",
    "SECTIONS",
    "SHORTHANDS",
    "Explanation",
    "Key",
    "Layer",
    "Resolved",
    "RunConfig",
    "Setting",
    "Table",
    "call_layer",
    "default_layer",
    "environment_layer",
    "plain_value",
    "resolve",
    "table",
]
