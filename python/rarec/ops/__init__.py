"""Prefix attention: the operation, its implementations, and the choice between them."""

from rarec.ops.attention import prefix_attention
from rarec.ops.choice import IMPLEMENTATION_VARIABLE, IMPLEMENTATIONS, Case, Choice, choose
from rarec.ops.packing import Packed
from rarec.ops.reference import prefix_attention_reference
from rarec.ops.self_test import SelfTestCase, run_self_test

__all__ = [
    "IMPLEMENTATIONS",
    "IMPLEMENTATION_VARIABLE",
    "Case",
    "Choice",
    "Packed",
    "SelfTestCase",
    "choose",
    "prefix_attention",
    "prefix_attention_reference",
    "run_self_test",
]
