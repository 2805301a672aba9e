"""What was asked: one schema, layers that each know their place, and their resolution."""

from nbaccel.config.layers import Layer, Setting, call_layer, default_layer, environment_layer
from nbaccel.config.resolve import Resolved, resolve
from nbaccel.config.schema import RunConfig

__all__ = ["Layer", "Resolved", "RunConfig", "Setting", "call_layer", "default_layer", "environment_layer", "resolve"]
